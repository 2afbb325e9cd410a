// Sums over a row, and over the batch. Their order depends on shapes alone: not on the device, not on who comes first.
#pragma once

#include "launch.cuh"

namespace manifold_core::cuda {

// A sum over the batch. Each block writes its partial sums to global memory; the last blocks to arrive add them up, in
// a fixed order.
struct BatchSum {
  double* partials = nullptr;   // [blocks + kReduceWidth, width]; nullptr: no sum is wanted
  unsigned* arrived = nullptr;  // [1 + kReduceWidth], zero before the kernel starts
  int64_t width = 0;            // sums of a block
};

constexpr int kWarp = 32;
constexpr unsigned kAllLanes = 0xffffffffu;

// The sum of v over the warp, for all its lanes.
template <class T>
__device__ __forceinline__ T sum_over_warp(T v) {
  for (int offset = kWarp / 2; offset > 0; offset /= 2) v += __shfl_xor_sync(kAllLanes, v, offset);
  return v;
}

// The sum of v over each `width` threads in turn, a power of two, for all of them. Called by every thread of the block.
__device__ inline double sum_over_threads(double v, int width) {
  for (int offset = (width < kWarp ? width : kWarp) / 2; offset > 0; offset /= 2) {
    v += __shfl_xor_sync(kAllLanes, v, offset);
  }
  if (width > kWarp) {
    __shared__ double warp_sums[kThreads / kWarp];
    __syncthreads();  // those of the call before have been read
    if (threadIdx.x % kWarp == 0) warp_sums[threadIdx.x / kWarp] = v;
    __syncthreads();
    const int first = threadIdx.x / width * (width / kWarp);
    v = 0;
    for (int w = 0; w < width / kWarp; ++w) v += warp_sums[first + w];
  }
  return v;
}

// Whether this is the last of so many blocks to arrive here. It can read what the others wrote before, bypassing its
// L1.
__device__ inline bool is_last_block(unsigned* arrived, unsigned blocks) {
  __shared__ bool last;
  __threadfence();
  __syncthreads();
  if (threadIdx.x == 0) last = atomicAdd(arrived, 1u) == blocks - 1;
  __syncthreads();
  __threadfence();
  return last;
}

// Adds up partial sums of `count` blocks, kReduceWidth at most, and calls f(i, sum i). Called by all threads.
template <class F>
__device__ __forceinline__ void reduce_partials(const double* partials, int count, int64_t width, const F& f) {
  static_assert(kReduceWidth == kWarp, "the threads of a sum are lanes of one warp");
  constexpr int kInFlight = 8;  // loads that do not wait for each other
  int threads = kReduceWidth;   // of one sum: if there are few sums, several threads share each
  while (threads > 1 && threads * width > kThreads) threads /= 2;
  const int rank = threadIdx.x % threads;
  for (int64_t first = 0; first < width; first += kThreads / threads) {
    const int64_t i = first + threadIdx.x / threads;
    const int end = i < width ? count : 0;
    double sum = 0;
    for (int block = rank; block < end; block += kInFlight * threads) {
      double v[kInFlight];
#pragma unroll
      for (int k = 0; k < kInFlight; ++k) {
        const int b = block + k * threads;
        v[k] = b < end ? __ldcg(partials + b * width + i) : 0;
      }
#pragma unroll
      for (int k = 0; k < kInFlight; ++k) sum += v[k];
    }
    for (int offset = threads / 2; offset > 0; offset /= 2) sum += __shfl_xor_sync(kAllLanes, sum, offset);
    if (rank == 0 && i < width) f(i, sum);
  }
}

// Once every block has written its partial sums, the last one calls finish(i, total i) for each i, and gets true.
// Called by all threads.
template <class F>
__device__ __forceinline__ bool sum_over_blocks(const BatchSum& s, const F& finish) {
  const int group = blockIdx.x / kReduceWidth, groups = (gridDim.x + kReduceWidth - 1) / kReduceWidth;
  const int rest = gridDim.x - group * kReduceWidth, members = rest < kReduceWidth ? rest : kReduceWidth;
  if (!is_last_block(s.arrived + 1 + group, members)) return false;
  const double* const partials = s.partials + group * kReduceWidth * s.width;
  if (groups == 1) {
    reduce_partials(partials, members, s.width, finish);
    return true;
  }
  double* const group_sums = s.partials + gridDim.x * s.width;
  reduce_partials(partials, members, s.width, [&](int64_t i, double sum) { group_sums[group * s.width + i] = sum; });
  if (!is_last_block(s.arrived, groups)) return false;
  reduce_partials(group_sums, groups, s.width, finish);
  return true;
}

// Adds up over the block, and writes its partial sums from `first` on; those behind the last one are left out. A thread
// brings values of its own group, one for each warp to add up; their sums lie side by side, group after group. The
// number of groups is a power of two, kWarp at most.
__device__ inline void write_partials(const BatchSum& s, int64_t first, const double (&v)[kThreads / kWarp], int groups,
                                      int group, int thread) {
  __shared__ double values[kThreads / kWarp][kThreads];
  __syncthreads();  // those of the call before have been read
#pragma unroll
  for (int i = 0; i < kThreads / kWarp; ++i) values[i][thread * groups + group] = v[i];
  __syncthreads();
  const int warp = threadIdx.x / kWarp, lane = threadIdx.x % kWarp;
  double sum = 0;
#pragma unroll
  for (int i = lane; i < kThreads; i += kWarp) sum += values[warp][i];
  for (int offset = kWarp / 2; offset >= groups; offset /= 2) sum += __shfl_xor_sync(kAllLanes, sum, offset);
  const int64_t i = first + lane * (kThreads / kWarp) + warp;
  if (lane < groups && i < s.width) s.partials[blockIdx.x * s.width + i] = sum;
}

// This block's n sums over the batch for each column. If a block is as wide as a row they stay in registers, else
// each thread adds to its columns in global memory.
template <int n>
class ColumnSums {
 public:
  __device__ __forceinline__ ColumnSums(const BatchSum& s, int64_t cols, int threads_a_row)
      : mine_(s.partials + blockIdx.x * s.width), cols_(cols), width_(threads_a_row),
        in_registers_(cols <= 4 * int64_t{threads_a_row}) {
    if (!in_registers_) {  // then a row is as wide as the block
      for (int64_t col = 4 * threadIdx.x; col < cols; col += 4 * kThreads) {
        for (int which = 0; which < n; ++which) {
          for (int64_t c = col; c < cols && c < col + 4; ++c) mine_[which * cols + c] = 0;
        }
      }
    }
  }

  template <int which, class Values>
  __device__ __forceinline__ void add(int64_t col, const Values& four) {
    if (in_registers_) {
#pragma unroll
      for (int k = 0; k < 4; ++k) sum_[which][k] += static_cast<double>(four[k]);
    } else {
      for (int k = 0; k < 4 && col + k < cols_; ++k) mine_[which * cols_ + col + k] += static_cast<double>(four[k]);
    }
  }

  // Writes this block's partial sums to global memory. Called by all threads.
  __device__ __forceinline__ void finish() {
    if (!in_registers_) return;
    __shared__ double slot[4][kThreads];
    const int t = threadIdx.x;
#pragma unroll
    for (int which = 0; which < n; ++which) {
#pragma unroll
      for (int k = 0; k < 4; ++k) slot[k][t] = sum_[which][k];
      for (int half = kThreads / 2; half >= width_; half /= 2) {
        __syncthreads();
        if (t < half) {
#pragma unroll
          for (int k = 0; k < 4; ++k) slot[k][t] += slot[k][t + half];
        }
      }
      // From here on a thread sees only its own slots.
      for (int k = 0; k < 4 && t < width_ && 4 * t + k < cols_; ++k) mine_[which * cols_ + 4 * t + k] = slot[k][t];
      __syncthreads();
    }
  }

 private:
  double* mine_;
  int64_t cols_;
  int width_;
  bool in_registers_;
  double sum_[n][4] = {};
};

// For kernels that sum nothing over the batch.
template <>
class ColumnSums<0> {
 public:
  __device__ __forceinline__ ColumnSums(const BatchSum&, int64_t, int) {}
  template <int which, class Values>
  __device__ __forceinline__ void add(int64_t, const Values&) {}
  __device__ __forceinline__ void finish() {}
};

}  // namespace manifold_core::cuda
