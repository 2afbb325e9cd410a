// z = mu + L noise and KL[N(mu, L L^T) || N(m, diag e^p)], and their gradients: what is done once for a line of L. Line
// i begins at i (i + 1) / 2 of a packed row and ends with log L_ii.
//
// A thread has a line. How the lines are read depends on how many there are: rsample_kl_cholesky_staged.cuh and
// rsample_kl_cholesky_long.cuh. The noise of a sample waits in shared memory.
#pragma once

#include "manifold_core/gaussian.h"
#include "noise.cuh"
#include "sums.cuh"

namespace manifold_core::cuda {

constexpr int kNoiseColumns = 1024;    // columns of noise that a block holds: of one sample at least
constexpr int kMostStaged = 128;       // dimensions of a covariance whose rows come through shared memory
constexpr int kStagedElements = 8320;  // that a block has there at a time: of one sample at least, and 33 KB at most

// How a block's threads are split over samples.
struct Split {
  int threads;      // that share a sample
  int samples;      // of a block at a time
  bool staged;      // rows come through shared memory
  int buffers = 1;  // there: of two, one is filled while the other is worked on
};

// Staged: one thread per line, and at least 8. Else one warp per sample; but several if the noise of that many samples
// would not fit, or if there are few samples.
inline Split split_samples(int64_t rows, int64_t cols, bool staged) {
  if (staged) {
    int threads = 8;
    while (threads < cols) threads *= 2;
    const int64_t fit = kStagedElements / (cols * (cols + 1) / 2), most = kThreads / threads;
    return {threads, static_cast<int>(fit < most ? fit : most), true};
  }
  int threads = 32;
  while (threads < kThreads &&
         (kThreads * cols > kNoiseColumns * threads || (threads < cols && rows * threads < kBusyThreads))) {
    threads *= 2;
  }
  return {threads, kThreads / threads, false};
}

struct Cholesky {
  int64_t rows, cols;
  Split split;
  uint64_t first_row;
  const int64_t* seed;
  Matrix mu;                       // [rows, cols]
  Matrix tril;                     // [rows, cols (cols + 1) / 2]
  Matrix prior_mu, prior_log_var;  // [rows, cols], may be absent
  Matrix z, kl;
  bool per_dimension;
  BatchSum sum;  // [cols]
  Matrix variance_ratio;
};

struct CholeskyBackward {
  int64_t rows, cols;
  Split split;
  uint64_t first_row;
  const int64_t* seed;
  Matrix grad_z, grad_kl;  // may be absent
  Matrix mu, tril, prior_mu, prior_log_var;
  Matrix grad_mu, grad_tril;
  Matrix grad_prior_mu, grad_prior_log_var;  // as above
  BatchSum sum;                              // of these two, [2, cols]
};

// The threads that share a sample, as one of them sees them.
struct SampleGroup {
  int samples;        // of a block at a time
  int sample;         // of those; if it is none of them, there is nothing to do
  int rank, threads;  // this thread, and the size of the group

  __device__ __forceinline__ explicit SampleGroup(const Split& split)
      : samples(split.samples), sample(threadIdx.x / split.threads), rank(threadIdx.x % split.threads),
        threads(split.threads) {}
};

// This block's n sums over the batch for each line, kept by the thread of the line: in shared memory for each sample of
// the block, or if they do not fit there, as the partial sums in global memory.
template <int n>
class LineSums {
 public:
  // `shared` holds n * capacity sums.
  __device__ __forceinline__ LineSums(const BatchSum& s, const SampleGroup& group, int64_t cols, double* shared,
                                      int capacity)
      : partials_(s.partials == nullptr ? nullptr : s.partials + blockIdx.x * s.width), cols_(cols),
        samples_(group.samples), shared_(cols * group.samples <= capacity ? shared : nullptr) {
    if (partials_ == nullptr) return;
    const int64_t size = n * cols * samples_;
    double* const all = shared_ == nullptr ? partials_ : shared_;
    for (int64_t i = threadIdx.x; i < size; i += kThreads) all[i] = 0;
    __syncthreads();
    own_ = all + group.sample * n * cols;
  }

  __device__ __forceinline__ void add(int which, int64_t line, double v) { own_[which * cols_ + line] += v; }

  // Writes this block's partial sums to global memory. Called by all threads.
  __device__ __forceinline__ void finish() {
    if (shared_ == nullptr) return;
    __syncthreads();
    for (int64_t i = threadIdx.x; i < n * cols_; i += kThreads) {
      double sum = 0;
      for (int sample = 0; sample < samples_; ++sample) sum += shared_[sample * n * cols_ + i];
      partials_[i] = sum;
    }
  }

 private:
  double* partials_;
  int64_t cols_;
  int samples_;
  double* shared_;
  double* own_ = nullptr;
};

// For kernels that sum nothing over the batch.
template <>
class LineSums<0> {
 public:
  __device__ __forceinline__ LineSums(const BatchSum&, const SampleGroup&, int64_t, double*, int) {}
};

// e^(-p/2) of line i of a sample, or 1.
template <class C>
__device__ __forceinline__ C prior_factor(const Matrix& prior_log_var, int64_t row, int i) {
  return prior_log_var.data == nullptr ? C(1) : exponential(C(-0.5) * load_one<C>(prior_log_var, row, i)).exp;
}

// What line i of a sample gives, with t = log L_ii, factor = e^(-p/2), the sums of L_ij eps_j and of (L_ij factor)^2
// for j < i, and eps_i. Writes z, and KL if that is wanted for each dimension; else returns KL.
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
  if (a.sum.partials != nullptr) {  // of one sample it may be too large for C, and not on average
    const double root = static_cast<double>(ratio.root);
    ratios.add(0, i, root * root + static_cast<double>(squares));
  }
  if (!a.per_dimension) return kl;
  store_one<C>(a.kl, row, i, kl);
  return 0;
}

// Adds up and writes the KL of each sample of the block. Called by all threads.
template <class C>
__device__ __forceinline__ void finish_kl(const Cholesky& a, const SampleGroup& group, int64_t row, double thread_kl) {
  if (a.per_dimension) return;
  const double kl = sum_over_threads(thread_kl, group.threads);
  if (group.rank == 0 && group.sample < group.samples && row < a.rows) store_one<C>(a.kl, row, 0, static_cast<C>(kl));
}

// Called by all threads, at the end.
template <class C>
__device__ __forceinline__ void finish_ratios(const Cholesky& a, LineSums<1>& ratios) {
  if (a.sum.partials == nullptr) return;
  ratios.finish();
  sum_over_blocks(a.sum, [&](int64_t col, double sum) {
    store_one<C>(a.variance_ratio, 0, col, static_cast<C>(sum / static_cast<double>(a.rows)));
  });
}

// Writes the gradient of each row, or adds it to the sum over the batch.
template <class C>
__device__ __forceinline__ void write_or_add(const Matrix& m, int64_t row, int64_t col, C grad, LineSums<2>& summed,
                                             int which) {
  if (m.row_stride != 0) {
    store_one<C>(m, row, col, grad);
  } else {
    summed.add(which, col, static_cast<double>(grad));
  }
}

// What the gradients of line i are made of: that of L_ij is k (L_ij factor) factor + g eps_j.
template <class C>
struct LineGradient {
  C g = 0, k = 0, factor = 1;  // gradients of z and of KL, and e^(-p/2)
  C root = 0;                  // L_ii
  C diagonal = 0;              // gradient of log L_ii; of z, it still lacks g L_ii eps_i
  C grad_prior_log_var = 0;    // still lacks -k/2 times the sum of (L_ij factor)^2 for j < i
};

// Writes the gradient of mu and, if the prior has any (sums > 0), that of its mean.
template <class C, int sums>
__device__ __forceinline__ LineGradient<C> start_line(const CholeskyBackward& a, int64_t row, int i, C t,
                                                      LineSums<sums>& summed) {
  LineGradient<C> line;
  C grad_mu = 0;
  // What an absent gradient would be multiplied by is not looked at: it may be infinite.
  if (a.grad_kl.data != nullptr) {
    const bool with_prior = a.prior_mu.data != nullptr;
    const C p = with_prior ? load_one<C>(a.prior_log_var, row, i) : C(0);
    line.factor = prior_factor<C>(a.prior_log_var, row, i);
    const C m = with_prior ? load_one<C>(a.prior_mu, row, i) : C(0);
    const Ratio<C> ratio = with_prior ? variance_ratio(C(2) * t, p) : variance(C(2) * t);
    line.k = load_one<C>(a.grad_kl, row, i);
    const C scaled = (load_one<C>(a.mu, row, i) - m) * line.factor, half = C(0.5) * line.k;
    grad_mu = line.k * scaled * line.factor;
    line.diagonal = times_exp_minus_1(line.k, ratio);
    line.grad_prior_log_var = -(half * scaled * scaled + times_exp_minus_1(half, ratio));
  }
  if constexpr (sums > 0) {
    if (a.grad_prior_mu.data != nullptr) write_or_add(a.grad_prior_mu, row, i, -grad_mu, summed, 0);
  }
  if (a.grad_z.data != nullptr) {
    line.g = load_one<C>(a.grad_z, row, i);
    line.root = exponential(t).exp;
    grad_mu += line.g;
  }
  store_one<C>(a.grad_mu, row, i, grad_mu);
  return line;
}

// squares: the sum of (L_ij factor)^2 for j < i.
template <class C>
__device__ __forceinline__ void finish_line(const CholeskyBackward& a, int64_t row, int i, const LineGradient<C>& line,
                                            C squares, LineSums<2>& summed) {
  if (a.grad_prior_mu.data == nullptr) return;
  const C rest = line.k == C(0) ? C(0) : C(0.5) * line.k * squares;  // the squares may be infinite
  write_or_add(a.grad_prior_log_var, row, i, line.grad_prior_log_var - rest, summed, 1);
}

// Called by all threads, at the end.
template <class C>
__device__ __forceinline__ void finish_prior(const CholeskyBackward& a, LineSums<2>& summed) {
  if (a.sum.partials == nullptr) return;
  summed.finish();
  sum_over_blocks(a.sum, [&](int64_t i, double sum) {
    const Matrix& m = i < a.cols ? a.grad_prior_mu : a.grad_prior_log_var;
    if (m.row_stride == 0) store_one<C>(m, 0, i < a.cols ? i : i - a.cols, static_cast<C>(sum));
  });
}

}  // namespace manifold_core::cuda
