// A tile of standard normal noise: the words of normal.h, several blocks at once.
#pragma once

#include "manifold_core/normal.h"
#include "manifold_core/philox.h"
#include "tile.h"

namespace manifold_core::MC_ISA {

// Philox multiplies 32-bit words into 64 bits. The processor does so with the low halves of 64-bit lanes: first with
// every other word of a vector, then with those between, and both halves of the products go back to where the words were.
constexpr int kLanes = MC_VECTOR_BYTES / 4;
using Words = uint32_t __attribute__((vector_size(4 * kLanes)));
using Wide = uint64_t __attribute__((vector_size(4 * kLanes)));

struct Product {
  Words high, low;
};

#if MC_VECTOR_BYTES == 64
MC_INLINE Wide multiply_low_halves(Wide a, uint32_t factor) {
  return reinterpret_cast<Wide>(_mm512_mul_epu32(reinterpret_cast<__m512i>(a), _mm512_set1_epi32(factor)));
}

// A shuffle under a mask is a shift and a blend in one.
MC_INLINE Product high_and_low(Wide even, Wide odd) {
  const __m512i e = reinterpret_cast<__m512i>(even), o = reinterpret_cast<__m512i>(odd);
  return {reinterpret_cast<Words>(_mm512_mask_shuffle_epi32(o, 0x5555, e, _MM_PERM_CDAB)),
          reinterpret_cast<Words>(_mm512_mask_shuffle_epi32(e, 0xAAAA, o, _MM_PERM_CDAB))};
}
#elif MC_VECTOR_BYTES == 32
MC_INLINE Wide multiply_low_halves(Wide a, uint32_t factor) {
  return reinterpret_cast<Wide>(_mm256_mul_epu32(reinterpret_cast<__m256i>(a), _mm256_set1_epi32(factor)));
}

MC_INLINE Product high_and_low(Wide even, Wide odd) {
  const auto blend = [](Wide a, Wide b) {
    return reinterpret_cast<Words>(
        _mm256_blend_epi32(reinterpret_cast<__m256i>(a), reinterpret_cast<__m256i>(b), 0xAA));
  };
  return {blend(even >> 32, odd), blend(even, odd << 32)};
}
#else
constexpr uint64_t kLowHalf = 0xffffffffu;

MC_INLINE Wide multiply_low_halves(Wide a, uint32_t factor) {
#if defined(__SSE2__)
  return reinterpret_cast<Wide>(_mm_mul_epu32(reinterpret_cast<__m128i>(a), _mm_set1_epi32(factor)));
#else
  return (a & kLowHalf) * uint64_t{factor};
#endif
}

MC_INLINE Product high_and_low(Wide even, Wide odd) {
  return {reinterpret_cast<Words>(even >> 32 | (odd & ~kLowHalf)), reinterpret_cast<Words>((even & kLowHalf) | odd << 32)};
}
#endif

MC_INLINE Product multiply_words(Words a, uint32_t factor) {
  const Wide wide = reinterpret_cast<Wide>(a);
  return high_and_low(multiply_low_halves(wide, factor), multiply_low_halves(wide >> 32, factor));
}

// The keys of the ten rounds, in memory: from there an instruction takes one for all its lanes.
struct PhiloxKeys {
  uint32_t low[10], high[10];

  MC_INLINE explicit PhiloxKeys(uint64_t seed) {
    for (uint32_t round = 0; round < 10; ++round) {
      low[round] = static_cast<uint32_t>(seed) + round * 0x9E3779B9u;
      high[round] = static_cast<uint32_t>(seed >> 32) + round * 0xBB67AE85u;
    }
  }
};

// A round waits for the one before: the processor is at work on a second vector meanwhile.
constexpr int kVectors = 2;
constexpr int kBlocksAtOnce = kVectors * kLanes;

// Calls f(offset, which of the four, words) with the words of kBlocksAtOnce blocks: block + blocks[i] of row + rows[i].
template <class F>
MC_INLINE void philox_words(uint32_t block, const uint32_t* blocks, uint64_t row, const uint32_t* rows,
                            const PhiloxKeys& keys, const F& f) {
  Words c0[kVectors], c1[kVectors], c2[kVectors], c3[kVectors];
#pragma GCC unroll 2
  for (int v = 0; v < kVectors; ++v) {
    Words in_row, in_tile;
    memcpy(&in_row, blocks + v * kLanes, sizeof(Words));
    memcpy(&in_tile, rows + v * kLanes, sizeof(Words));
    c0[v] = in_row + block;
    c1[v] = in_tile + static_cast<uint32_t>(row);
    c2[v] = static_cast<uint32_t>(row >> 32) - reinterpret_cast<Words>(c1[v] < in_tile);  // the carry: true is -1
    c3[v] = Words{} + kStreamNoise;
  }
#pragma GCC unroll 10
  for (int round = 0; round < 10; ++round) {  // as philox4x32_10 in philox.h
#pragma GCC unroll 2
    for (int v = 0; v < kVectors; ++v) {
      const Product p0 = multiply_words(c0[v], 0xD2511F53u), p1 = multiply_words(c2[v], 0xCD9E8D57u);
      c0[v] = p1.high ^ (c1[v] ^ keys.low[round]);
      c1[v] = p1.low;
      c2[v] = p0.high ^ (c3[v] ^ keys.high[round]);
      c3[v] = p0.low;
    }
  }
#pragma GCC unroll 2
  for (int v = 0; v < kVectors; ++v) {
    f(v * kLanes, 0, c0[v]);
    f(v * kLanes, 1, c1[v]);
    f(v * kLanes, 2, c2[v]);
    f(v * kLanes, 3, c3[v]);
  }
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
        row_in_tile_[at] = static_cast<uint32_t>(i);
        block_in_row_[at] = static_cast<uint32_t>(j);
      }
    }
    for (; at < kBlocks; ++at) row_in_tile_[at] = block_in_row_[at] = 0;
  }

  // out[4 b + lane]: noise of the first `count` blocks of a tile that starts at this row and block. More is written, up
  // to a whole number of vectors: out has kTile elements.
  MC_INLINE void fill(uint64_t row, uint64_t block, int64_t count, C* out) const {
    const int64_t padded = (count + kRound - 1) / kRound * kRound;
    alignas(64) uint32_t word[4][kBlocks];
    for (int64_t b = 0; b < padded; b += kBlocksAtOnce) {
      philox_words(static_cast<uint32_t>(block), block_in_row_ + b, row, row_in_tile_ + b, keys_,
                   [&](int64_t at, int w, Words words) { memcpy(word[w] + b + at, &words, sizeof(Words)); });
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
  static constexpr int64_t kRound = kBlocksAtOnce < 16 ? 16 : kBlocksAtOnce;  // loops without a remainder are twice as fast
  static constexpr int64_t kStretch = 64;
  static_assert(kBlocks % kRound == 0 && kRound % kBlocksAtOnce == 0);
  const PhiloxKeys keys_;
  alignas(64) uint32_t row_in_tile_[kBlocks];
  alignas(64) uint32_t block_in_row_[kBlocks];
};

}  // namespace manifold_core::MC_ISA
