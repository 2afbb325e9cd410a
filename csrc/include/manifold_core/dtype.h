// The types of the tensors that kernels read and write.
#pragma once

#include <cstdint>

namespace manifold_core {

enum class DType : int32_t { f32, f64, bf16, f16 };

}  // namespace manifold_core
