// nll = (SSE / gamma + cols * log(2 pi gamma)) / 2 and SSE = |x - x_hat|^2 per row, and the gradient of x_hat.
#pragma once

#include "tile.h"

#include <cmath>

namespace manifold_core::MC_ISA {

constexpr double kLog2Pi = 1.8378770664093454836;

template <class C>
void gaussian_nll(const cpu::GaussianNll& a, int64_t begin, int64_t end) {
  C x_hat_tile[kTile], x_tile[kTile];
  const double inv_gamma = std::exp(-a.log_gamma), constant = a.cols * (kLog2Pi + a.log_gamma);
  for (int64_t row = begin; row < end; ++row) {
    double squared_error = 0;  // of tiles: rounding does not grow with the number of columns
    for (int64_t col = 0; col < a.cols; col += kTile) {
      const int64_t cols = a.cols - col < kTile ? a.cols - col : kTile;
      const Rectangle at{row, 1, col, cols, cols};
      const C* const x_hat = read(a.x_hat, at, x_hat_tile);
      const C* const x = read(a.x, at, x_tile);
      C sum = 0;
#pragma omp simd reduction(+ : sum)
      for (int64_t j = 0; j < cols; ++j) sum += (x_hat[j] - x[j]) * (x_hat[j] - x[j]);
      squared_error += sum;
    }
    *element<C>(a.squared_error, row, 0) = static_cast<C>(squared_error);
    *element<C>(a.nll, row, 0) = static_cast<C>(0.5 * (squared_error * inv_gamma + constant));
  }
}

template <class C>
void gaussian_nll_backward(const cpu::GaussianNllBackward& a, int64_t begin, int64_t end) {
  C x_hat_tile[kTile], x_tile[kTile], grad_tile[kTile];
  const double inv_gamma = std::exp(-a.log_gamma);
  for (int64_t row = begin; row < end; ++row) {
    C grad_nll = 0, grad_squared_error = 0;
    if (a.grad_nll.data) grad_nll = *element<C>(a.grad_nll, row, 0);
    if (a.grad_squared_error.data) grad_squared_error = *element<C>(a.grad_squared_error, row, 0);
    // In double: 1 / gamma alone may leave the range of float where its product with the gradient does not.
    const C scale = static_cast<C>(grad_nll * inv_gamma + 2.0 * grad_squared_error);
    for (int64_t col = 0; col < a.cols; col += kTile) {
      const int64_t cols = a.cols - col < kTile ? a.cols - col : kTile;
      const Rectangle at{row, 1, col, cols, cols};
      const C* const x_hat = read(a.x_hat, at, x_hat_tile);
      const C* const x = read(a.x, at, x_tile);
      C* const grad = target(a.grad_x_hat, at, grad_tile);
#pragma GCC ivdep
      for (int64_t j = 0; j < cols; ++j) grad[j] = scale * (x_hat[j] - x[j]);
      finish(a.grad_x_hat, at, grad);
    }
  }
}

}  // namespace manifold_core::MC_ISA
