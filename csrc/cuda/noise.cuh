// The noise of four columns of a row: one block of Philox is the work of one thread.
#pragma once

#include "manifold_core/normal.h"
#include "manifold_core/philox.h"
#include "memory.cuh"

namespace manifold_core::cuda {

using namespace MC_ISA;

// Columns [col, col + 4) of a row.
__device__ __forceinline__ PhiloxBlock noise_words(uint64_t seed, uint64_t row, int64_t col) {
  return philox4x32_10(static_cast<uint32_t>(col / 4), static_cast<uint32_t>(row), static_cast<uint32_t>(row >> 32),
                       kStreamNoise, static_cast<uint32_t>(seed), static_cast<uint32_t>(seed >> 32));
}

template <class C>
__device__ __forceinline__ Vec4<C> noise(uint64_t seed, uint64_t row, int64_t col) {
  const PhiloxBlock block = noise_words(seed, row, col);
  Vec4<C> out;
#pragma unroll
  for (int pair = 0; pair < 2; ++pair) {
    const C radius = normal_radius<C>(block.word[2 * pair]);
    C cosine, sine;
    cos_sin_uniform(block.word[2 * pair + 1], cosine, sine);
    out[2 * pair] = radius * cosine;
    out[2 * pair + 1] = radius * sine;
  }
  return out;
}

}  // namespace manifold_core::cuda
