#include "ops.h"
#include "rsample_kl_cholesky_long.cuh"
#include "rsample_kl_cholesky_staged.cuh"
#include "tensors.h"

namespace manifold_core::cuda {

namespace {

// Of float32 or bfloat16 with dense rows, the matrix that takes all the time has kernels of its own.
bool has_own_kernels(bool wide, const Matrix& tril) {
  return !wide && tril.col_stride == 1 && (tril.dtype == DType::f32 || tril.dtype == DType::bf16);
}

// If its rows are not too long either, it is staged.
bool to_be_staged(bool wide, const Matrix& tril, int64_t cols) {
  return has_own_kernels(wide, tril) && 0 < cols && cols <= kMostStaged;
}

// Runs f(arithmetic, storage), both null pointers.
template <class F>
void choose_packed_storage(bool wide, const F& f, const Matrix& tril) {
  if (wide) {
    f(static_cast<double*>(nullptr), static_cast<Any*>(nullptr));
  } else if (!has_own_kernels(wide, tril)) {
    f(static_cast<float*>(nullptr), static_cast<Any*>(nullptr));
  } else if (tril.dtype == DType::f32) {
    f(static_cast<float*>(nullptr), static_cast<float*>(nullptr));
  } else {
    f(static_cast<float*>(nullptr), static_cast<BFloat16*>(nullptr));
  }
}

// Bytes of a buffer: the elements, of 32 samples at most, each in a slot of its own.
constexpr int64_t kMostBuffered = kStagedElements * int64_t{sizeof(float)} + kThreads / 8 * 2 * int64_t{sizeof(Piece)};
static_assert(kMostBuffered + (8 << 10) <= 64 << 10, "or a T4 cannot hold it beside what the kernels have already");

// Queues a kernel that stages rows, on as many blocks as are on the device at once, if no sum over the batch says
// how many.
template <class S, class Args>
void launch_staged(void (*kernel)(Args), Args a, cudaStream_t stream) {
  // Before sm_80 a block would wait for what it copies.
  a.split.buffers = device_attribute(cudaDevAttrComputeCapabilityMajor) >= 8 ? 2 : 1;
  const int64_t packed = a.cols * (a.cols + 1) / 2, slot = slot_bytes<S>(packed);
  const int64_t shared = a.split.buffers * a.split.samples * slot;
  allow_shared(kernel, a.split.buffers * kMostBuffered);  // for all calls, of any thread, the same
  int64_t grid = blocks_for(a.rows, a.split.samples, a.sum.partials != nullptr);
  const int64_t multiprocessors = device_attribute(cudaDevAttrMultiProcessorCount);
  if (a.sum.partials == nullptr && grid > multiprocessors) {
    int resident = 0;  // blocks on a multiprocessor
    check(cudaOccupancyMaxActiveBlocksPerMultiprocessor(&resident, kernel, kThreads, static_cast<size_t>(shared)));
    grid = std::min(grid, multiprocessors * std::max(1, resident));
  }
  MC_LAUNCH_SHARED(kernel, static_cast<unsigned>(grid), kThreads, static_cast<size_t>(shared), stream, a);
}

void launch(const Cholesky& a, bool wide, cudaStream_t stream) {
  const auto run = [&](auto* arithmetic, auto* storage) {
    using C = std::remove_pointer_t<decltype(arithmetic)>;
    using S = std::remove_pointer_t<decltype(storage)>;
    if constexpr (!std::is_same_v<S, Any>) {
      if (a.split.staged) return launch_staged<S>(rsample_kl_cholesky_staged<C, S>, a, stream);
    }
    const int grid = blocks_for(a.rows, a.split.samples, a.sum.partials != nullptr);
    MC_LAUNCH((rsample_kl_cholesky_long<C, S>), grid, kThreads, stream, a);
  };
  choose_packed_storage(wide, run, a.tril);
}

void launch(const CholeskyBackward& a, bool wide, cudaStream_t stream) {
  const auto run = [&](auto* arithmetic, auto* storage) {
    using C = std::remove_pointer_t<decltype(arithmetic)>;
    using S = std::remove_pointer_t<decltype(storage)>;
    if constexpr (!std::is_same_v<S, Any>) {
      if (a.split.staged) return launch_staged<S>(rsample_kl_cholesky_staged_backward<C, S>, a, stream);
    }
    const int grid = blocks_for(a.rows, a.split.samples, a.sum.partials != nullptr);
    if (a.grad_prior_mu.data != nullptr || a.sum.partials != nullptr) {  // without samples there may be a sum alone
      MC_LAUNCH((rsample_kl_cholesky_long_backward<C, S, 2>), grid, kThreads, stream, a);
    } else {
      MC_LAUNCH((rsample_kl_cholesky_long_backward<C, S, 0>), grid, kThreads, stream, a);
    }
  };
  choose_packed_storage(wide, run, a.tril);
}

}  // namespace

std::tuple<Tensor, Tensor, Tensor> rsample_kl_cholesky(
    const Tensor& mu, const Tensor& tril, const OptionalTensor& prior_mu, const OptionalTensor& prior_log_var,
    const Tensor& seed, int64_t first_row, bool per_dimension, bool with_variance_ratio) {
  const Batch batch(mu, "mu");
  STD_TORCH_CHECK(prior_mu.has_value() == prior_log_var.has_value(),
                  "manifold_core: prior_mu and prior_log_var must be given together");
  const DeviceGuard device(mu);
  const ScalarType type = arithmetic_type(mu, tril, prior_mu, prior_log_var);
  const bool wide = type == ScalarType::Double;
  const int64_t packed = batch.cols * (batch.cols + 1) / 2;
  const Matrix tril_matrix = batch.matrix(tril, "tril", packed);
  const Split split = split_samples(batch.rows, batch.cols, to_be_staged(wide, tril_matrix, batch.cols));
  const SumMemory memory(with_variance_ratio, mu, blocks_for(batch.rows, split.samples, true), batch.cols,
                         device.stream);
  Tensor z = allocate(mu, {batch.rows, batch.cols}, promoted(mu, tril));
  Tensor kl = per_dimension ? allocate(mu, {batch.rows, batch.cols}, type) : allocate(mu, {batch.rows}, type);
  Tensor variance_ratio = allocate(mu, {with_variance_ratio ? batch.cols : 0}, type);
  Cholesky a{batch.rows, batch.cols, split, static_cast<uint64_t>(first_row), batch.seed(seed)};
  a.mu = batch.matrix(mu, "mu");
  a.tril = tril_matrix;
  a.prior_mu = batch.rows_or_one(prior_mu, "prior_mu");
  a.prior_log_var = batch.rows_or_one(prior_log_var, "prior_log_var");
  a.z = batch.matrix(z, "z");
  a.kl = batch.per_row(kl, "kl");
  a.per_dimension = per_dimension;
  a.sum = memory.sum;
  if (with_variance_ratio) a.variance_ratio = matrix_of(variance_ratio, 0, 1, batch.cols);
  launch(a, wide, device.stream);
  check_launch();
  return {z, kl, variance_ratio};
}

std::tuple<Tensor, Tensor, Tensor, Tensor> rsample_kl_cholesky_backward(
    const OptionalTensor& grad_z, const OptionalTensor& grad_kl, const Tensor& mu, const Tensor& tril,
    const OptionalTensor& prior_mu, const OptionalTensor& prior_log_var, const Tensor& seed, int64_t first_row,
    bool with_prior) {
  const Batch batch(mu, "mu");
  const DeviceGuard device(mu);
  const bool wide = any_wide(mu, tril, prior_mu, prior_log_var);
  const int64_t packed = batch.cols * (batch.cols + 1) / 2;
  const Matrix tril_matrix = batch.matrix(tril, "tril", packed);
  const Split split = split_samples(batch.rows, batch.cols, to_be_staged(wide, tril_matrix, batch.cols));
  with_prior = with_prior && prior_mu.has_value();
  const bool summed = with_prior && (batch.is_one_for_all(prior_mu) || batch.is_one_for_all(prior_log_var));
  const SumMemory memory(summed, mu, blocks_for(batch.rows, split.samples, true), 2 * batch.cols, device.stream);
  Tensor grad_mu = allocate(mu, {batch.rows, batch.cols}, mu.scalar_type());
  Tensor grad_tril = allocate(mu, {batch.rows, packed}, tril.scalar_type());
  Tensor grad_prior_mu = allocate_gradient(mu, prior_mu, with_prior);
  Tensor grad_prior_log_var = allocate_gradient(mu, prior_log_var, with_prior);
  CholeskyBackward a{batch.rows, batch.cols, split, static_cast<uint64_t>(first_row), batch.seed(seed)};
  a.grad_z = batch.matrix(grad_z, "grad_z");
  a.grad_kl = batch.per_row(grad_kl, "grad_kl");
  a.mu = batch.matrix(mu, "mu");
  a.tril = tril_matrix;
  a.prior_mu = batch.rows_or_one(prior_mu, "prior_mu");
  a.prior_log_var = batch.rows_or_one(prior_log_var, "prior_log_var");
  a.grad_mu = batch.matrix(grad_mu, "grad_mu");
  a.grad_tril = batch.matrix(grad_tril, "grad_tril", packed);
  if (with_prior) {
    a.grad_prior_mu = batch.rows_or_one(grad_prior_mu, "grad_prior_mu");
    a.grad_prior_log_var = batch.rows_or_one(grad_prior_log_var, "grad_prior_log_var");
  }
  a.sum = memory.sum;
  launch(a, wide, device.stream);
  check_launch();
  return {grad_mu, grad_tril, grad_prior_mu, grad_prior_log_var};
}

}  // namespace manifold_core::cuda
