// z = (mu + sigma * noise) w and KL[N(mu, sigma^2) || N(m, e^p)], and their gradients. A thread works on four columns
// of a row: one block of Philox, one access of 16 bytes. The noise is made again for the gradient.
#pragma once

#include "noise.cuh"
#include "pair.cuh"
#include "sums.cuh"

namespace manifold_core::cuda {

struct RsampleKl {
  int64_t rows, cols;
  int threads_a_row;
  uint64_t first_row;
  const int64_t* seed;
  Matrix mu, log_var;                           // [rows, cols]
  Matrix prior_mu, prior_log_var, gate_logits;  // [rows, cols], may be absent
  Matrix z;                                     // [rows, cols]
  Matrix kl;                                    // [rows, cols], or [rows] summed over the columns
  bool per_dimension;
  BatchSum sum;           // of the variance ratios, [cols]
  Matrix variance_ratio;  // [1, cols], may be absent
};

struct RsampleKlBackward {
  int64_t rows, cols;
  int threads_a_row;
  uint64_t first_row;
  const int64_t* seed;
  Matrix grad_z;   // [rows, cols], may be absent
  Matrix grad_kl;  // [rows, cols] of any stride, may be absent
  Matrix mu, log_var;
  Matrix prior_mu, prior_log_var, gate_logits;
  Matrix grad_mu, grad_log_var;
  // May be absent; a row stride of 0: summed over the batch.
  Matrix grad_prior_mu, grad_prior_log_var, grad_gate_logits;
  BatchSum sum;  // of these three, [3, cols]
};

template <class C>
struct Prior {
  Vec4<C> mu, log_var;
};

template <class C>
__device__ __forceinline__ Prior<C> load_prior(const Matrix& mu, const Matrix& log_var, int64_t row, int64_t col,
                                               int64_t cols) {
  if (mu.data == nullptr) return {};
  return {load<C>(mu, row, col, cols), load<C>(log_var, row, col, cols)};
}

template <class C, class S, int sums>
__global__ void __launch_bounds__(kThreads, sizeof(C) == 4 ? 4 : 1) rsample_kl(const RsampleKl a) {
  const int rows_a_block = kThreads / a.threads_a_row;
  const int row_in_block = threadIdx.x / a.threads_a_row, lane = threadIdx.x % a.threads_a_row;
  const uint64_t seed = static_cast<uint64_t>(*a.seed);
  const bool with_prior = a.prior_mu.data != nullptr;
  ColumnSums<sums> ratios(a.sum, a.cols, a.threads_a_row);
  for (int64_t first = int64_t{blockIdx.x} * rows_a_block; first < a.rows; first += int64_t{gridDim.x} * rows_a_block) {
    const int64_t row = first + row_in_block;
    double sum = 0;
    for (int64_t col = 4 * lane; col < a.cols && row < a.rows; col += 4 * a.threads_a_row) {
      const Vec4<C> mu = load<C, S>(a.mu, row, col, a.cols), log_var = load<C, S>(a.log_var, row, col, a.cols);
      const Prior<C> prior = load_prior<C>(a.prior_mu, a.prior_log_var, row, col, a.cols);
      Vec4<C> z = noise<C>(seed, a.first_row + row, col), kl;
      Vec4<double> ratio;  // of one sample it may be too large for C, and not on average
#pragma unroll
      for (int k = 0; k < 4; ++k) {
        const Pair<C> pair = compare(with_prior, mu[k], log_var[k], prior.mu[k], prior.log_var[k]);
        z[k] = mu[k] + pair.sigma * z[k];
        kl[k] = kl_divergence(pair.scaled, pair.ratio);
        ratio[k] = static_cast<double>(pair.ratio.root) * static_cast<double>(pair.ratio.root);
      }
      if (a.gate_logits.data != nullptr) {
        const Vec4<C> logits = load<C>(a.gate_logits, row, col, a.cols);
#pragma unroll
        for (int k = 0; k < 4; ++k) z[k] *= sigmoid(logits[k]).weight;
      }
      store<C, S>(a.z, row, col, a.cols, z);
      if (a.per_dimension) {
        store<C>(a.kl, row, col, a.cols, kl);
      } else {
        sum += static_cast<double>((kl[0] + kl[1]) + (kl[2] + kl[3]));  // 0 behind the last column
      }
      ratios.template add<0>(col, ratio);
    }
    if (!a.per_dimension) {
      sum = sum_over_threads(sum, a.threads_a_row);
      if (lane == 0 && row < a.rows) store_one<C>(a.kl, row, 0, static_cast<C>(sum));
    }
  }
  if constexpr (sums > 0) {
    ratios.finish();
    sum_over_blocks(a.sum, [&](int64_t col, double sum) {
      store_one<C>(a.variance_ratio, 0, col, static_cast<C>(sum / static_cast<double>(a.rows)));
    });
  }
}

// Writes the gradient of each row, or adds it to the sum over the batch.
template <int which, class C, int sums>
__device__ __forceinline__ void write_or_add(const Matrix& m, int64_t row, int64_t col, int64_t cols,
                                             const Vec4<C>& grad, ColumnSums<sums>& summed) {
  if (m.row_stride != 0) {
    store<C>(m, row, col, cols, grad);
  } else {
    summed.template add<which>(col, grad);
  }
}

template <class C, class S, int sums>
__global__ void __launch_bounds__(kThreads, sizeof(C) == 8 ? 1 : sums > 0 ? 2 : 4)
    rsample_kl_backward(const RsampleKlBackward a) {
  const int rows_a_block = kThreads / a.threads_a_row;
  const int row_in_block = threadIdx.x / a.threads_a_row, lane = threadIdx.x % a.threads_a_row;
  const uint64_t seed = static_cast<uint64_t>(*a.seed);
  const bool with_prior = a.prior_mu.data != nullptr;
  ColumnSums<sums> summed(a.sum, a.cols, a.threads_a_row);
  for (int64_t first = int64_t{blockIdx.x} * rows_a_block; first < a.rows; first += int64_t{gridDim.x} * rows_a_block) {
    const int64_t row = first + row_in_block;
    for (int64_t col = 4 * lane; col < a.cols && row < a.rows; col += 4 * a.threads_a_row) {
      const Vec4<C> mu = load<C, S>(a.mu, row, col, a.cols), log_var = load<C, S>(a.log_var, row, col, a.cols);
      Vec4<C> grad_mu = {}, grad_log_var = {};
      if (a.grad_kl.data != nullptr) {
        const Vec4<C> kl = load<C>(a.grad_kl, row, col, a.cols);
        const Prior<C> prior = load_prior<C>(a.prior_mu, a.prior_log_var, row, col, a.cols);
        Vec4<C> grad_prior_mu, grad_prior_log_var;
#pragma unroll
        for (int k = 0; k < 4; ++k) {
          const Pair<C> pair = compare(with_prior, mu[k], log_var[k], prior.mu[k], prior.log_var[k]);
          grad_mu[k] = kl[k] * pair.scaled * pair.prior_factor;
          grad_prior_mu[k] = -grad_mu[k];
          const C half = C(0.5) * kl[k];  // first: the product must not overflow before it is halved
          grad_log_var[k] = times_exp_minus_1(half, pair.ratio);
          grad_prior_log_var[k] = -(half * pair.scaled * pair.scaled + grad_log_var[k]);
        }
        if (a.grad_prior_mu.data != nullptr) {
          write_or_add<0>(a.grad_prior_mu, row, col, a.cols, grad_prior_mu, summed);
          write_or_add<1>(a.grad_prior_log_var, row, col, a.cols, grad_prior_log_var, summed);
        }
      } else if (a.grad_prior_mu.data != nullptr) {
        write_or_add<0>(a.grad_prior_mu, row, col, a.cols, Vec4<C>{}, summed);
        write_or_add<1>(a.grad_prior_log_var, row, col, a.cols, Vec4<C>{}, summed);
      }
      Vec4<C> grad_gate_logits = {};
      if (a.grad_z.data != nullptr) {
        Vec4<C> g = load<C, S>(a.grad_z, row, col, a.cols);
        Vec4<C> spread = noise<C>(seed, a.first_row + row, col);
#pragma unroll
        for (int k = 0; k < 4; ++k) spread[k] *= exponential(C(0.5) * log_var[k]).exp;
        if (a.gate_logits.data != nullptr) {
          const Vec4<C> logits = load<C>(a.gate_logits, row, col, a.cols);
#pragma unroll
          for (int k = 0; k < 4; ++k) {
            const Gate<C> gate = sigmoid(logits[k]);
            grad_gate_logits[k] = g[k] * (mu[k] + spread[k]) * gate.slope;
            g[k] *= gate.weight;
          }
        }
#pragma unroll
        for (int k = 0; k < 4; ++k) {
          grad_mu[k] += g[k];
          grad_log_var[k] += C(0.5) * (g[k] * spread[k]);
        }
      }
      if (a.grad_gate_logits.data != nullptr) {
        write_or_add<2>(a.grad_gate_logits, row, col, a.cols, grad_gate_logits, summed);
      }
      store<C, S>(a.grad_mu, row, col, a.cols, grad_mu);
      store<C, S>(a.grad_log_var, row, col, a.cols, grad_log_var);
    }
  }
  if constexpr (sums > 0) {
    summed.finish();
    sum_over_blocks(a.sum, [&](int64_t i, double sum) {
      const int64_t which = i / a.cols;
      const Matrix& m = which == 0 ? a.grad_prior_mu : which == 1 ? a.grad_prior_log_var : a.grad_gate_logits;
      if (m.data != nullptr && m.row_stride == 0) store_one<C>(m, 0, i % a.cols, static_cast<C>(sum));
    });
  }
}

}  // namespace manifold_core::cuda
