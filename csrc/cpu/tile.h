// Rows of a strided matrix of any floating type, to and from a tile of floats or doubles that stays in the L1 cache.
// This is where strides and half precision end: the arithmetic sees only dense arrays of C.
#pragma once

#include "kernels.h"
#include "manifold_core/macros.h"

namespace manifold_core::MC_ISA {

using cpu::Matrix;
using cpu::Result;

constexpr int64_t kTile = 512;  // elements: seven tiles of doubles, as a plain forward pass has them, fill 28 KB

// Aligned to a cache line, so that no vector straddles two.
template <class C>
struct alignas(64) Tile {
  C at[kTile];

  operator C*() { return at; }
};

template <class S>
MC_INLINE S* element(const Matrix& m, int64_t row, int64_t col) {
  return static_cast<S*>(m.data) + row * m.row_stride + col * m.col_stride;
}

template <class S, class C>
inline void load_as(const S* source, int64_t stride, int64_t n, C* to) {
  if (stride == 1) {
    for (int64_t j = 0; j < n; ++j) to[j] = static_cast<C>(source[j]);
  } else if (stride == 0) {
    const C value = static_cast<C>(source[0]);
    for (int64_t j = 0; j < n; ++j) to[j] = value;
  } else {
    for (int64_t j = 0; j < n; ++j) to[j] = static_cast<C>(source[j * stride]);
  }
}

template <class S, class C>
inline void store_as(S* target, int64_t n, const C* from) {
  for (int64_t j = 0; j < n; ++j) target[j] = static_cast<S>(from[j]);
}

// Calls f with a null pointer of the element type.
template <class F>
MC_INLINE void with_type(DType dtype, const F& f) {
  switch (dtype) {
    case DType::f32: return f(static_cast<float*>(nullptr));
    case DType::f64: return f(static_cast<double*>(nullptr));
    case DType::bf16: return f(static_cast<c10::BFloat16*>(nullptr));
    case DType::f16: return f(static_cast<c10::Half*>(nullptr));
  }
}

// A rectangle of a matrix. In a tile its rows are `pitch` apart.
struct Rectangle {
  int64_t row, rows, col, cols, pitch;

  int64_t size() const { return rows * pitch; }
};

template <class C>
constexpr DType own_dtype = sizeof(C) == sizeof(double) ? DType::f64 : DType::f32;

// Whether the matrix in memory looks just like a tile.
template <class C>
inline bool is_tile(const Matrix& m, const Rectangle& at) {
  return m.dtype == own_dtype<C> && m.col_stride == 1 && at.cols == at.pitch &&
         (at.rows == 1 || m.row_stride == at.pitch);
}

// The elements of the rectangle: in place if they can be read so, else copied to the tile.
template <class C>
inline const C* read(const Matrix& m, const Rectangle& at, C* tile) {
  if (is_tile<C>(m, at)) return element<C>(m, at.row, at.col);
  with_type(m.dtype, [&](auto* type) {
    using S = std::remove_pointer_t<decltype(type)>;
    for (int64_t i = 0; i < at.rows; ++i) {
      load_as(element<S>(m, at.row + i, at.col), m.col_stride, at.cols, tile + i * at.pitch);
    }
  });
  return tile;
}

// Where to write the rectangle: in place, or to the tile, for `finish` to copy.
template <class C>
inline C* target(const Matrix& m, const Rectangle& at, C* tile) {
  return is_tile<C>(m, at) ? element<C>(m, at.row, at.col) : tile;
}

// Rows of results are dense.
template <class C>
inline void finish(const Matrix& m, const Rectangle& at, const C* tile) {
  if (is_tile<C>(m, at)) return;
  with_type(m.dtype, [&](auto* type) {
    using S = std::remove_pointer_t<decltype(type)>;
    for (int64_t i = 0; i < at.rows; ++i) {
      store_as(element<S>(m, at.row + i, at.col), at.cols, tile + i * at.pitch);
    }
  });
}

// Adds the terms of `width` columns from `col` on, of rows [row, end) of the tile, to their sums, which stay in registers.
template <int64_t width, class F>
MC_INLINE void add_columns(double* sums, const Rectangle& at, int64_t row, int64_t end, int64_t col, const F& term) {
  double sum[width];
  for (int64_t k = 0; k < width; ++k) sum[k] = sums[col + k];
  for (; row < end; ++row) {
#pragma GCC unroll 16
    for (int64_t k = 0; k < width; ++k) sum[k] += term(row * at.pitch + col + k);
  }
  for (int64_t k = 0; k < width; ++k) sums[col + k] = sum[k];
}

// Adds term(element of the tile), in double, to the sums of its column, row by row: in the order of the rows, whichever
// tiles they are in.
template <class F>
MC_INLINE void add_to_sums(const Result& result, const Rectangle& at, const F& term) {
  for (int64_t row = 0, end; row < at.rows; row = end) {
    const int64_t block = (at.row + row) / result.block;
    const int64_t rest = (block + 1) * result.block - at.row;
    end = rest < at.rows ? rest : at.rows;
    double* const sums = result.sums + block * result.cols + at.col;
    int64_t col = 0;
    for (; col + 16 <= at.cols; col += 16) add_columns<16>(sums, at, row, end, col, term);
    for (; col + 4 <= at.cols; col += 4) add_columns<4>(sums, at, row, end, col, term);
    for (; col < at.cols; ++col) add_columns<1>(sums, at, row, end, col, term);
  }
}

// For sums of squares, each of which may be too large for C though their mean is not.
template <class C>
MC_INLINE double square(C value) {
  return double{value} * double{value};
}

template <class C>
inline C* target(const Result& result, const Rectangle& at, C* tile) {
  return result.matrix.data ? target(result.matrix, at, tile) : tile;
}

template <class C>
inline void finish(const Result& result, const Rectangle& at, const C* tile) {
  if (result.matrix.data) finish(result.matrix, at, tile);
  if (result.sums) add_to_sums(result, at, [&](int64_t i) { return double{tile[i]}; });
}

// The sum of one row of a tile, in an order that depends on its length alone.
template <class C>
inline C row_sum(const C* v, int64_t n) {
  C sum = 0;
  if (n >= 64) {
#pragma omp simd reduction(+ : sum)
    for (int64_t j = 0; j < n; ++j) sum += v[j];
    return sum;
  }
  // A short row is over before a wide reduction has paid for folding its vector.
  typedef C Lanes __attribute__((vector_size(4 * sizeof(C)), aligned(sizeof(C))));
  Lanes lane = {};
  int64_t j = 0;
  for (; j + 4 <= n; j += 4) lane += *reinterpret_cast<const Lanes*>(v + j);
  for (; j < n; ++j) sum += v[j];
  return ((lane[0] + lane[1]) + (lane[2] + lane[3])) + sum;
}

}  // namespace manifold_core::MC_ISA
