// z = mu + L noise and KL[N(mu, L L^T) || N(m, diag e^p)], and their gradients: what is done once for a line of L. Line i
// begins at i (i + 1) / 2 of a packed row and ends with log L_ii.
//
// A thread has a line. How the lines are read depends on how many there are: rsample_kl_cholesky_staged.cuh and
// rsample_kl_cholesky_long.cuh. The noise of a sample waits in shared memory.
#pragma once

#include "manifold_core/gaussian.h"
#include "noise.cuh"
#include "sums.cuh"

namespace manifold_core::cuda {

// Which sample this thread works on.
struct Place {
  int samples;          // of a block at a time
  int sample;           // of those; where it is none of them, there is nothing to do
  int thread, threads;  // that share the sample

  __device__ __forceinline__ explicit Place(const Shares& shares)
      : samples(shares.samples), sample(threadIdx.x / shares.threads), thread(threadIdx.x % shares.threads),
        threads(shares.threads) {}
};

// Sums over the batch of n numbers for each line, kept by the thread whose line it is: in shared memory for each
// sample of a block, or where that has no room in the block's part itself.
template <int n>
class LineSums {
 public:
  // `shared` has room for n * room numbers.
  __device__ __forceinline__ LineSums(const BatchSum& s, const Place& at, int64_t cols, double* shared, int room)
      : part_(s.parts == nullptr ? nullptr : s.parts + blockIdx.x * s.width), cols_(cols), samples_(at.samples),
        shared_(cols * at.samples <= room ? shared : nullptr) {
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

// Of kernels that sum nothing over the batch.
template <>
class LineSums<0> {
 public:
  __device__ __forceinline__ LineSums(const BatchSum&, const Place&, int64_t, double*, int) {}
};

// e^(-p/2) of line i of a sample, or 1.
template <class C>
__device__ __forceinline__ C prior_factor(const Matrix& prior_log_var, int64_t row, int i) {
  return prior_log_var.data == nullptr ? C(1) : exponential(C(-0.5) * load_one<C>(prior_log_var, row, i)).exp;
}

// What comes of line i of a sample, with t = log L_ii, factor = e^(-p/2), the sums of L_ij eps_j and of (L_ij factor)^2
// for j < i, and eps_i. Leaves z, and KL where that is wanted for each dimension; else returns it.
template <class C>
__device__ __forceinline__ C finish_line(const Cholesky& a, int64_t row, int i, C t, C factor, C product, C squares,
                                         C eps, LineSums<1>& ratios) {
  const C mu = load_one<C>(a.mu, row, i);
  C m = 0;
  Ratio<C> ratio;
  C diagonal;
  if (a.prior_mu.data != nullptr) {
    m = load_one<C>(a.prior_mu, row, i);
    diagonal = exponential(t).exp;
    ratio = variance_ratio(C(2) * t, load_one<C>(a.prior_log_var, row, i));
  } else {
    ratio = variance(C(2) * t);
    diagonal = ratio.root;
  }
  const C kl = kl_divergence((mu - m) * factor, ratio) + C(0.5) * squares;
  store_one<C>(a.z, row, i, mu + (product + diagonal * eps));
  if (a.sum.parts != nullptr) {  // of one sample it may be too large for C, and not on average
    const double root = static_cast<double>(ratio.root);
    ratios.add(0, i, root * root + static_cast<double>(squares));
  }
  if (!a.per_dimension) return kl;
  store_one<C>(a.kl, row, i, kl);
  return 0;
}

// The KL of the samples of a block from what their threads have of it. Called by all threads.
template <class C>
__device__ __forceinline__ void finish_kl(const Cholesky& a, const Place& at, int64_t row, double of_thread) {
  if (a.per_dimension) return;
  const double kl = sum_over_threads(of_thread, at.threads);
  if (at.thread == 0 && at.sample < at.samples && row < a.rows) store_one<C>(a.kl, row, 0, static_cast<C>(kl));
}

// Called by all threads, at the end.
template <class C>
__device__ __forceinline__ void finish_ratios(const Cholesky& a, LineSums<1>& ratios) {
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

// What line i has for its gradients: of L_ij it is k (L_ij factor) factor + g eps_j.
template <class C>
struct OfLine {
  C g = 0, k = 0, factor = 1;  // gradients of z and of KL, and e^(-p/2)
  C root = 0;                  // L_ii
  C diagonal = 0;              // gradient of log L_ii; of z, it still lacks g L_ii eps_i
  C grad_prior_log_var = 0;    // still lacks -k/2 times the sum of (L_ij factor)^2 for j < i
};

// Leaves the gradient of mu and, where the prior has any (sums > 0), that of its mean.
template <class C, int sums>
__device__ __forceinline__ OfLine<C> start_line(const CholeskyBackward& a, int64_t row, int i, C t,
                                                LineSums<sums>& summed) {
  OfLine<C> of;
  C grad_mu = 0;
  if (a.grad_kl.data != nullptr) {  // what an absent gradient would be multiplied by is not looked at: it may be infinite
    const bool with_prior = a.prior_mu.data != nullptr;
    const C p = with_prior ? load_one<C>(a.prior_log_var, row, i) : C(0);
    of.factor = prior_factor<C>(a.prior_log_var, row, i);
    const C m = with_prior ? load_one<C>(a.prior_mu, row, i) : C(0);
    const Ratio<C> ratio = with_prior ? variance_ratio(C(2) * t, p) : variance(C(2) * t);
    of.k = load_one<C>(a.grad_kl, row, i);
    const C scaled = (load_one<C>(a.mu, row, i) - m) * of.factor, half = C(0.5) * of.k;
    grad_mu = of.k * scaled * of.factor;
    of.diagonal = times_exp_minus_1(of.k, ratio);
    of.grad_prior_log_var = -(half * scaled * scaled + times_exp_minus_1(half, ratio));
  }
  if constexpr (sums > 0) {
    if (a.grad_prior_mu.data != nullptr) put(a.grad_prior_mu, row, i, -grad_mu, summed, 0);
  }
  if (a.grad_z.data != nullptr) {
    of.g = load_one<C>(a.grad_z, row, i);
    of.root = exponential(t).exp;
    grad_mu += of.g;
  }
  store_one<C>(a.grad_mu, row, i, grad_mu);
  return of;
}

// squares: the sum of (L_ij factor)^2 for j < i.
template <class C>
__device__ __forceinline__ void finish_line(const CholeskyBackward& a, int64_t row, int i, const OfLine<C>& of,
                                            C squares, LineSums<2>& summed) {
  if (a.grad_prior_mu.data == nullptr) return;
  const C rest = of.k == C(0) ? C(0) : C(0.5) * of.k * squares;  // the squares may be infinite
  put(a.grad_prior_log_var, row, i, of.grad_prior_log_var - rest, summed, 1);
}

// Called by all threads, at the end.
template <class C>
__device__ __forceinline__ void finish_prior(const CholeskyBackward& a, LineSums<2>& summed) {
  if (a.sum.parts == nullptr) return;
  summed.finish();
  sum_over_blocks(a.sum, [&](int64_t i, double sum) {
    const Matrix& m = i < a.cols ? a.grad_prior_mu : a.grad_prior_log_var;
    if (m.row_stride == 0) store_one<C>(m, 0, i < a.cols ? i : i - a.cols, static_cast<C>(sum));
  });
}

}  // namespace manifold_core::cuda
