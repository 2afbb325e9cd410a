// The blocks that share a model: each takes some of the chunks of a mini-batch and some of the parameters. They
// exchange data through global memory, bypassing L1.
#pragma once

#include "dense.cuh"

namespace manifold_core::cuda {

// Adds 1 to a counter of the team, with release semantics, and waits until it is as large as awaited, with acquire
// semantics: what each block wrote before it arrived can then be read by all.
__device__ __forceinline__ void arrive_and_wait(unsigned* arrived, unsigned awaited) {
#if defined(__CUDA_ARCH__)
  unsigned found;
  asm volatile("red.release.gpu.global.add.u32 [%0], 1;" ::"l"(arrived) : "memory");
  do {
    __nanosleep(20);
    asm volatile("ld.relaxed.gpu.global.u32 %0, [%1];" : "=r"(found) : "l"(arrived) : "memory");
  } while (static_cast<int>(found - awaited) < 0);
  asm volatile("fence.acq_rel.gpu;" ::: "memory");
#else
  __atomic_fetch_add(arrived, 1, __ATOMIC_RELEASE);
  while (static_cast<int>(__atomic_load_n(arrived, __ATOMIC_ACQUIRE) - awaited) < 0) __nanosleep(20);
#endif
}

struct Team {
  int member, blocks;
  unsigned* arrived;  // at all barriers so far, by all blocks
  unsigned awaited;   // of thread 0

  float* parameters;  // in the order of the layout
  float* gradients;   // of each chunk
  double* sums;       // of each chunk: squared error in a pass only forwards, squared error, KL, variance ratios

  // Once all threads of all blocks have come here, what each of them wrote can be read.
  __device__ __forceinline__ void wait() {
    __syncthreads();
    if (blocks == 1) return;
    if (threadIdx.x == 0) {
      awaited += blocks;
      arrive_and_wait(arrived, awaited);
    }
    __syncthreads();
  }
};

enum Sum : int { kErrorForGamma, kError, kKl, kRatios };
static_assert(kRatios == kSums, "the ratios stand behind them");

// Sum `which` over all chunks. Called by a warp; all its lanes get the same.
__device__ __forceinline__ double sum_of_chunks(const Team& team, int chunks, int64_t width, int which) {
  static_assert(kMostChunks <= kWarp, "a lane has a chunk");
  const int lane = threadIdx.x % kWarp;
  return sum_over_warp(lane < chunks ? __ldcg(team.sums + lane * width + which) : 0.0);
}

__device__ __forceinline__ Quad read_quad_of_team(const float* from) {
  const float4 v = __ldcg(reinterpret_cast<const float4*>(from));
  return {{v.x, v.y, v.z, v.w}};
}

// The gradient of the whole batch, of four neighbouring parameters.
__device__ __forceinline__ Quad gradient_of_team(const Team& team, const Layout& layout, int offset) {
  const int chunks = layout.chunks;
  const int64_t stride = layout.parameters;
  const float* from = team.gradients + offset;
  Quad sum = {};
  constexpr int kInFlight = 4;  // loads
  for (int first = 0; first < chunks; first += kInFlight, from += kInFlight * stride) {
    Quad more[kInFlight] = {};
#pragma unroll
    for (int n = 0; n < kInFlight; ++n) {
      if (first + n < chunks) more[n] = read_quad_of_team(from + n * stride);
    }
#pragma unroll
    for (int n = 0; n < kInFlight; ++n) {
#pragma unroll
      for (int k = 0; k < 4; ++k) sum.at[k] += more[n].at[k];
    }
  }
  return sum;
}

}  // namespace manifold_core::cuda
