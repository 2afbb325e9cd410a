// From torch's stable tensors to the kernels' matrices: checks, allocation, streams. No call here waits for the device.
#pragma once

#include "../tensors.h"
#include "launch.cuh"
#include "memory.cuh"
#include "sums.cuh"

#include <torch/headeronly/util/shim_utils.h>

#include <algorithm>
#include <initializer_list>

namespace manifold_core::cuda {

inline int64_t size_of(DType dtype) {
  return dtype == DType::f64 ? 8 : dtype == DType::f32 ? 4 : 2;
}

// The device of a tensor is the current one while this lives; what is queued goes to its current stream.
class DeviceGuard {
 public:
  explicit DeviceGuard(const Tensor& t) {
    const int32_t index = t.get_device_index();
    TORCH_ERROR_CODE_CHECK(aoti_torch_create_cuda_guard(index, &guard_));
    void* stream = nullptr;
    TORCH_ERROR_CODE_CHECK(aoti_torch_get_current_cuda_stream(index, &stream));
    this->stream = static_cast<cudaStream_t>(stream);
  }
  DeviceGuard(const DeviceGuard&) = delete;
  DeviceGuard& operator=(const DeviceGuard&) = delete;
  ~DeviceGuard() { aoti_torch_delete_cuda_guard(guard_); }

  cudaStream_t stream = nullptr;

 private:
  CUDAGuardHandle guard_ = nullptr;
};

inline void check(cudaError_t error) {
  STD_TORCH_CHECK(error == cudaSuccess, "manifold_core: CUDA: ", cudaGetErrorString(error));
}

// A launch reports a bad configuration or an earlier failure of the device here.
inline void check_launch() { check(cudaGetLastError()); }

inline int64_t device_attribute(cudaDeviceAttr which) {
  int device = 0, value = 0;
  check(cudaGetDevice(&device));
  check(cudaDeviceGetAttribute(&value, which, device));
  return value;
}

// Allows a kernel this much dynamic shared memory; the launch asks for it as well.
template <class Args>
void allow_shared(void (*kernel)(Args), int64_t bytes) {
  check(cudaFuncSetAttribute(kernel, cudaFuncAttributeMaxDynamicSharedMemorySize, static_cast<int>(bytes)));
}

// Uninitialised, on the device of `like`. By the shim: looking up an operator's name would take longer.
inline Tensor allocate_strided(const Tensor& like, int64_t dim, const int64_t* sizes, const int64_t* strides,
                               ScalarType type) {
  const int32_t dtype = torch::stable::detail::to<int32_t>(torch::stable::detail::from(type));
  int32_t device_type = 0;
  TORCH_ERROR_CODE_CHECK(aoti_torch_get_device_type(like.get(), &device_type));
  AtenTensorHandle handle = nullptr;
  TORCH_ERROR_CODE_CHECK(
      aoti_torch_empty_strided(dim, sizes, strides, dtype, device_type, like.get_device_index(), &handle));
  return Tensor(handle);
}

// A vector or a matrix, contiguous.
inline Tensor allocate(const Tensor& like, std::initializer_list<int64_t> sizes, ScalarType type) {
  int64_t strides[2] = {1, 1};
  if (sizes.size() == 2) strides[0] = std::max<int64_t>(1, sizes.begin()[1]);
  return allocate_strided(like, static_cast<int64_t>(sizes.size()), sizes.begin(), strides, type);
}

// The gradient of a tensor, of its shape and type; empty if it is not wanted.
inline Tensor allocate_gradient(const Tensor& like, const OptionalTensor& of, bool wanted) {
  if (!wanted) return allocate(like, {0}, ScalarType::Float);
  return allocate(like, {of->size(0), of->size(1)}, of->scalar_type());
}

inline Matrix matrix_of(const Tensor& t, int64_t row_stride, int64_t col_stride, int64_t cols) {
  const DType dtype = dtype_of(t);
  const bool aligned = reinterpret_cast<uintptr_t>(t.data_ptr()) % static_cast<uintptr_t>(4 * size_of(dtype)) == 0;
  return {t.data_ptr(), dtype, aligned && col_stride == 1 && cols % 4 == 0 && row_stride % 4 == 0, row_stride,
          col_stride};
}

inline void check_device(const Tensor& t, const Tensor& like, const char* name) {
  int32_t type = 0, expected = 0;
  TORCH_ERROR_CODE_CHECK(aoti_torch_get_device_type(t.get(), &type));
  TORCH_ERROR_CODE_CHECK(aoti_torch_get_device_type(like.get(), &expected));
  STD_TORCH_CHECK(type == expected && t.get_device_index() == like.get_device_index(), "manifold_core: ", name,
                  " is on another device than the first matrix");
}

// The shape of a call's matrices, and the device all its tensors have to be on.
class Batch {
 public:
  explicit Batch(const Tensor& first, const char* name) : first_(first) {
    STD_TORCH_CHECK(first.dim() == 2, "manifold_core: ", name, " must be a matrix, got ", first.dim(), " dimensions");
    rows = first.size(0);
    cols = first.size(1);
  }

  Matrix matrix(const Tensor& t, const char* name) const { return matrix(t, name, cols); }

  Matrix matrix(const Tensor& t, const char* name, int64_t width) const {
    check_device(t, first_, name);
    STD_TORCH_CHECK(t.dim() == 2 && t.size(0) == rows && t.size(1) == width, "manifold_core: ", name,
                    " must have shape [", rows, ", ", width, "]");
    return matrix_of(t, t.stride(0), t.stride(1), width);
  }

  Matrix matrix(const OptionalTensor& t, const char* name) const { return t.has_value() ? matrix(*t, name) : Matrix{}; }

  // One row may stand for all.
  Matrix rows_or_one(const Tensor& t, const char* name) const {
    check_device(t, first_, name);
    STD_TORCH_CHECK(t.dim() == 2 && (t.size(0) == rows || t.size(0) == 1) && t.size(1) == cols, "manifold_core: ", name,
                    " must have shape [", rows, ", ", cols, "] or [1, ", cols, "]");
    return matrix_of(t, t.size(0) == rows ? t.stride(0) : 0, t.stride(1), cols);
  }

  Matrix rows_or_one(const OptionalTensor& t, const char* name) const {
    return t.has_value() ? rows_or_one(*t, name) : Matrix{};
  }

  bool is_one_for_all(const OptionalTensor& t) const { return t.has_value() && t->size(0) == 1 && rows != 1; }

  // One element per row; or a matrix, if there is one for each column as well.
  Matrix per_row(const Tensor& t, const char* name) const {
    if (t.dim() == 2) return matrix(t, name);
    check_device(t, first_, name);
    STD_TORCH_CHECK(t.dim() == 1 && t.size(0) == rows, "manifold_core: ", name, " must have shape [", rows, "]");
    return matrix_of(t, t.stride(0), 0, cols);
  }

  Matrix per_row(const OptionalTensor& t, const char* name) const {
    return t.has_value() ? per_row(*t, name) : Matrix{};
  }

  const int64_t* seed(const Tensor& t) const {
    check_device(t, first_, "seed");
    STD_TORCH_CHECK(t.scalar_type() == ScalarType::Long && t.numel() == 1, "manifold_core: seed must be one int64");
    return static_cast<const int64_t*>(t.const_data_ptr());
  }

  Scalar scalar(const Tensor& t, const char* name) const {
    check_device(t, first_, name);
    const DType dtype = dtype_of(t);
    STD_TORCH_CHECK(t.numel() == 1 && (dtype == DType::f32 || dtype == DType::f64), "manifold_core: ", name,
                    " must be one number, float32 or float64");
    return {t.data_ptr(), dtype};
  }

  int64_t rows, cols;

 private:
  const Tensor& first_;
};

// Memory for `width` sums over the batch, and their counters set to zero on the stream. It may be freed as
// soon as the kernel is queued: torch hands it out again to later work of the same stream alone.
class SumMemory {
 public:
  SumMemory(bool wanted, const Batch& batch, const Tensor& like, int threads_a_row, int64_t width, cudaStream_t stream)
      : SumMemory(wanted, like, blocks(batch.rows, threads_a_row, true), width, stream) {}
  SumMemory(bool wanted, const Tensor& like, int blocks, int64_t width, cudaStream_t stream) {
    if (wanted) reserve(like, blocks, width, stream);
  }

  BatchSum sum;

 private:
  void reserve(const Tensor& like, int blocks, int64_t width, cudaStream_t stream) {
    const int64_t partials = (blocks + kReduceWidth) * width;
    const int64_t counters = (1 + kReduceWidth + 1) / 2;  // two take the space of a double
    memory_ = allocate(like, {partials + counters}, ScalarType::Double);
    sum.partials = static_cast<double*>(memory_->data_ptr());
    sum.arrived = reinterpret_cast<unsigned*>(sum.partials + partials);
    sum.width = width;
    check(cudaMemsetAsync(sum.arrived, 0, (1 + kReduceWidth) * sizeof(unsigned), stream));
  }

  OptionalTensor memory_;
};

}  // namespace manifold_core::cuda
