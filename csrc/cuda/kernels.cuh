// What the operators (<op>.cu) say to the kernels (<op>.cuh). No torch here.
#pragma once

#include "manifold_core/dtype.h"

#include <cuda_runtime.h>

#include <cstdint>

// A launch, and shared memory of a size that is known when it happens, are all that the CUDA language adds to C++
// without a function or a word of its own: tests run the kernels without a GPU by others.
#if defined(__CUDACC__)
#define MC_LAUNCH_SHARED(kernel, grid, block, shared, stream, ...) kernel<<<grid, block, shared, stream>>>(__VA_ARGS__)
#define MC_LAUNCH(kernel, grid, block, stream, ...) kernel<<<grid, block, 0, stream>>>(__VA_ARGS__)
#define MC_LAUNCH_TOGETHER(kernel, grid, block, shared, stream, argument) \
  ::manifold_core::cuda::launch_together(kernel, grid, block, shared, stream, argument)
#define MC_DYNAMIC_SHARED(name) extern __shared__ __align__(16) unsigned char name[]
#endif

namespace manifold_core::cuda {

#if defined(__CUDACC__)
// All blocks are on the device at once and can wait for each other. Refused where it has no room for them.
template <class Argument>
cudaError_t launch_together(void (*kernel)(Argument), unsigned blocks, unsigned threads, size_t shared,
                            cudaStream_t stream, Argument argument) {
  void* arguments[] = {&argument};
  return cudaLaunchCooperativeKernel(reinterpret_cast<const void*>(kernel), blocks, threads, arguments, shared, stream);
}
#endif

// A matrix in the caller's memory, of any stride, in elements. A stride of 0 reads one number for all, as of an
// expanded gradient or of a prior that is the same for the whole batch. data == nullptr: not given.
struct Matrix {
  void* data = nullptr;
  DType dtype = DType::f32;
  bool by_four = false;  // rows are dense and every fourth element is aligned: four are one access
  int64_t row_stride = 0;
  int64_t col_stride = 0;
};

// Sums over the batch: each block leaves its part in memory, and those who come last add the parts up in a fixed order.
struct BatchSum {
  double* parts = nullptr;      // [blocks + kFan, width]; nullptr: no sum is wanted
  unsigned* arrived = nullptr;  // [1 + kFan], zero before the kernel starts
  int64_t width = 0;            // numbers a block
};

constexpr double kLog2Pi = 1.8378770664093454836;

constexpr int kThreads = 256;  // of every block
constexpr int kFan = 32;       // blocks whose parts one of them adds up, and then groups of blocks
constexpr int kMostSummed = kFan * kFan;
constexpr int kApart = 32;     // counters in memory of which each has a line of the cache
constexpr int kNoise = 1024;   // columns of noise that a block of a full covariance holds: of one sample at least
constexpr int kMostStaged = 128;  // dimensions of a full covariance whose rows come through shared memory
constexpr int kStaged = 8320;     // numbers that a block has there at a time: of one sample at least, and 33 KB at most

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

// How the samples of a full covariance are shared out.
struct Shares {
  int threads;      // that share a sample
  int samples;      // of a block at a time
  bool staged;      // rows come through shared memory
  int buffers = 1;  // there: of two, one is filled while the other is worked on
};

struct Cholesky {
  int64_t rows, cols;
  Shares shares;
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
  Shares shares;
  uint64_t first_row;
  const int64_t* seed;
  Matrix grad_z, grad_kl;  // may be absent
  Matrix mu, tril, prior_mu, prior_log_var;
  Matrix grad_mu, grad_tril;
  Matrix grad_prior_mu, grad_prior_log_var;  // as above
  BatchSum sum;                              // of these two, [2, cols]
};

// One number on the device, float32 or float64.
struct Scalar {
  void* data = nullptr;
  DType dtype = DType::f32;
};

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
  int64_t numbers;
  Matrix grad_x_hat;  // as one row, [1, numbers]
  Scalar grad_log_gamma, grad_kl, grad_loss;
};

// B images of C channels, and how the first tensor of a call has them in memory: pixel after pixel of a channel, or the
// channels of a pixel side by side. Kernels that have no other order to keep follow it.
struct ImagesShape {
  int64_t samples, channels, pixels;
  bool channels_last;
  int groups;  // of four channels that a block takes at a time, for sums over the batch
};

// Of such a shape, in the caller's memory, of any stride. data == nullptr: not given.
struct Images {
  void* data = nullptr;
  DType dtype = DType::f32;
  bool by_four = false;  // dense and in the order of the shape, every fourth number aligned: four are one access
  int64_t sample_stride = 0;
  int64_t channel_stride = 0;
  int64_t pixel_stride = 0;
};

struct BatchNormRelu {
  ImagesShape shape;
  double eps;
  bool relu;
  Images u, residual, y;          // residual may be absent
  Matrix norm_weight, norm_bias;  // [1, channels]
  Matrix mean, variance;          // [1, channels]
  BatchSum sum;                   // [channels, 2]
  double* totals;                 // the same, added up
  void* of_channels;              // Channel [channels], in the type of the arithmetic
};

struct BatchNormReluBackward {
  ImagesShape shape;
  bool relu;
  Images grad_y, u, grad_u;
  Matrix grad_norm_weight, grad_norm_bias;  // [1, channels]
  BatchSum sum;                             // [channels, 2]
  double* totals;
  const void* of_channels;
  void* of_gradients;  // ChannelGradient [channels]
};

struct EnsembleSteps {
  const int64_t* models;  // [models, kModelWords]
  const int64_t* chosen;  // those that this launch trains, in the order of their blocks
  int blocks_a_model;     // where several, they wait for each other
  unsigned* arrived;      // of each chosen model, kApart apart; zero before the kernel starts
  int64_t steps;          // of each model, at most
  int64_t shared_limit;   // bytes that the device gives to a block
  const int64_t* scratch_from;  // where that of each chosen model begins
  float* scratch;
  float* tiles;           // of each block, where tiles do not fit in shared memory
  int64_t numbers_of_tile;
};

// Each queues one kernel on the stream. wide: the arithmetic is done in float64.
void launch(const RsampleKl& args, bool wide, cudaStream_t stream);
void launch(const RsampleKlBackward& args, bool wide, cudaStream_t stream);
void launch(const Cholesky& args, bool wide, cudaStream_t stream);
void launch(const CholeskyBackward& args, bool wide, cudaStream_t stream);
void launch(const GaussianNll& args, bool wide, cudaStream_t stream);
void launch(const GaussianNllBackward& args, bool wide, cudaStream_t stream);
void launch(const GaussianElboScale& args, bool wide, cudaStream_t stream);
void launch_sums(const BatchNormRelu& args, bool wide, cudaStream_t stream);
void launch(const BatchNormRelu& args, bool wide, cudaStream_t stream);
void launch_sums(const BatchNormReluBackward& args, bool wide, cudaStream_t stream);
void launch(const BatchNormReluBackward& args, bool wide, cudaStream_t stream);

constexpr int64_t kBusy = 1 << 17;  // threads that keep any device busy

// How many threads share a row: as many as leave few of them without work, and no more than a warp, which needs no
// barrier for its sum, unless a row is long; but where there are few rows, enough to keep a device busy.
inline int threads_a_row(int64_t rows, int64_t cols) {
  constexpr int64_t kLongRow = 512;
  const int64_t groups = (cols + 3) / 4;  // of four columns
  int threads = groups > kLongRow ? kThreads : 32;
  while (threads > 1 && 4 * ((groups + threads - 1) / threads * threads) > 5 * groups) threads /= 2;
  while (threads < kThreads && threads < groups && rows * threads < kBusy) threads *= 2;
  return threads;
}

// The same where columns are summed over the batch: a thread keeps to one group, and its sums stay in registers, if a
// block is wide enough.
inline int threads_a_row_for_sums(int64_t cols) {
  int threads = 1;
  while (threads < kThreads && 4 * int64_t{threads} < cols) threads *= 2;
  return threads;
}

// Groups of four channels among which a block divides its threads, to sum over the batch. Where channels lie side by
// side, so do the threads of one group and the next; else those of the same group, a warp of them at least.
inline int groups_of_channels(int64_t channels, bool channels_last) {
  const int most = channels_last ? 32 : kThreads / 32;
  int groups = 1;
  while (groups < most && 4 * groups < channels) groups *= 2;
  return groups;
}

// Of a full covariance. Staged: a thread a line, and 8 at least. Else a warp a sample; but several where its noise would
// not find room, and where there are few samples.
inline Shares shares(int64_t rows, int64_t cols, bool staged) {
  if (staged) {
    int threads = 8;
    while (threads < cols) threads *= 2;
    const int64_t fit = kStaged / (cols * (cols + 1) / 2), most = kThreads / threads;
    return {threads, static_cast<int>(fit < most ? fit : most), true};
  }
  int threads = 32;
  while (threads < kThreads && (kThreads * cols > kNoise * threads || (threads < cols && rows * threads < kBusy))) {
    threads *= 2;
  }
  return {threads, kThreads / threads, false};
}

// Blocks of a kernel that works on so many rows. A batch sum needs one in any case, and not too many; it must not
// depend on the device, or the order of its additions would.
inline int blocks_for(int64_t rows, int64_t rows_a_block, bool summed) {
  const int64_t needed = (rows + rows_a_block - 1) / rows_a_block;
  const int64_t most = summed ? kMostSummed : int64_t{1} << 30;
  return static_cast<int>(needed < 1 ? 1 : needed > most ? most : needed);
}

inline int blocks(int64_t rows, int threads_a_row, bool summed) {
  return blocks_for(rows, kThreads / threads_a_row, summed);
}

}  // namespace manifold_core::cuda
