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

// What three rounds make of the block and of the row's high word. Only two of their six products wait for the low word.
struct PhiloxStart {
  uint32_t word[4];

  MC_INLINE PhiloxStart(const PhiloxKeys& keys, uint32_t block, uint32_t row_high) {
    const uint64_t p0 = uint64_t{kFactor0} * block, p1 = uint64_t{kFactor1} * row_high;
    const uint64_t q1 = uint64_t{kFactor1} * (high(p0) ^ kStreamNoise ^ keys.high[0]);
    const uint64_t r0 = uint64_t{kFactor0} * (high(q1) ^ low(p1) ^ keys.low[1]);
    word[0] = low(p0) ^ keys.high[1];
    word[1] = low(q1) ^ keys.low[2];
    word[2] = high(r0) ^ keys.high[2];
    word[3] = low(r0);
  }

  // What the first round combines with the low word of the row.
  static MC_INLINE uint32_t key_of_row(const PhiloxKeys& keys, uint32_t row_high) {
    return high(uint64_t{kFactor1} * row_high) ^ keys.low[0];
  }

 private:
  static MC_INLINE uint32_t low(uint64_t product) { return static_cast<uint32_t>(product); }
  static MC_INLINE uint32_t high(uint64_t product) { return static_cast<uint32_t>(product >> 32); }
};

// Calls f(offset, which of the four, words) with the words of kBlocksAtOnce blocks, which begin with start[..][i], of
// rows row + rows[i]. All of these have one high word.
template <class F>
MC_INLINE void philox_words(const PhiloxKeys& keys, uint64_t row, const uint32_t* rows,
                            const uint32_t* const (&start)[4], const F& f) {
  const uint32_t key_of_row = PhiloxStart::key_of_row(keys, static_cast<uint32_t>(row >> 32));
  Words c0[kVectors], c1[kVectors], c2[kVectors], c3[kVectors];
#pragma GCC unroll 2
  for (int v = 0; v < kVectors; ++v) {
    const auto load = [&](const uint32_t* from) {
      Words words;
      memcpy(&words, from + v * kLanes, sizeof(Words));
      return words;
    };
    const Product p0 = multiply_words((load(rows) + static_cast<uint32_t>(row)) ^ key_of_row, kFactor0);
    const Product p1 = multiply_words(p0.high ^ load(start[0]), kFactor1);
    c0[v] = p1.high ^ load(start[1]);
    c1[v] = p1.low;
    c2[v] = p0.low ^ load(start[2]);
    c3[v] = load(start[3]);
  }
#pragma GCC unroll 7
  for (int round = 3; round < 10; ++round) {  // as philox4x32_10 in philox.h
#pragma GCC unroll 2
    for (int v = 0; v < kVectors; ++v) {
      const Product p0 = multiply_words(c0[v], kFactor0), p1 = multiply_words(c2[v], kFactor1);
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

// The noise of tiles of kTile / 4 blocks: some whole rows, or a part of a longer one.
template <class C>
class NoiseTile {
 public:
  // For rows of `blocks` blocks each.
  NoiseTile(uint64_t seed, int64_t blocks)
      : keys_(seed), blocks_(blocks), size_((blocks < kBlocks ? kBlocks : blocks) + kRound),
        start_(new uint32_t[static_cast<size_t>(4 * size_)]) {
    for (int64_t at = 0; at < kBlocks; ++at) row_in_tile_[at] = at < blocks ? 0 : row_in_tile_[at - blocks] + 1;
    begin(0);
  }

  ~NoiseTile() { delete[] start_; }
  NoiseTile(const NoiseTile&) = delete;
  NoiseTile& operator=(const NoiseTile&) = delete;

  // out[4 b + lane]: noise of the first `count` blocks of a tile that starts at this row and block. More is written, up
  // to a whole number of vectors: out has kTile elements.
  MC_INLINE void fill(uint64_t row, int64_t block, int64_t count, C* out) {
    const int64_t padded = (count + kRound - 1) / kRound * kRound;
    alignas(64) uint32_t word[4][kBlocks];
    const uint32_t row_high = static_cast<uint32_t>(row >> 32);
    if (static_cast<uint32_t>((row + row_in_tile_[kBlocks - 1]) >> 32) != row_high) {
      one_by_one(row, word);
    } else {
      if (row_high != row_high_) begin(row_high);
      for (int64_t b = 0; b < padded; b += kBlocksAtOnce) {
        const uint32_t* const first = start_ + block + b;
        const uint32_t* const start[4] = {first, first + size_, first + 2 * size_, first + 3 * size_};
        philox_words(keys_, row, row_in_tile_ + b, start,
                     [&](int64_t at, int w, Words words) { memcpy(word[w] + b + at, &words, sizeof(Words)); });
      }
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

  // For rows with this high word.
  void begin(uint32_t row_high) {
    row_high_ = row_high;
    for (int64_t at = 0; at < blocks_; ++at) {
      const PhiloxStart start(keys_, static_cast<uint32_t>(at), row_high);
      for (int w = 0; w < 4; ++w) start_[w * size_ + at] = start.word[w];
    }
    for (int w = 0; w < 4; ++w) {
      for (int64_t at = blocks_; at < size_; ++at) start_[w * size_ + at] = start_[w * size_ + at - blocks_];
    }
  }

  // If the high word changes within a tile, which then begins with a whole row.
  void one_by_one(uint64_t row, uint32_t (&word)[4][kBlocks]) const {
    for (int64_t at = 0; at < kBlocks; ++at) {
      const uint64_t own = row + row_in_tile_[at];
      const PhiloxBlock of = philox4x32_10(static_cast<uint32_t>(at % blocks_), static_cast<uint32_t>(own),
                                           static_cast<uint32_t>(own >> 32), kStreamNoise, keys_.low[0], keys_.high[0]);
      for (int w = 0; w < 4; ++w) word[w][at] = of.word[w];
    }
  }

  const PhiloxKeys keys_;
  const int64_t blocks_, size_;
  uint32_t* const start_;  // [4, size_]
  uint32_t row_high_;      // that start_ is of
  alignas(64) uint32_t row_in_tile_[kBlocks];
};

}  // namespace manifold_core::MC_ISA
