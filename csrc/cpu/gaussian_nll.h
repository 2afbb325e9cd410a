// nll = (SSE / gamma + cols * log(2 pi gamma)) / 2 and SSE = |x - x_hat|^2 per row, and the gradient of x_hat.
#pragma once

#include "manifold_core/gaussian.h"
#include "tile.h"

#include <cmath>

namespace manifold_core::MC_ISA {

// Rows [row, row + rows) are worked on together if they fit into a tile.
inline int64_t rows_at_once(int64_t cols) { return cols < kTile ? kTile / (cols > 0 ? cols : 1) : 1; }

template <class C>
void gaussian_nll(const cpu::GaussianNll& a, int64_t begin, int64_t end) {
  Tile<C> x_hat_tile, x_tile, difference_tile, square;
  const double inv_gamma = std::exp(-a.log_gamma), constant = a.cols * (kLog2Pi + a.log_gamma);
  const C scale = static_cast<C>(a.difference_scale);
  const int64_t height = rows_at_once(a.cols);
  for (int64_t row = begin; row < end; row += height) {
    const int64_t rows = end - row < height ? end - row : height;
    double squared_error[kTile];  // sums of tiles in double: rounding does not grow with the number of columns
    for (int64_t i = 0; i < rows; ++i) squared_error[i] = 0;
    for (int64_t col = 0; col < a.cols; col += kTile) {
      const int64_t cols = a.cols - col < kTile ? a.cols - col : kTile;
      const Rectangle at{row, rows, col, cols, cols};
      const C* const x_hat = read<C>(a.x_hat, at, x_hat_tile);
      const C* const x = read<C>(a.x, at, x_tile);
      C* const difference = a.difference.data ? target<C>(a.difference, at, difference_tile) : difference_tile.at;
      const int64_t size = at.size();
#pragma GCC ivdep
      for (int64_t i = 0; i < size; ++i) {
        const C d = x_hat[i] - x[i];
        difference[i] = scale * d;
        square[i] = d * d;
      }
      if (a.difference.data) finish(a.difference, at, difference);
      for (int64_t i = 0; i < rows; ++i) squared_error[i] += row_sum(square.at + i * cols, cols);
    }
    for (int64_t i = 0; i < rows; ++i) {
      *element<C>(a.squared_error, row + i, 0) = static_cast<C>(squared_error[i]);
      *element<C>(a.nll, row + i, 0) = static_cast<C>(0.5 * (squared_error[i] * inv_gamma + constant));
    }
  }
}

template <class C>
void gaussian_nll_backward(const cpu::GaussianNllBackward& a, int64_t begin, int64_t end) {
  Tile<C> x_hat_tile, x_tile, grad_tile, scale;
  const double inv_gamma = std::exp(-a.log_gamma);
  const int64_t height = rows_at_once(a.cols);
  for (int64_t row = begin; row < end; row += height) {
    const int64_t rows = end - row < height ? end - row : height;
    for (int64_t i = 0; i < rows; ++i) {
      C grad_nll = 0, grad_squared_error = 0;
      if (a.grad_nll.data) grad_nll = *element<C>(a.grad_nll, row + i, 0);
      if (a.grad_squared_error.data) grad_squared_error = *element<C>(a.grad_squared_error, row + i, 0);
      // In double: 1 / gamma alone may leave the range of float though its product with the gradient does not.
      scale[i] = static_cast<C>(grad_nll * inv_gamma + 2.0 * grad_squared_error);
    }
    for (int64_t col = 0; col < a.cols; col += kTile) {
      const int64_t cols = a.cols - col < kTile ? a.cols - col : kTile;
      const Rectangle at{row, rows, col, cols, cols};
      const C* const x_hat = read<C>(a.x_hat, at, x_hat_tile);
      const C* const x = read<C>(a.x, at, x_tile);
      C* const grad = target<C>(a.grad_x_hat, at, grad_tile);
      for (int64_t i = 0; i < rows; ++i) {
        const C s = scale[i];
        const int64_t first = i * cols, last = first + cols;
#pragma GCC ivdep
        for (int64_t j = first; j < last; ++j) grad[j] = s * (x_hat[j] - x[j]);
      }
      finish(a.grad_x_hat, at, grad);
    }
  }
}

}  // namespace manifold_core::MC_ISA
