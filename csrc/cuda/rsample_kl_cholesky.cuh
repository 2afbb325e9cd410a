// z = mu + L noise and KL[N(mu, L L^T) || N(m, diag e^p)], and their gradients. Line i of L begins at i (i + 1) / 2 of
// a packed row and ends with log L_ii. Some threads share a sample; of these, some share a line and read it side by
// side, once. The noise of a sample waits in shared memory.
#pragma once

#include "manifold_core/gaussian.h"
#include "noise.cuh"
#include "sums.cuh"

namespace manifold_core::cuda {

// Columns of noise that a block holds: of one sample at least, a whole one up to this many.
constexpr int kNoise = 1024;

// Which sample, line and columns of it this thread works on.
struct Place {
  int samples;         // of a block at a time
  int sample;          // of those
  int thread, threads; // that share the sample
  int line, lines;     // that are worked on at a time, by
  int lane, lanes;     // threads each

  __device__ __forceinline__ Place(int threads_a_row, int threads_a_line)
      : samples(kThreads / threads_a_row), sample(threadIdx.x / threads_a_row), thread(threadIdx.x % threads_a_row),
        threads(threads_a_row), line(thread / threads_a_line), lines(threads_a_row / threads_a_line),
        lane(thread % threads_a_line), lanes(threads_a_line) {}
};

// Columns [first, first + width) of the noise of the sample, made by the threads that share it. Called by all threads.
template <class C>
__device__ __forceinline__ void fill_noise(const Place& at, uint64_t seed, uint64_t row, int64_t first, int width,
                                           C* to) {
  __syncthreads();  // the noise of before has been used
  for (int col = 4 * at.thread; col < width; col += 4 * at.threads) {
    const Numbers<C> eps = noise<C>(seed, row, first + col);
#pragma unroll
    for (int k = 0; k < 4; ++k) {
      if (col + k < width) to[col + k] = eps[k];
    }
  }
  __syncthreads();
}

// The sum of v over the lanes of a line, for all of them.
template <class C>
__device__ __forceinline__ C sum_over_line(C v, int lanes) {
  for (int offset = lanes / 2; offset > 0; offset /= 2) v += __shfl_xor_sync(kAllLanes, v, offset);
  return v;
}

// Sums over the batch of n numbers for each line, kept by the thread that leads a line: in shared memory for each
// sample of a block, or for longer lines in the block's part itself.
template <int n>
class LineSums {
 public:
  // `shared` has room for n kNoise numbers.
  __device__ __forceinline__ LineSums(const BatchSum& s, const Place& at, int64_t cols, double* shared)
      : part_(s.parts == nullptr ? nullptr : s.parts + blockIdx.x * s.width), cols_(cols), samples_(at.samples),
        shared_(cols * at.samples <= kNoise ? shared : nullptr) {
    if (part_ == nullptr) return;
    const int64_t size = n * cols * samples_;
    double* const all = shared_ == nullptr ? part_ : shared_;
    for (int64_t i = threadIdx.x; i < size; i += kThreads) all[i] = 0;
    __syncthreads();
    mine_ = all + at.sample * n * cols;
  }

  __device__ __forceinline__ void add(int which, int64_t line, double v) { mine_[which * cols_ + line] += v; }

  // Leaves the block's part in memory. Called by all threads.
  __device__ __forceinline__ void finish() {
    if (shared_ == nullptr) return;
    __syncthreads();
    for (int64_t i = threadIdx.x; i < n * cols_; i += kThreads) {
      double sum = 0;
      for (int sample = 0; sample < samples_; ++sample) sum += shared_[sample * n * cols_ + i];
      part_[i] = sum;
    }
  }

 private:
  double* part_;
  int64_t cols_;
  int samples_;
  double* shared_;
  double* mine_ = nullptr;
};

template <class C, class S>
__global__ void __launch_bounds__(kThreads, sizeof(C) == 4 ? 4 : 1) rsample_kl_cholesky(const Cholesky a) {
  __shared__ C noise_of_block[kNoise];
  __shared__ double ratios_of_block[kNoise];
  const Place at(a.threads_a_row, a.threads_a_line);
  const int room = kNoise / at.samples;  // columns of noise of a sample that are there at a time
  C* const eps = noise_of_block + at.sample * room;
  const uint64_t seed = static_cast<uint64_t>(*a.seed);
  const bool with_prior = a.prior_mu.data != nullptr, whole = a.cols <= room;
  LineSums<1> ratios(a.sum, at, a.cols, ratios_of_block);
  for (int64_t first = int64_t{blockIdx.x} * at.samples; first < a.rows; first += int64_t{gridDim.x} * at.samples) {
    const int64_t row = first + at.sample;
    if (whole) fill_noise(at, seed, a.first_row + row, 0, static_cast<int>(a.cols), eps);
    double sum = 0;
    for (int64_t top = 0; top < a.cols; top += at.lines) {
      const int64_t i = top + at.line, end = i + 1 < a.cols ? i + 1 : a.cols;  // a line behind the last does nothing
      const bool here = i < a.cols && row < a.rows;
      const int64_t start = i * (i + 1) / 2;
      C product = 0, squares = 0, spread = 0;  // L_ij eps_j and L_ij^2 for j < i, and L_ii eps_i
      const C t = here ? load_one<C, S>(a.tril, row, start + i) : C(0);
      for (int64_t left = 0; left < a.cols && left < top + at.lines; left += room) {
        if (!whole) {
          const int64_t rest = a.cols - left;
          fill_noise(at, seed, a.first_row + row, left, static_cast<int>(rest < room ? rest : room), eps);
        }
        if (!here) continue;
        const int64_t right = left + room < end - 1 ? left + room : end - 1;
#pragma unroll 4
        for (int64_t j = left + at.lane; j < right; j += at.lanes) {
          const C l = load_one<C, S>(a.tril, row, start + j);
          product += l * eps[j - left];
          squares += l * l;
        }
        if (i >= left && i < left + room) spread = eps[i - left];
      }
      product = sum_over_line(product, at.lanes);
      squares = sum_over_line(squares, at.lanes);
      if (at.lane == 0 && here) {
        const C mu = load_one<C>(a.mu, row, i);
        C m = 0, factor = 1;
        Ratio<C> ratio;
        C diagonal;
        if (with_prior) {
          const C p = load_one<C>(a.prior_log_var, row, i);
          m = load_one<C>(a.prior_mu, row, i);
          factor = exponential(C(-0.5) * p).exp;
          diagonal = exponential(t).exp;
          ratio = variance_ratio(C(2) * t, p);
        } else {
          ratio = variance(C(2) * t);
          diagonal = ratio.root;
        }
        const C scaled = (mu - m) * factor, others = squares * factor * factor;
        const C kl = kl_divergence(scaled, ratio) + C(0.5) * others;
        store_one<C>(a.z, row, i, mu + (product + diagonal * spread));
        if (a.per_dimension) {
          store_one<C>(a.kl, row, i, kl);
        } else {
          sum += static_cast<double>(kl);
        }
        if (a.sum.parts != nullptr) ratios.add(0, i, static_cast<double>(ratio.root * ratio.root + others));
      }
    }
    if (!a.per_dimension) {
      sum = sum_over_threads(sum, at.threads);
      if (at.thread == 0 && row < a.rows) store_one<C>(a.kl, row, 0, static_cast<C>(sum));
    }
  }
  if (a.sum.parts == nullptr) return;
  ratios.finish();
  sum_over_blocks(a.sum, [&](int64_t col, double sum) {
    store_one<C>(a.variance_ratio, 0, col, static_cast<C>(sum / static_cast<double>(a.rows)));
  });
}

// A gradient of its own for each row, or a share of the sum over the batch.
template <class C>
__device__ __forceinline__ void put(const Matrix& m, int64_t row, int64_t col, C grad, LineSums<2>& summed, int which) {
  if (m.row_stride != 0) {
    store_one<C>(m, row, col, grad);
  } else {
    summed.add(which, col, static_cast<double>(grad));
  }
}

template <class C, class S>
__global__ void __launch_bounds__(kThreads, sizeof(C) == 4 ? 3 : 1)
    rsample_kl_cholesky_backward(const CholeskyBackward a) {
  __shared__ C noise_of_block[kNoise];
  __shared__ double sums_of_block[2 * kNoise];
  const Place at(a.threads_a_row, a.threads_a_line);
  const int room = kNoise / at.samples;
  C* const eps = noise_of_block + at.sample * room;
  const uint64_t seed = static_cast<uint64_t>(*a.seed);
  const bool with_z = a.grad_z.data != nullptr, with_kl = a.grad_kl.data != nullptr;
  const bool with_prior = a.prior_mu.data != nullptr, with_grad_prior = a.grad_prior_mu.data != nullptr;
  const bool whole = a.cols <= room;
  LineSums<2> summed(a.sum, at, a.cols, sums_of_block);
  for (int64_t first = int64_t{blockIdx.x} * at.samples; first < a.rows; first += int64_t{gridDim.x} * at.samples) {
    const int64_t row = first + at.sample;
    if (whole && with_z) fill_noise(at, seed, a.first_row + row, 0, static_cast<int>(a.cols), eps);
    for (int64_t top = 0; top < a.cols; top += at.lines) {
      const int64_t i = top + at.line;
      const bool here = i < a.cols && row < a.rows;
      const int64_t start = i * (i + 1) / 2;
      const C g = here && with_z ? load_one<C>(a.grad_z, row, i) : C(0);
      const C k = here && with_kl ? load_one<C>(a.grad_kl, row, i) : C(0);
      const C p = here && with_prior ? load_one<C>(a.prior_log_var, row, i) : C(0);
      const C factor = with_prior ? exponential(C(-0.5) * p).exp : C(1);
      C squares = 0, spread = 0;
      for (int64_t left = 0; left < a.cols && left < top + at.lines; left += room) {
        if (!whole && with_z) {
          const int64_t rest = a.cols - left;
          fill_noise(at, seed, a.first_row + row, left, static_cast<int>(rest < room ? rest : room), eps);
        }
        if (!here) continue;
        const int64_t right = left + room < i ? left + room : i;
#pragma unroll 4
        for (int64_t j = left + at.lane; j < right; j += at.lanes) {
          C grad = 0;
          if (with_kl) {
            const C scaled = load_one<C, S>(a.tril, row, start + j) * factor;
            grad = k * scaled * factor;
            squares += scaled * scaled;
          }
          if (with_z) grad += g * eps[j - left];
          store_one<C, S>(a.grad_tril, row, start + j, grad);
        }
        if (with_z && i >= left && i < left + room) spread = eps[i - left];
      }
      squares = sum_over_line(squares, at.lanes);
      if (at.lane == 0 && here) {
        const C mu = load_one<C>(a.mu, row, i), t = load_one<C, S>(a.tril, row, start + i);
        C grad_mu = 0, grad_t = 0, grad_prior_log_var = 0;
        if (with_kl) {
          const C m = with_prior ? load_one<C>(a.prior_mu, row, i) : C(0);
          const Ratio<C> ratio = with_prior ? variance_ratio(C(2) * t, p) : variance(C(2) * t);
          const C scaled = (mu - m) * factor, half = C(0.5) * k;
          grad_mu = k * scaled * factor;
          grad_t = k * ratio.exp_minus_1;
          grad_prior_log_var = -(half * scaled * scaled + half * squares + half * ratio.exp_minus_1);
        }
        if (with_grad_prior) {
          put(a.grad_prior_mu, row, i, -grad_mu, summed, 0);
          put(a.grad_prior_log_var, row, i, grad_prior_log_var, summed, 1);
        }
        if (with_z) {
          grad_mu += g;
          grad_t += g * (exponential(t).exp * spread);
        }
        store_one<C>(a.grad_mu, row, i, grad_mu);
        store_one<C, S>(a.grad_tril, row, start + i, grad_t);
      }
    }
  }
  if (a.sum.parts == nullptr) return;
  summed.finish();
  sum_over_blocks(a.sum, [&](int64_t i, double sum) {
    const Matrix& m = i < a.cols ? a.grad_prior_mu : a.grad_prior_log_var;
    if (m.row_stride == 0) store_one<C>(m, 0, i < a.cols ? i : i - a.cols, static_cast<C>(sum));
  });
}

}  // namespace manifold_core::cuda
