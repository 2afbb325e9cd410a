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
  static_assert(kFan == kWarp, "a lane has a part");
  if (width <= kThreads / kWarp) {  // few numbers: a warp each, whose lanes need not wait for one load after the other
    const int64_t i = threadIdx.x / kWarp, lane = threadIdx.x % kWarp;
    if (i >= width) return;
    const double sum = sum_over_threads(lane < count ? __ldcg(parts + lane * width + i) : 0.0, kWarp);
    if (lane == 0) f(i, sum);
    return;
  }
  for (int64_t i = threadIdx.x; i < width; i += kThreads) {
    double sum = 0;
#pragma unroll 8
    for (int part = 0; part < count; ++part) sum += __ldcg(parts + part * width + i);
    f(i, sum);
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

// Of n numbers that each lane brings, n a power of two, the sum over so many lanes of number lane % n: at each step a
// lane keeps one half and gives the other away.
template <int n>
__device__ __forceinline__ double sums_over_lanes(const double (&v)[n]) {
  if constexpr (n == 1) {
    return v[0];
  } else {
    constexpr int half = n / 2;
    const bool upper = threadIdx.x & half;
    double kept[half];
#pragma unroll
    for (int i = 0; i < half; ++i) {
      const double given = __shfl_xor_sync(kAllLanes, upper ? v[i] : v[i + half], half);
      kept[i] = (upper ? v[i + half] : v[i]) + given;
    }
    return sums_over_lanes(kept);
  }
}

// Leaves the sums over the block of n numbers that each thread brings, from number `first` of the block's part on;
// those behind its end are left out. `turn` counts the calls.
template <int n>
__device__ __forceinline__ void leave_parts(const BatchSum& s, int64_t first, const double (&v)[n], int turn) {
  __shared__ double of_warp[2][kThreads / kWarp][n];  // of a turn while others still read those of the one before
  const int t = threadIdx.x;
  double sum = sums_over_lanes(v);
  for (int offset = n; offset < kWarp; offset *= 2) sum += __shfl_xor_sync(kAllLanes, sum, offset);
  if (t % kWarp < n) of_warp[turn % 2][t / kWarp][t % kWarp] = sum;
  __syncthreads();
  if (t >= n || first + t >= s.width) return;
  double total = 0;
  for (int warp = 0; warp < kThreads / kWarp; ++warp) total += of_warp[turn % 2][warp][t];
  s.parts[blockIdx.x * s.width + first + t] = total;
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
