// The order of the samples in an epoch: a permutation of [0, n) that is computed place by place, never stored.
//
// The definition is in kernels/random.py: eight rounds of a Feistel network on as many bits as n - 1 has (two at least),
// keyed by the eight Philox words of columns 0 to 7 of (seed, row = epoch, stream 1). What falls outside [0, n) goes
// through it again.
#pragma once

#include "philox.h"

namespace manifold_core::MC_ISA {

constexpr uint32_t kStreamOrder = 1;

MC_INLINE uint32_t scramble(uint32_t x) {
  x *= 0x9E3779B1u;
  x ^= x >> 15;
  x *= 0x85EBCA77u;
  return x ^ (x >> 13);
}

struct Permutation {
  uint32_t last, low_bits, low_mask, high_mask;
  uint32_t key[8];

  Permutation() = default;  // of nothing, as what lies in a GPU's shared memory begins

  MC_INLINE Permutation(uint64_t seed, uint64_t epoch, uint64_t count) {
    int bits = 2;
    while (bits < 32 && (uint64_t{1} << bits) < count) ++bits;
    last = static_cast<uint32_t>(count - 1);  // of 2^32 samples too
    low_bits = bits / 2;
    low_mask = (1u << low_bits) - 1;
    high_mask = (1u << (bits - low_bits)) - 1;
    for (uint32_t block = 0; block < 2; ++block) {
      const PhiloxBlock words =
          philox4x32_10(block, static_cast<uint32_t>(epoch), static_cast<uint32_t>(epoch >> 32), kStreamOrder,
                        static_cast<uint32_t>(seed), static_cast<uint32_t>(seed >> 32));
      for (int w = 0; w < 4; ++w) key[4 * block + w] = words.word[w];
    }
  }

  MC_INLINE uint32_t once(uint32_t v) const {
    uint32_t low = v & low_mask, high = v >> low_bits;
    for (int round = 0; round < 8; round += 2) {
      high ^= scramble(low ^ key[round]) & high_mask;
      low ^= scramble(high ^ key[round + 1]) & low_mask;
    }
    return high << low_bits | low;
  }

  // The sample at this place of the epoch.
  MC_INLINE uint32_t at(uint32_t place) const {
    uint32_t v = once(place);
    while (v > last) v = once(v);
    return v;
  }
};

}  // namespace manifold_core::MC_ISA
