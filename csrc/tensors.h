// What the operators on CPU and on CUDA tensors have in common: types.
#pragma once

#include "torch_target.h"

#include "manifold_core/dtype.h"

#include <torch/csrc/stable/tensor.h>
#include <torch/headeronly/core/ScalarType.h>
#include <torch/headeronly/util/Exception.h>

#include <optional>

namespace manifold_core {

using torch::headeronly::ScalarType;
using torch::stable::Tensor;
using OptionalTensor = std::optional<Tensor>;

inline DType dtype_of(const Tensor& t) {
  switch (t.scalar_type()) {
    case ScalarType::Float: return DType::f32;
    case ScalarType::Double: return DType::f64;
    case ScalarType::BFloat16: return DType::bf16;
    case ScalarType::Half: return DType::f16;
    default: STD_TORCH_CHECK(false, "manifold_core: expected a tensor of float32, float64, bfloat16 or float16");
  }
}

inline bool is_wide(const Tensor& t) { return t.scalar_type() == ScalarType::Double; }

inline bool is_wide(const OptionalTensor& t) { return t.has_value() && is_wide(*t); }

// The type of the arithmetic, and of sums over features and latents.
template <class... Tensors>
ScalarType arithmetic_type(const Tensors&... tensors) {
  return (is_wide(tensors) || ...) ? ScalarType::Double : ScalarType::Float;
}

template <class... Tensors>
bool any_wide(const Tensors&... tensors) {
  return arithmetic_type(tensors...) == ScalarType::Double;
}

// As torch.promote_types.
inline ScalarType promoted(const Tensor& a, const Tensor& b) {
  if (a.scalar_type() == b.scalar_type()) return a.scalar_type();
  return arithmetic_type(a, b);
}

}  // namespace manifold_core
