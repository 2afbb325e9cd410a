// Elements of any floating type and stride, to and from registers of C, the type of the arithmetic.
#pragma once

#include "manifold_core/dtype.h"

#include <cuda_fp16.h>
#include <cuda_runtime.h>

#include <cstdint>
#include <cstring>
#include <type_traits>

namespace manifold_core::cuda {

// A matrix in the caller's memory, of any stride, in elements. A stride of 0 reads one element for all, as in an
// expanded gradient or a prior that is the same for the whole batch. data == nullptr: not given.
struct Matrix {
  void* data = nullptr;
  DType dtype = DType::f32;
  bool by_four = false;  // rows are dense and every fourth element is aligned: four are one access
  int64_t row_stride = 0;
  int64_t col_stride = 0;
};

// One element on the device, float32 or float64.
struct Scalar {
  void* data = nullptr;
  DType dtype = DType::f32;
};

// By bits: processors before sm_80 have no instructions for it.
struct BFloat16 {
  uint16_t bits;
};

template <class C>
__device__ __forceinline__ C widen(float v) {
  return static_cast<C>(v);
}

template <class C>
__device__ __forceinline__ C widen(double v) {
  return static_cast<C>(v);
}

template <class C>
__device__ __forceinline__ C widen(__half v) {
  return static_cast<C>(__half2float(v));
}

template <class C>
__device__ __forceinline__ C widen(BFloat16 v) {
  const uint32_t bits = uint32_t{v.bits} << 16;
  float wide;
  memcpy(&wide, &bits, sizeof(float));
  return static_cast<C>(wide);
}

template <class S>
struct Narrow {
  template <class C>
  static __device__ __forceinline__ S from(C v) {
    return static_cast<S>(v);
  }
};

template <>
struct Narrow<__half> {
  template <class C>
  static __device__ __forceinline__ __half from(C v) {
    return __float2half_rn(static_cast<float>(v));
  }
};

template <>
struct Narrow<BFloat16> {
  template <class C>
  static __device__ __forceinline__ BFloat16 from(C v) {
    const float wide = static_cast<float>(v);
    uint32_t bits;
    memcpy(&bits, &wide, sizeof(float));
    // To nearest, ties to even; a NaN must not be carried over into infinity.
    const uint32_t rounded = (bits + 0x7fffu + ((bits >> 16) & 1u)) >> 16;
    return {static_cast<uint16_t>(wide == wide ? rounded : 0x7fc0u)};
  }
};

// The storage type of a matrix whose type and layout are looked up at run time.
struct Any {};

// Calls f with a null pointer of the element type.
template <class F>
__device__ __forceinline__ void with_type(DType dtype, const F& f) {
  switch (dtype) {
    case DType::f32: return f(static_cast<float*>(nullptr));
    case DType::f64: return f(static_cast<double*>(nullptr));
    case DType::bf16: return f(static_cast<BFloat16*>(nullptr));
    case DType::f16: return f(static_cast<__half*>(nullptr));
  }
}

template <class S>
__device__ __forceinline__ S* element(const Matrix& m, int64_t row, int64_t col) {
  return static_cast<S*>(m.data) + row * m.row_stride + col * m.col_stride;
}

template <class S>
struct alignas(4 * sizeof(S)) AlignedVec4 {
  S at[4];
};

template <class C>
struct Vec4 {
  C at[4];

  __device__ __forceinline__ C& operator[](int k) { return at[k]; }
  __device__ __forceinline__ const C& operator[](int k) const { return at[k]; }
};

// Columns [col, col + 4) of a row; 0 for those behind the last column.
template <class C, class S = Any>
__device__ __forceinline__ Vec4<C> load(const Matrix& m, int64_t row, int64_t col, int64_t cols) {
  Vec4<C> out;
  if constexpr (std::is_same_v<S, Any>) {
    with_type(m.dtype, [&](auto* type) {
      using T = std::remove_pointer_t<decltype(type)>;
      const T* const from = element<T>(m, row, col);
      if (m.by_four) {
        out = load<C, T>(m, row, col, cols);
        return;
      }
#pragma unroll
      for (int k = 0; k < 4; ++k) out[k] = col + k < cols ? widen<C>(from[k * m.col_stride]) : C(0);
    });
  } else {
    const S* const from = static_cast<const S*>(m.data) + row * m.row_stride + col;
    const AlignedVec4<S> four = *reinterpret_cast<const AlignedVec4<S>*>(from);
#pragma unroll
    for (int k = 0; k < 4; ++k) out[k] = widen<C>(four.at[k]);
  }
  return out;
}

template <class C, class S = Any>
__device__ __forceinline__ void store(const Matrix& m, int64_t row, int64_t col, int64_t cols, const Vec4<C>& v) {
  if constexpr (std::is_same_v<S, Any>) {
    with_type(m.dtype, [&](auto* type) {
      using T = std::remove_pointer_t<decltype(type)>;
      T* const to = element<T>(m, row, col);
      if (m.by_four) {
        store<C, T>(m, row, col, cols, v);
        return;
      }
#pragma unroll
      for (int k = 0; k < 4; ++k) {
        if (col + k < cols) to[k * m.col_stride] = Narrow<T>::from(v[k]);
      }
    });
  } else {
    AlignedVec4<S> four;
#pragma unroll
    for (int k = 0; k < 4; ++k) four.at[k] = Narrow<S>::from(v[k]);
    *reinterpret_cast<AlignedVec4<S>*>(static_cast<S*>(m.data) + row * m.row_stride + col) = four;
  }
}

template <class C, class S = Any>
__device__ __forceinline__ C load_one(const Matrix& m, int64_t row, int64_t col) {
  if constexpr (std::is_same_v<S, Any>) {
    C out = 0;
    with_type(m.dtype, [&](auto* type) {
      using T = std::remove_pointer_t<decltype(type)>;
      out = widen<C>(*element<T>(m, row, col));
    });
    return out;
  } else {
    return widen<C>(static_cast<const S*>(m.data)[row * m.row_stride + col]);
  }
}

template <class C, class S = Any>
__device__ __forceinline__ void store_one(const Matrix& m, int64_t row, int64_t col, C v) {
  if constexpr (std::is_same_v<S, Any>) {
    with_type(m.dtype, [&](auto* type) {
      using T = std::remove_pointer_t<decltype(type)>;
      *element<T>(m, row, col) = Narrow<T>::from(v);
    });
  } else {
    static_cast<S*>(m.data)[row * m.row_stride + col] = Narrow<S>::from(v);
  }
}

__device__ __forceinline__ double load_scalar(const Scalar& s) {
  return s.dtype == DType::f64 ? *static_cast<const double*>(s.data) : double{*static_cast<const float*>(s.data)};
}

__device__ __forceinline__ void store_scalar(const Scalar& s, double v) {
  if (s.dtype == DType::f64) {
    *static_cast<double*>(s.data) = v;
  } else {
    *static_cast<float*>(s.data) = static_cast<float>(v);
  }
}

// Whether the matrices are all of that type and can be read by four; an absent one is no obstacle.
template <class... Ms>
bool all_by_four(DType dtype, const Ms&... m) {
  return ((m.data == nullptr || (m.dtype == dtype && m.by_four)) && ...);
}

// Runs f(arithmetic, storage), both null pointers, for what these matrices are; wide: in float64. float32 and bfloat16
// that can be read by four, the usual cases, have kernels of their own; one for every combination would only take long
// to compile.
template <class F, class... Ms>
void choose_storage(bool wide, const F& f, const Ms&... m) {
  if (wide) {
    f(static_cast<double*>(nullptr), static_cast<Any*>(nullptr));
  } else if (all_by_four(DType::f32, m...)) {
    f(static_cast<float*>(nullptr), static_cast<float*>(nullptr));
  } else if (all_by_four(DType::bf16, m...)) {
    f(static_cast<float*>(nullptr), static_cast<BFloat16*>(nullptr));
  } else {
    f(static_cast<float*>(nullptr), static_cast<Any*>(nullptr));
  }
}

}  // namespace manifold_core::cuda
