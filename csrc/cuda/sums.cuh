// Sums over a row, and over the batch. Their order depends on shapes alone: not on the device, not on who comes first.
#pragma once

#include "kernels.cuh"

namespace manifold_core::cuda {

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
    __shared__ double of_warp[kThreads / kWarp];
    __syncthreads();  // the numbers of the call before have been read
    if (threadIdx.x % kWarp == 0) of_warp[threadIdx.x / kWarp] = v;
    __syncthreads();
    const int first = threadIdx.x / width * (width / kWarp);
    v = 0;
    for (int w = 0; w < width / kWarp; ++w) v += of_warp[first + w];
  }
  return v;
}

// Whether this is the last of so many blocks to come here. What the others wrote before, it can read, around its L1.
__device__ inline bool comes_last(unsigned* arrived, unsigned blocks) {
  __shared__ bool last;
  __threadfence();
  __syncthreads();
  if (threadIdx.x == 0) last = atomicAdd(arrived, 1u) == blocks - 1;
  __syncthreads();
  __threadfence();
  return last;
}

// Calls f(i, sum of number i of all parts, kFan at most) for each of `width` numbers. Called by all threads.
template <class F>
__device__ __forceinline__ void add_parts(const double* parts, int count, int64_t width, const F& f) {
  static_assert(kFan == kWarp, "those that share a number are lanes of a warp");
  constexpr int kAtOnce = 8;  // loads that do not wait for each other
  int sharing = kFan;         // threads a number: few numbers leave several for each
  while (sharing > 1 && sharing * width > kThreads) sharing /= 2;
  const int mine = threadIdx.x % sharing;
  for (int64_t first = 0; first < width; first += kThreads / sharing) {
    const int64_t i = first + threadIdx.x / sharing;
    const int end = i < width ? count : 0;
    double sum = 0;
    for (int part = mine; part < end; part += kAtOnce * sharing) {
      double v[kAtOnce];
#pragma unroll
      for (int k = 0; k < kAtOnce; ++k) {
        const int at = part + k * sharing;
        v[k] = at < end ? __ldcg(parts + at * width + i) : 0;
      }
#pragma unroll
      for (int k = 0; k < kAtOnce; ++k) sum += v[k];
    }
    for (int offset = sharing / 2; offset > 0; offset /= 2) sum += __shfl_xor_sync(kAllLanes, sum, offset);
    if (mine == 0 && i < width) f(i, sum);
  }
}

// Once every block has written its part, calls finish(i, sum of number i of all parts) for each i. Called by all
// threads. True in the one block that did so.
template <class F>
__device__ __forceinline__ bool sum_over_blocks(const BatchSum& s, const F& finish) {
  const int group = blockIdx.x / kFan, groups = (gridDim.x + kFan - 1) / kFan;
  const int rest = gridDim.x - group * kFan, members = rest < kFan ? rest : kFan;
  if (!comes_last(s.arrived + 1 + group, members)) return false;
  const double* const parts = s.parts + group * kFan * s.width;
  if (groups == 1) {
    add_parts(parts, members, s.width, finish);
    return true;
  }
  double* const of_groups = s.parts + gridDim.x * s.width;
  add_parts(parts, members, s.width, [&](int64_t i, double sum) { of_groups[group * s.width + i] = sum; });
  if (!comes_last(s.arrived, groups)) return false;
  add_parts(of_groups, groups, s.width, finish);
  return true;
}

// Leaves sums over the block in memory, from number `first` of the block's part on; those behind its end are left out.
// A thread brings numbers of its group alone, one for each warp to add up, and their sums lie side by side, group after
// group. There are a power of two of groups, as many as lanes at most.
__device__ inline void leave_parts(const BatchSum& s, int64_t first, const double (&v)[kThreads / kWarp], int groups,
                                   int group, int thread) {
  __shared__ double brought[kThreads / kWarp][kThreads];
  __syncthreads();  // those of the call before have been read
#pragma unroll
  for (int i = 0; i < kThreads / kWarp; ++i) brought[i][thread * groups + group] = v[i];
  __syncthreads();
  const int warp = threadIdx.x / kWarp, lane = threadIdx.x % kWarp;
  double sum = 0;
#pragma unroll
  for (int at = lane; at < kThreads; at += kWarp) sum += brought[warp][at];
  for (int offset = kWarp / 2; offset >= groups; offset /= 2) sum += __shfl_xor_sync(kAllLanes, sum, offset);
  const int64_t number = first + lane * (kThreads / kWarp) + warp;
  if (lane < groups && number < s.width) s.parts[blockIdx.x * s.width + number] = sum;
}

// Sums over the batch of n numbers for each column. While a block is as wide as a row they stay in registers, else each
// thread adds to the columns it owns in memory.
template <int n>
class ColumnSums {
 public:
  __device__ __forceinline__ ColumnSums(const BatchSum& s, int64_t cols, int threads_a_row)
      : mine_(s.parts + blockIdx.x * s.width), cols_(cols), width_(threads_a_row),
        in_registers_(cols <= 4 * int64_t{threads_a_row}) {
    if (!in_registers_) {  // then a row is as wide as the block
      for (int64_t col = 4 * threadIdx.x; col < cols; col += 4 * kThreads) {
        for (int which = 0; which < n; ++which) {
          for (int64_t c = col; c < cols && c < col + 4; ++c) mine_[which * cols + c] = 0;
        }
      }
    }
  }

  template <int which, class Numbers>
  __device__ __forceinline__ void add(int64_t col, const Numbers& four) {
    if (in_registers_) {
#pragma unroll
      for (int k = 0; k < 4; ++k) sum_[which][k] += static_cast<double>(four[k]);
    } else {
      for (int k = 0; k < 4 && col + k < cols_; ++k) mine_[which * cols_ + col + k] += static_cast<double>(four[k]);
    }
  }

  // Leaves the block's part in memory. Called by all threads.
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

// Of kernels that sum nothing over the batch.
template <>
class ColumnSums<0> {
 public:
  __device__ __forceinline__ ColumnSums(const BatchSum&, int64_t, int) {}
  template <int which, class Numbers>
  __device__ __forceinline__ void add(int64_t, const Numbers&) {}
  __device__ __forceinline__ void finish() {}
};

}  // namespace manifold_core::cuda
