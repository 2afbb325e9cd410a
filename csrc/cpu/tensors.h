// From torch's stable tensors to the kernels' matrices.
#pragma once

#include "kernels.h"

#include <torch/csrc/stable/ops.h>
#include <torch/csrc/stable/tensor.h>
#include <torch/headeronly/core/ScalarType.h>
#include <torch/headeronly/util/Exception.h>

#include <algorithm>
#include <initializer_list>
#include <optional>

namespace manifold_core::cpu {

using torch::headeronly::ScalarType;
using torch::stable::Tensor;

inline DType dtype_of(const Tensor& t) {
  switch (t.scalar_type()) {
    case ScalarType::Float: return DType::f32;
    case ScalarType::Double: return DType::f64;
    case ScalarType::BFloat16: return DType::bf16;
    case ScalarType::Half: return DType::f16;
    default: STD_TORCH_CHECK(false, "manifold_core: expected a tensor of float32, float64, bfloat16 or float16");
  }
}

// The type the arithmetic and the sums over features and latents are done in.
inline ScalarType arithmetic_type(const Tensor& a, const Tensor& b) {
  const bool wide = a.scalar_type() == ScalarType::Double || b.scalar_type() == ScalarType::Double;
  return wide ? ScalarType::Double : ScalarType::Float;
}

// Uninitialised, contiguous, on the CPU. torch::stable::new_empty says the same, but looks its operator up by name each
// time: 1 us a tensor instead of 0.2, which counts where a whole call takes 10.
inline Tensor allocate(std::initializer_list<int64_t> sizes, ScalarType type) {
  int64_t strides[2] = {1, 1};
  if (sizes.size() == 2) strides[0] = std::max<int64_t>(1, sizes.begin()[1]);
  const int32_t dtype = torch::stable::detail::to<int32_t>(torch::stable::detail::from(type));
  AtenTensorHandle handle = nullptr;
  STABLE_TORCH_ERROR_CODE_CHECK(aoti_torch_empty_strided(sizes.size(), sizes.begin(), strides, dtype,
                                                         aoti_torch_device_type_cpu(), -1, &handle));
  return Tensor(handle);
}

inline Matrix matrix(const Tensor& t) {
  STD_TORCH_CHECK(t.dim() == 2, "manifold_core: expected a matrix, got ", t.dim(), " dimensions");
  return {t.data_ptr(), dtype_of(t), t.stride(0), t.stride(1)};
}

// A vector of one number a row, or a matrix.
inline Matrix per_row(const Tensor& t) {
  STD_TORCH_CHECK(t.dim() == 1 || t.dim() == 2, "manifold_core: expected a vector or a matrix");
  return {t.data_ptr(), dtype_of(t), t.stride(0), t.dim() == 2 ? t.stride(1) : 0};
}

inline Matrix per_row(const std::optional<Tensor>& t) { return t.has_value() ? per_row(*t) : Matrix{}; }

inline void check_same_shape(const Tensor& a, const Tensor& b, const char* names) {
  STD_TORCH_CHECK(a.dim() == 2 && b.dim() == 2 && a.size(0) == b.size(0) && a.size(1) == b.size(1),
                  "manifold_core: expected two matrices of one shape: ", names);
}

template <class T>
T scalar(const Tensor& t) {
  STD_TORCH_CHECK(t.numel() == 1, "manifold_core: expected a tensor of one element");
  return *static_cast<const T*>(t.const_data_ptr());
}

inline double real_scalar(const Tensor& t) {
  return t.scalar_type() == ScalarType::Double ? scalar<double>(t) : double{scalar<float>(t)};
}

// Runs kernel(args, begin, end) over all rows on torch's threads; small work stays on this one.
template <class Args>
void parallel_over_rows(void (*kernel)(const Args&, int64_t, int64_t), const Args& args, int64_t rows) {
  constexpr int64_t kGrain = 16384;  // elements a task must have to be worth a thread
  const int64_t grain = std::max<int64_t>(1, kGrain / std::max<int64_t>(1, args.cols));
  if (rows <= grain) {
    kernel(args, 0, rows);
  } else {
    torch::stable::parallel_for(0, rows, grain, [&](int64_t begin, int64_t end) { kernel(args, begin, end); });
  }
}

// The kernel of the chosen instruction set for that arithmetic.
#define MC_RUN(name, args, arithmetic, rows)                                       \
  (arithmetic == ScalarType::Double                                                \
       ? parallel_over_rows(instruction_set().f64.name, args, rows)                \
       : parallel_over_rows(instruction_set().f32.name, args, rows))

}  // namespace manifold_core::cpu
