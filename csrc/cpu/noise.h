// A tile of standard normal noise: the words of normal.h, several blocks at once.
#pragma once

#include "manifold_core/normal.h"
#include "manifold_core/philox.h"
#include "tile.h"

namespace manifold_core::MC_ISA {

// Philox multiplies 32-bit words into 64 bits. Each word sits in the low half of a 64-bit lane: the processor's
// 32 x 32 -> 64 multiplication ignores the high half, so nothing has to be masked or shuffled between the rounds.
constexpr int kLanes = MC_VECTOR_BYTES / 8;
using Lanes = uint64_t __attribute__((vector_size(8 * kLanes)));
using Words = uint32_t __attribute__((vector_size(4 * kLanes)));

MC_INLINE Lanes multiply_words(Lanes a, uint32_t factor) {
#if MC_VECTOR_BYTES == 64
  return reinterpret_cast<Lanes>(_mm512_mul_epu32(reinterpret_cast<__m512i>(a), _mm512_set1_epi64(factor)));
#elif MC_VECTOR_BYTES == 32
  return reinterpret_cast<Lanes>(_mm256_mul_epu32(reinterpret_cast<__m256i>(a), _mm256_set1_epi64x(factor)));
#elif defined(__SSE2__)
  return reinterpret_cast<Lanes>(_mm_mul_epu32(reinterpret_cast<__m128i>(a), _mm_set1_epi64x(factor)));
#else
  return (a & 0xffffffffu) * uint64_t{factor};
#endif
}

// The keys of the ten rounds, in memory: from there an instruction takes one for all its lanes.
struct PhiloxKeys {
  uint64_t low[10], high[10];

  MC_INLINE explicit PhiloxKeys(uint64_t seed) {
    for (uint32_t round = 0; round < 10; ++round) {
      low[round] = static_cast<uint32_t>(static_cast<uint32_t>(seed) + round * 0x9E3779B9u);
      high[round] = static_cast<uint32_t>(static_cast<uint32_t>(seed >> 32) + round * 0xBB67AE85u);
    }
  }
};

// The four words of as many blocks as there are lanes, by f(which of the four, words).
template <class F>
MC_INLINE void philox_words(Lanes block, Lanes row, const PhiloxKeys& keys, const F& f) {
  Lanes c0 = block, c1 = row, c2 = row >> 32, c3 = Lanes{} + kStreamNoise;
  for (int round = 0; round < 10; ++round) {  // as philox4x32_10 in philox.h
    const Lanes p0 = multiply_words(c0, 0xD2511F53u), p1 = multiply_words(c2, 0xCD9E8D57u);
    c0 = (p1 >> 32) ^ c1 ^ keys.low[round];
    c1 = p1;
    c2 = (p0 >> 32) ^ c3 ^ keys.high[round];
    c3 = p0;
  }
  const Lanes words[4] = {c0, c1, c2, c3};
  for (int w = 0; w < 4; ++w) f(w, __builtin_convertvector(words[w], Words));
}

// The words of kTile / 4 blocks; the row of a block is the first row plus its row in the tile.
template <class C>
class NoiseTile {
 public:
  // For tiles of up to `rows` rows of `blocks` blocks each.
  NoiseTile(uint64_t seed, int64_t rows, int64_t blocks) : keys_(seed) {
    int64_t at = 0;
    for (int64_t i = 0; i < rows; ++i) {
      for (int64_t j = 0; j < blocks; ++j, ++at) {
        row_in_tile_[at] = static_cast<uint64_t>(i);
        block_in_row_[at] = static_cast<uint64_t>(j);
      }
    }
    for (; at < kBlocks; ++at) row_in_tile_[at] = block_in_row_[at] = 0;
  }

  // out[4 b + lane]: noise of the first `count` blocks of a tile that starts at this row and block. More is written, up
  // to a whole number of vectors: out has kTile elements.
  MC_INLINE void fill(uint64_t row, uint64_t block, int64_t count, C* out) const {
    const int64_t padded = (count + kRound - 1) / kRound * kRound;
    alignas(64) uint32_t word[4][kBlocks];
    for (int64_t b = 0; b < padded; b += kLanes) {
      Lanes in_row, in_tile;
      memcpy(&in_row, block_in_row_ + b, sizeof(Lanes));
      memcpy(&in_tile, row_in_tile_ + b, sizeof(Lanes));
      philox_words(in_row + block, in_tile + row, keys_,
                   [&](int w, Words low) { memcpy(word[w] + b, &low, sizeof(Words)); });
    }
    // Two loops in turn: while the first waits for square roots, the processor is already at work on the second.
    alignas(64) C radius[2][kBlocks];
    for (int64_t first = 0, last; first < padded; first = last) {
      last = first + kStretch < padded ? first + kStretch : padded;
      for (int64_t b = first; b < last; ++b) {
        radius[0][b] = normal_radius<C>(word[0][b]);
        radius[1][b] = normal_radius<C>(word[2][b]);
      }
      for (int64_t b = first; b < last; ++b) {
        C cosine, sine;
        cos_sin_uniform(word[1][b], cosine, sine);
        out[4 * b] = radius[0][b] * cosine;
        out[4 * b + 1] = radius[0][b] * sine;
        cos_sin_uniform(word[3][b], cosine, sine);
        out[4 * b + 2] = radius[1][b] * cosine;
        out[4 * b + 3] = radius[1][b] * sine;
      }
    }
  }

 private:
  static constexpr int64_t kBlocks = kTile / 4;
  static constexpr int64_t kRound = 16;  // divides kBlocks; loops without a remainder are twice as fast
  const PhiloxKeys keys_;
  static constexpr int64_t kStretch = 64;
  alignas(64) uint64_t row_in_tile_[kBlocks];
  alignas(64) uint64_t block_in_row_[kBlocks];
};

}  // namespace manifold_core::MC_ISA
