// Philox4x32-10, the counter-based generator of Salmon et al., "Parallel random numbers: as easy as 1, 2, 3" (SC 2011).
//
// The library's contract: element (row, column) of a noise tensor is word  column % 4  of the block with
//     counter = (column / 4, row low, row high, stream),   key = (seed low, seed high).
// It depends on nothing else: not on the device, the number of threads, the block size or the split of the batch.
#pragma once

#include "macros.h"

#include <cstdint>

namespace manifold_core::MC_ISA {

// What a block of words is used for. Never renumber: seeds would change their meaning.
constexpr uint32_t kStreamNoise = 0;

constexpr uint32_t kFactor0 = 0xD2511F53u, kFactor1 = 0xCD9E8D57u;

struct PhiloxBlock {
  uint32_t word[4];
};

MC_INLINE PhiloxBlock philox4x32_10(uint32_t c0, uint32_t c1, uint32_t c2, uint32_t c3, uint32_t k0, uint32_t k1) {
  for (int round = 0; round < 10; ++round) {
    const uint64_t p0 = uint64_t{kFactor0} * c0;
    const uint64_t p1 = uint64_t{kFactor1} * c2;
    c0 = static_cast<uint32_t>(p1 >> 32) ^ c1 ^ k0;
    c1 = static_cast<uint32_t>(p1);
    c2 = static_cast<uint32_t>(p0 >> 32) ^ c3 ^ k1;
    c3 = static_cast<uint32_t>(p0);
    k0 += 0x9E3779B9u;
    k1 += 0xBB67AE85u;
  }
  return {{c0, c1, c2, c3}};
}

}  // namespace manifold_core::MC_ISA
