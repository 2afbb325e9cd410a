// nll = (SSE / gamma + cols * log(2 pi gamma)) / 2 and SSE = |x - x_hat|^2 per row, and their gradients; with the batch
// mean of nll + beta kl and its gradients, for gaussian_elbo, in the same pass.
#pragma once

#include "memory.cuh"
#include "sums.cuh"

#include <cmath>

namespace manifold_core::cuda {

// 1 / gamma, once for the block: in double, where it does not overflow before it is multiplied.
__device__ inline double inverse_gamma(const Scalar& log_gamma) {
  __shared__ double value;
  if (threadIdx.x == 0) value = exp(-load_scalar(log_gamma));
  __syncthreads();
  return value;
}

// The part of a block in a sum of one number a thread.
__device__ inline void leave_part(const BatchSum& s, int which, double v) {
  const double sum = sum_over_threads(v, kThreads);
  if (threadIdx.x == 0) s.parts[blockIdx.x * s.width + which] = sum;
}

template <class C, class S>
__global__ void __launch_bounds__(kThreads, sizeof(C) == 4 ? 4 : 1) gaussian_nll(const GaussianNll a) {
  const int rows_a_block = kThreads / a.threads_a_row;
  const int place = threadIdx.x / a.threads_a_row, lane = threadIdx.x % a.threads_a_row;
  const double inv_gamma = inverse_gamma(a.log_gamma), constant = a.cols * (kLog2Pi + load_scalar(a.log_gamma));
  const C scale = static_cast<C>(inv_gamma / a.rows);  // of the gradient of the batch mean
  double loss = 0, grad_log_gamma = 0;
  for (int64_t first = int64_t{blockIdx.x} * rows_a_block; first < a.rows; first += int64_t{gridDim.x} * rows_a_block) {
    const int64_t row = first + place;
    double sum = 0;
#pragma unroll 2
    for (int64_t col = 4 * lane; col < a.cols && row < a.rows; col += 4 * a.threads_a_row) {
      const Numbers<C> x_hat = load<C, S>(a.x_hat, row, col, a.cols), x = load<C, S>(a.x, row, col, a.cols);
      Numbers<C> difference, square;
#pragma unroll
      for (int k = 0; k < 4; ++k) {
        difference[k] = x_hat[k] - x[k];
        square[k] = difference[k] * difference[k];
        difference[k] *= scale;
      }
      if (a.grad_x_hat.data != nullptr) store<C, S>(a.grad_x_hat, row, col, a.cols, difference);
      sum += static_cast<double>((square[0] + square[1]) + (square[2] + square[3]));  // 0 behind the last column
    }
    sum = sum_over_threads(sum, a.threads_a_row);
    if (lane == 0 && row < a.rows) {
      const double nll = 0.5 * (sum * inv_gamma + constant);
      store_one<C>(a.squared_error, row, 0, static_cast<C>(sum));
      store_one<C>(a.nll, row, 0, static_cast<C>(nll));
      if (a.sum.parts != nullptr) {
        loss += nll + a.beta * load_one<double>(a.kl, row, 0);
        grad_log_gamma += 0.5 * (a.cols - sum * inv_gamma);
      }
    }
  }
  if (a.sum.parts == nullptr) return;
  leave_part(a.sum, 0, loss);
  leave_part(a.sum, 1, grad_log_gamma);
  sum_over_blocks(a.sum, [&](int64_t which, double sum) {
    if (which == 0) {
      store_scalar(a.loss, sum / a.rows);  // of no samples NaN, as every mean
      store_scalar(a.grad_kl, a.beta / a.rows);
    } else {
      store_scalar(a.grad_log_gamma, a.rows > 0 ? sum / a.rows : 0.0);
    }
  });
}

template <class C, class S>
__global__ void __launch_bounds__(kThreads, sizeof(C) == 4 ? 4 : 1) gaussian_nll_backward(const GaussianNllBackward a) {
  const int rows_a_block = kThreads / a.threads_a_row;
  const int place = threadIdx.x / a.threads_a_row, lane = threadIdx.x % a.threads_a_row;
  const double inv_gamma = inverse_gamma(a.log_gamma);
  double grad_log_gamma = 0;
  for (int64_t first = int64_t{blockIdx.x} * rows_a_block; first < a.rows; first += int64_t{gridDim.x} * rows_a_block) {
    const int64_t row = first + place;
    if (row >= a.rows) continue;
    double scale = 0;
    if (a.grad_nll.data != nullptr) {
      const double grad_nll = load_one<double>(a.grad_nll, row, 0);
      scale = grad_nll * inv_gamma;
      // d nll / d log gamma = (cols - SSE / gamma) / 2
      const double scaled = load_one<double>(a.squared_error, row, 0) * inv_gamma;
      if (lane == 0) grad_log_gamma += 0.5 * grad_nll * (a.cols - scaled);
    }
    if (a.grad_squared_error.data != nullptr) scale += 2 * load_one<double>(a.grad_squared_error, row, 0);
    const C factor = static_cast<C>(scale);
#pragma unroll 2
    for (int64_t col = 4 * lane; col < a.cols; col += 4 * a.threads_a_row) {
      const Numbers<C> x_hat = load<C, S>(a.x_hat, row, col, a.cols), x = load<C, S>(a.x, row, col, a.cols);
      Numbers<C> grad;
#pragma unroll
      for (int k = 0; k < 4; ++k) grad[k] = factor * (x_hat[k] - x[k]);
      store<C, S>(a.grad_x_hat, row, col, a.cols, grad);
    }
  }
  if (a.sum.parts == nullptr) {  // the squared error alone has a gradient, which knows nothing of gamma
    if (blockIdx.x == 0 && threadIdx.x == 0) store_scalar(a.grad_log_gamma, 0.0);
    return;
  }
  leave_part(a.sum, 0, grad_log_gamma);
  sum_over_blocks(a.sum, [&](int64_t, double sum) { store_scalar(a.grad_log_gamma, sum); });
}

// A loss that is the whole of it has a gradient of 1: a look at it, by all, and nothing else is read or written.
template <class C, class S>
__global__ void __launch_bounds__(kThreads) gaussian_elbo_scale(const GaussianElboScale a) {
  const double grad_loss = load_scalar(a.grad_loss);
  if (grad_loss == 1) return;
  if (blockIdx.x == 0 && threadIdx.x == 0) {
    store_scalar(a.grad_log_gamma, grad_loss * load_scalar(a.grad_log_gamma));
    store_scalar(a.grad_kl, grad_loss * load_scalar(a.grad_kl));
  }
  const C factor = static_cast<C>(grad_loss);
  const int64_t step = 4 * int64_t{kThreads} * gridDim.x;
  for (int64_t at = 4 * (int64_t{blockIdx.x} * kThreads + threadIdx.x); at < a.numbers; at += step) {
    Numbers<C> grad = load<C, S>(a.grad_x_hat, 0, at, a.numbers);
#pragma unroll
    for (int k = 0; k < 4; ++k) grad[k] *= factor;
    store<C, S>(a.grad_x_hat, 0, at, a.numbers, grad);
  }
}

}  // namespace manifold_core::cuda
