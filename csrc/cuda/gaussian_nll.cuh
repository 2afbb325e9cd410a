// nll = (SSE / gamma + cols * log(2 pi gamma)) / 2 and SSE = |x - x_hat|^2 per row, and their gradients; with the batch
// mean of nll + beta kl and its gradients, for gaussian_elbo, in the same pass.
#pragma once

#include "manifold_core/gaussian.h"
#include "memory.cuh"
#include "sums.cuh"

#include <cmath>

namespace manifold_core::cuda {

struct GaussianNll {
  int64_t rows, cols;
  int threads_a_row;
  Scalar log_gamma;
  Matrix x_hat, x;            // [rows, cols]
  Matrix nll, squared_error;  // [rows]
  // What follows is for gaussian_elbo alone.
  Matrix kl;          // [rows]
  double beta;
  Matrix grad_x_hat;  // [rows, cols], may be absent
  BatchSum sum;       // [2]
  Scalar loss, grad_log_gamma, grad_kl;
};

struct GaussianNllBackward {
  int64_t rows, cols;
  int threads_a_row;
  Scalar log_gamma;
  Matrix grad_nll, grad_squared_error;  // [rows], may be absent
  Matrix x_hat, x, squared_error;
  Matrix grad_x_hat;
  BatchSum sum;  // [1]
  Scalar grad_log_gamma;
};

// The gradients that gaussian_elbo wrote in its forward pass, times that of the loss.
struct GaussianElboScale {
  int64_t elements;
  Matrix grad_x_hat;  // as one row, [1, elements]
  Scalar grad_log_gamma, grad_kl, grad_loss;
};

// 1 / gamma, once for the block: in double, where it does not overflow before it is multiplied.
__device__ inline double inverse_gamma(const Scalar& log_gamma) {
  __shared__ double value;
  if (threadIdx.x == 0) value = exp(-load_scalar(log_gamma));
  __syncthreads();
  return value;
}

// Adds up one value per thread, and writes this block's partial sum.
__device__ inline void write_partial(const BatchSum& s, int which, double v) {
  const double sum = sum_over_threads(v, kThreads);
  if (threadIdx.x == 0) s.partials[blockIdx.x * s.width + which] = sum;
}

template <class C, class S>
__global__ void __launch_bounds__(kThreads, sizeof(C) == 4 ? 4 : 1) gaussian_nll(const GaussianNll a) {
  const int rows_a_block = kThreads / a.threads_a_row;
  const int row_in_block = threadIdx.x / a.threads_a_row, lane = threadIdx.x % a.threads_a_row;
  const double inv_gamma = inverse_gamma(a.log_gamma), constant = a.cols * (kLog2Pi + load_scalar(a.log_gamma));
  const C scale = static_cast<C>(inv_gamma / a.rows);  // of the gradient of the batch mean
  double loss = 0, grad_log_gamma = 0;
  for (int64_t first = int64_t{blockIdx.x} * rows_a_block; first < a.rows; first += int64_t{gridDim.x} * rows_a_block) {
    const int64_t row = first + row_in_block;
    double sum = 0;
#pragma unroll 2
    for (int64_t col = 4 * lane; col < a.cols && row < a.rows; col += 4 * a.threads_a_row) {
      const Vec4<C> x_hat = load<C, S>(a.x_hat, row, col, a.cols), x = load<C, S>(a.x, row, col, a.cols);
      Vec4<C> difference, square;
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
      if (a.sum.partials != nullptr) {
        loss += nll + a.beta * load_one<double>(a.kl, row, 0);
        grad_log_gamma += 0.5 * (a.cols - sum * inv_gamma);
      }
    }
  }
  if (a.sum.partials == nullptr) return;
  write_partial(a.sum, 0, loss);
  write_partial(a.sum, 1, grad_log_gamma);
  sum_over_blocks(a.sum, [&](int64_t which, double sum) {
    if (which == 0) {
      store_scalar(a.loss, sum / a.rows);  // NaN without samples, like every mean
      store_scalar(a.grad_kl, a.beta / a.rows);
    } else {
      store_scalar(a.grad_log_gamma, a.rows > 0 ? sum / a.rows : 0.0);
    }
  });
}

template <class C, class S>
__global__ void __launch_bounds__(kThreads, sizeof(C) == 4 ? 4 : 1) gaussian_nll_backward(const GaussianNllBackward a) {
  const int rows_a_block = kThreads / a.threads_a_row;
  const int row_in_block = threadIdx.x / a.threads_a_row, lane = threadIdx.x % a.threads_a_row;
  const double inv_gamma = inverse_gamma(a.log_gamma);
  double grad_log_gamma = 0;
  for (int64_t first = int64_t{blockIdx.x} * rows_a_block; first < a.rows; first += int64_t{gridDim.x} * rows_a_block) {
    const int64_t row = first + row_in_block;
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
      const Vec4<C> x_hat = load<C, S>(a.x_hat, row, col, a.cols), x = load<C, S>(a.x, row, col, a.cols);
      Vec4<C> grad;
#pragma unroll
      for (int k = 0; k < 4; ++k) grad[k] = factor * (x_hat[k] - x[k]);
      store<C, S>(a.grad_x_hat, row, col, a.cols, grad);
    }
  }
  if (a.sum.partials == nullptr) {  // the squared error alone has a gradient, which knows nothing of gamma
    if (blockIdx.x == 0 && threadIdx.x == 0) store_scalar(a.grad_log_gamma, 0.0);
    return;
  }
  write_partial(a.sum, 0, grad_log_gamma);
  sum_over_blocks(a.sum, [&](int64_t, double sum) { store_scalar(a.grad_log_gamma, sum); });
}

// Most often the gradient of the loss is 1: every thread looks at it, and nothing else is read or written.
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
  for (int64_t col = 4 * (int64_t{blockIdx.x} * kThreads + threadIdx.x); col < a.elements; col += step) {
    Vec4<C> grad = load<C, S>(a.grad_x_hat, 0, col, a.elements);
#pragma unroll
    for (int k = 0; k < 4; ++k) grad[k] *= factor;
    store<C, S>(a.grad_x_hat, 0, col, a.elements, grad);
  }
}

}  // namespace manifold_core::cuda
