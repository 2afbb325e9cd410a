// The blocks that share a model: each takes some of the chunks of a mini-batch and some of the parameters. What they
// tell each other goes through global memory, around L1.
#pragma once

#include "dense.cuh"

namespace manifold_core::cuda {

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
      __threadfence();
      atomicAdd(arrived, 1u);
      while (static_cast<int>(*static_cast<const volatile unsigned*>(arrived) - awaited) < 0) __nanosleep(20);
      __threadfence();
    }
    __syncthreads();
  }
};

enum Sum : int { kErrorForGamma, kError, kKl, kRatios };
static_assert(kRatios == kSums, "the ratios stand behind them");

// Number `which` of the sums of all chunks, added up. Called by all threads; all get the same.
__device__ __forceinline__ double sum_of_chunks(const Team& team, int chunks, int64_t width, int which) {
  static_assert(kMostChunks <= kWarp, "a lane has a chunk");
  const int lane = threadIdx.x % kWarp;
  return sum_over_threads(lane < chunks ? __ldcg(team.sums + lane * width + which) : 0.0, kWarp);
}

__device__ __forceinline__ Quad read_quad_of_team(const float* from) {
  const float4 v = __ldcg(reinterpret_cast<const float4*>(from));
  return {{v.x, v.y, v.z, v.w}};
}

// The gradient of the whole batch, of four numbers side by side.
__device__ __forceinline__ Quad gradient_of_team(const Team& team, const Layout& layout, int place) {
  const float* from = team.gradients + place;
  Quad sum = read_quad_of_team(from);
#pragma unroll 4
  for (int chunk = 1; chunk < layout.chunks; ++chunk) {
    const Quad more = read_quad_of_team(from + chunk * layout.parameters);
#pragma unroll
    for (int k = 0; k < 4; ++k) sum.at[k] += more.at[k];
  }
  return sum;
}

}  // namespace manifold_core::cuda
