// From torch's stable tensors to the kernels' matrices.
#pragma once

#include "../tensors.h"
#include "kernels.h"

#include <torch/csrc/stable/ops.h>
#include <torch/headeronly/util/BFloat16.h>
#include <torch/headeronly/util/Half.h>
#include <torch/headeronly/util/shim_utils.h>

#include <algorithm>
#include <initializer_list>
#include <string>
#include <vector>

namespace manifold_core::cpu {

// Uninitialised, contiguous, on the CPU, of up to four dimensions. torch::stable::new_empty says the same, but looks its
// operator up by name each time: 1 us per tensor instead of 0.2, which counts if a whole call takes 10.
inline Tensor allocate(std::initializer_list<int64_t> sizes, ScalarType type) {
  int64_t strides[4] = {1, 1, 1, 1};
  for (size_t i = sizes.size(); i-- > 1;) strides[i - 1] = strides[i] * std::max<int64_t>(1, sizes.begin()[i]);
  const int32_t dtype = torch::stable::detail::to<int32_t>(torch::stable::detail::from(type));
  AtenTensorHandle handle = nullptr;
  TORCH_ERROR_CODE_CHECK(aoti_torch_empty_strided(sizes.size(), sizes.begin(), strides, dtype,
                                                  aoti_torch_device_type_cpu(), -1, &handle));
  return Tensor(handle);
}

inline std::string in_words(const int64_t* sizes, int64_t count) {
  std::string words = "[";
  for (int64_t i = 0; i < count; ++i) words += (i ? ", " : "") + std::to_string(sizes[i]);
  return words + "]";
}

inline void check_dense(const Tensor& t, std::initializer_list<int64_t> sizes, ScalarType type, const char* name) {
  const int64_t dims = static_cast<int64_t>(sizes.size());
  bool right = t.dim() == dims && t.is_contiguous() && t.scalar_type() == type;
  for (int64_t i = 0; right && i < dims; ++i) right = t.size(i) == sizes.begin()[i];
  STD_TORCH_CHECK(right, "manifold_core: ", name, " must be contiguous, of the type of x, and have shape ",
                  in_words(sizes.begin(), dims), ", got ", in_words(t.sizes().data(), t.dim()));
}

inline Matrix matrix(const Tensor& t) {
  STD_TORCH_CHECK(t.dim() == 2, "manifold_core: expected a matrix, got ", t.dim(), " dimensions");
  return {t.data_ptr(), dtype_of(t), t.stride(0), t.stride(1)};
}

// A vector of one element per row, or a matrix.
inline Matrix per_row(const Tensor& t) {
  STD_TORCH_CHECK(t.dim() == 1 || t.dim() == 2, "manifold_core: expected a vector or a matrix");
  return {t.data_ptr(), dtype_of(t), t.stride(0), t.dim() == 2 ? t.stride(1) : 0};
}

inline Matrix per_row(const OptionalTensor& t) { return t.has_value() ? per_row(*t) : Matrix{}; }

inline void check_same_shape(const Tensor& a, const Tensor& b, const char* names) {
  STD_TORCH_CHECK(a.dim() == 2 && b.dim() == 2 && a.size(0) == b.size(0) && a.size(1) == b.size(1),
                  "manifold_core: expected two matrices of one shape: ", names);
}

// A [rows, cols] matrix, or one row that stands for all.
inline Matrix broadcast(const OptionalTensor& t, int64_t rows, int64_t cols, const char* name) {
  if (!t.has_value()) return {};
  STD_TORCH_CHECK(t->dim() == 2 && (t->size(0) == rows || t->size(0) == 1) && t->size(1) == cols,
                  "manifold_core: expected [rows, cols] or [1, cols]: ", name);
  Matrix m = matrix(*t);
  if (t->size(0) == 1) m.row_stride = 0;
  return m;
}

inline void store(const Tensor& t, int64_t i, double value) {
  void* const data = t.data_ptr();
  switch (dtype_of(t)) {
    case DType::f32: static_cast<float*>(data)[i] = static_cast<float>(value); return;
    case DType::f64: static_cast<double*>(data)[i] = value; return;
    case DType::bf16: static_cast<c10::BFloat16*>(data)[i] = static_cast<float>(value); return;
    case DType::f16: static_cast<c10::Half*>(data)[i] = static_cast<float>(value); return;
  }
}

// Memory for a result that is summed over the rows.
class ColumnSums {
 public:
  Result begin(int64_t rows, int64_t cols, int64_t block) {
    cols_ = cols;
    blocks_ = (rows + block - 1) / block;
    sums_.assign(static_cast<size_t>(blocks_ * cols), 0.0);
    return {{}, sums_.data(), cols, block};
  }

  // out[j] = factor * the sum of column j; one row.
  void finish(const Tensor& out, double factor = 1) const {
    for (int64_t j = 0; j < cols_; ++j) {
      double sum = 0;
      for (int64_t i = 0; i < blocks_; ++i) sum += sums_[static_cast<size_t>(i * cols_ + j)];
      store(out, j, factor * sum);
    }
  }

 private:
  int64_t blocks_ = 0, cols_ = 0;
  std::vector<double> sums_;
};

template <class T>
T scalar(const Tensor& t, ScalarType type) {
  STD_TORCH_CHECK(t.numel() == 1 && t.scalar_type() == type,
                  "manifold_core: expected one element, log_gamma of float32 or float64, a seed of int64");
  return *static_cast<const T*>(t.const_data_ptr());
}

inline double real_scalar(const Tensor& t) {
  return is_wide(t) ? scalar<double>(t, ScalarType::Double) : double{scalar<float>(t, ScalarType::Float)};
}

inline uint64_t seed_of(const Tensor& t) { return static_cast<uint64_t>(scalar<int64_t>(t, ScalarType::Long)); }

// The gradient of a KL per sample or per dimension.
inline Matrix gradient_of_kl(const OptionalTensor& t, int64_t rows, int64_t cols) {
  if (!t.has_value()) return {};
  STD_TORCH_CHECK(t->size(0) == rows && (t->dim() == 1 || (t->dim() == 2 && t->size(1) == cols)),
                  "manifold_core: expected grad_kl of shape [rows] or [rows, cols]");
  return per_row(*t);
}

// Runs f(begin, end) over all rows on torch's threads, on whole blocks; a single block stays on this one.
template <class F>
void parallel_over_rows(int64_t rows, int64_t block, const F& f) {
  if (rows <= block) {
    f(0, rows);
    return;
  }
  torch::stable::parallel_for(0, (rows + block - 1) / block, 1, [&](int64_t begin, int64_t end) {
    f(begin * block, std::min(rows, end * block));
  });
}

template <class Args>
void run_kernel(void (*kernel)(const Args&, int64_t, int64_t), const Args& args, int64_t rows, int64_t block) {
  parallel_over_rows(rows, block, [&](int64_t begin, int64_t end) { kernel(args, begin, end); });
}

// The kernel of the chosen instruction set for that arithmetic.
#define MC_RUN_BLOCKS(name, args, arithmetic, rows, block)                         \
  (arithmetic == ScalarType::Double                                                \
       ? run_kernel(instruction_set().f64.name, args, rows, block)                 \
       : run_kernel(instruction_set().f32.name, args, rows, block))
#define MC_RUN(name, args, arithmetic, rows) MC_RUN_BLOCKS(name, args, arithmetic, rows, block_rows(args.cols))

}  // namespace manifold_core::cpu
