// Vectors as wide as the instruction set has them, for what the compiler does not vectorise well by itself: many short
// rows of unequal length.
#pragma once

#include "manifold_core/macros.h"

#include <cstdint>
#include <cstring>
#include <type_traits>
#include <utility>

namespace manifold_core::MC_ISA {

template <class C, class Index>
struct VectorTypes {
  typedef C Vector __attribute__((vector_size(MC_VECTOR_BYTES)));
  typedef C Unaligned __attribute__((vector_size(MC_VECTOR_BYTES), aligned(sizeof(C))));
  typedef Index Indices __attribute__((vector_size(MC_VECTOR_BYTES)));
};

template <class C>
struct VectorOf;
template <>
struct VectorOf<float> : VectorTypes<float, int32_t> {};
template <>
struct VectorOf<double> : VectorTypes<double, int64_t> {};

template <class C>
using Vector = typename VectorOf<C>::Vector;

template <class C>
constexpr int kWidth = MC_VECTOR_BYTES / sizeof(C);

template <class C>
MC_INLINE Vector<C> load(const C* from) {
  return *reinterpret_cast<const typename VectorOf<C>::Unaligned*>(from);
}

template <class C>
MC_INLINE void store(C* to, Vector<C> v) {
  *reinterpret_cast<typename VectorOf<C>::Unaligned*>(to) = v;
}

// The first n lanes, n < kWidth: memory behind them is neither read nor written. The other lanes are read as 0.
#if MC_VECTOR_BYTES == 64
MC_INLINE __mmask16 head(int64_t n) { return static_cast<__mmask16>((1u << n) - 1); }

MC_INLINE Vector<float> load_head(const float* from, int64_t n) { return _mm512_maskz_loadu_ps(head(n), from); }
MC_INLINE Vector<double> load_head(const double* from, int64_t n) {
  return _mm512_maskz_loadu_pd(static_cast<__mmask8>(head(n)), from);
}
MC_INLINE void store_head(float* to, int64_t n, Vector<float> v) { _mm512_mask_storeu_ps(to, head(n), v); }
MC_INLINE void store_head(double* to, int64_t n, Vector<double> v) {
  _mm512_mask_storeu_pd(to, static_cast<__mmask8>(head(n)), v);
}
#elif MC_VECTOR_BYTES == 32
// n lanes of ones, then zeros, from the middle of a row of both.
MC_INLINE __m256i head(int64_t lanes, int64_t bytes) {
  alignas(64) static constexpr int32_t ones_and_zeros[16] = {-1, -1, -1, -1, -1, -1, -1, -1};
  const char* const middle = reinterpret_cast<const char*>(ones_and_zeros + 8);
  return _mm256_loadu_si256(reinterpret_cast<const __m256i*>(middle - lanes * bytes));
}

MC_INLINE Vector<float> load_head(const float* from, int64_t n) { return _mm256_maskload_ps(from, head(n, 4)); }
MC_INLINE Vector<double> load_head(const double* from, int64_t n) { return _mm256_maskload_pd(from, head(n, 8)); }
MC_INLINE void store_head(float* to, int64_t n, Vector<float> v) { _mm256_maskstore_ps(to, head(n, 4), v); }
MC_INLINE void store_head(double* to, int64_t n, Vector<double> v) { _mm256_maskstore_pd(to, head(n, 8), v); }
#else
template <class C>
MC_INLINE Vector<C> load_head(const C* from, int64_t n) {
  Vector<C> v = {};
  for (int64_t i = 0; i < n; ++i) v[i] = from[i];
  return v;
}

template <class C>
MC_INLINE void store_head(C* to, int64_t n, Vector<C> v) {
  for (int64_t i = 0; i < n; ++i) to[i] = v[i];
}
#endif

// In each run of 2 * half lanes: half lanes of a, then half lanes of b, both from `offset` on.
template <class C, int half, int offset, int... lane>
MC_INLINE Vector<C> halves(Vector<C> a, Vector<C> b, std::integer_sequence<int, lane...>) {
#if defined(__clang__)
  return __builtin_shufflevector(a, b, (lane / half % 2 * (kWidth<C> - half) + lane + offset)...);
#else
  return __builtin_shuffle(a, b, typename VectorOf<C>::Indices{(lane / half % 2 * (kWidth<C> - half) + lane + offset)...});
#endif
}

template <class C>
MC_INLINE Vector<C> all(C value) { return value - Vector<C>{}; }  // minus zero, not plus: that the compiler may drop

// Lane i of the result is the sum of the lanes of v[i]; v is used up.
template <class C, int half = kWidth<C> / 2>
MC_INLINE Vector<C> sum_each(Vector<C>* v) {
  constexpr auto lanes = std::make_integer_sequence<int, kWidth<C>>();
  for (int i = 0; i < half; ++i) {
    v[i] = halves<C, half, 0>(v[i], v[i + half], lanes) + halves<C, half, half>(v[i], v[i + half], lanes);
  }
  if constexpr (half > 1) {
    return sum_each<C, half / 2>(v);
  } else {
    return v[0];
  }
}

// The sum of kWidth vectors, lane by lane; v is used up.
template <class C>
MC_INLINE Vector<C> sum_all(Vector<C>* v) {
#pragma GCC unroll 4
  for (int half = kWidth<C> / 2; half > 0; half /= 2) {
#pragma GCC unroll 8
    for (int i = 0; i < half; ++i) v[i] += v[i + half];
  }
  return v[0];
}

template <class C, int... at>
MC_INLINE Vector<C> with_lane(Vector<C> v, int64_t lane, Vector<C> from, std::integer_sequence<int, at...>) {
  using Indices = typename VectorOf<C>::Indices;
  return (Indices{at...} == Indices{} + static_cast<int>(lane)) ? from : v;
}

// v with one lane of another.
template <class C>
MC_INLINE Vector<C> with_lane(Vector<C> v, int64_t lane, Vector<C> from) {
  return with_lane<C>(v, lane, from, std::make_integer_sequence<int, kWidth<C>>());
}

// Lane j of v[i] and lane i of v[j] change places.
template <class C, int half = kWidth<C> / 2>
MC_INLINE void transpose(Vector<C>* v) {
  constexpr auto lanes = std::make_integer_sequence<int, kWidth<C>>();
  for (int i = 0; i < kWidth<C>; ++i) {
    if (i & half) continue;
    const Vector<C> a = v[i], b = v[i + half];
    v[i] = halves<C, half, 0>(a, b, lanes);
    v[i + half] = halves<C, half, half>(a, b, lanes);
  }
  if constexpr (half > 1) transpose<C, half / 2>(v);
}

template <int n>
using Count = std::integral_constant<int, n>;

// Rows of accumulators that are kept in registers together, beside some vectors of columns.
constexpr int kBlock = 6;

// Calls f(size, first) for blocks of up to so many rows, six at most, as equal as can be.
template <int most = kBlock, class F>
MC_INLINE void for_each_block(int64_t rows, const F& f) {
  const int64_t blocks = (rows + most - 1) / most;
  for (int64_t b = 0; b < blocks; ++b) {
    const int64_t first = b * rows / blocks;
    switch ((b + 1) * rows / blocks - first) {
      case 1: f(Count<1>{}, first); break;
      case 2: f(Count<2>{}, first); break;
      case 3: if constexpr (most >= 3) f(Count<3>{}, first); break;
      case 4: if constexpr (most >= 4) f(Count<4>{}, first); break;
      case 5: if constexpr (most >= 5) f(Count<5>{}, first); break;
      case 6: if constexpr (most >= 6) f(Count<6>{}, first); break;
    }
  }
}

}  // namespace manifold_core::MC_ISA
