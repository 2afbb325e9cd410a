#include "ops.h"
#include "rsample_kl_cholesky_long.cuh"
#include "rsample_kl_cholesky_short.cuh"
#include "tensors.h"

namespace manifold_core::cuda {

namespace {

// Runs f(arithmetic, storage), both null pointers. The matrix that takes all the time, of one type with dense rows, has
// kernels of its own.
template <class F>
void choose_packed_storage(bool wide, const F& f, const Matrix& tril) {
  const bool dense = tril.col_stride == 1;
  if (wide) {
    f(static_cast<double*>(nullptr), static_cast<Any*>(nullptr));
  } else if (dense && tril.dtype == DType::f32) {
    f(static_cast<float*>(nullptr), static_cast<float*>(nullptr));
  } else if (dense && tril.dtype == DType::bf16) {
    f(static_cast<float*>(nullptr), static_cast<BFloat16*>(nullptr));
  } else {
    f(static_cast<float*>(nullptr), static_cast<Any*>(nullptr));
  }
}

}  // namespace

void launch(const Cholesky& a, bool wide, cudaStream_t stream) {
  const int grid = blocks(a.rows, a.threads_a_row, a.sum.parts != nullptr);
  const auto run = [&](auto* arithmetic, auto* storage) {
    using C = std::remove_pointer_t<decltype(arithmetic)>;
    using S = std::remove_pointer_t<decltype(storage)>;
    if (a.cols <= 8) {
      MC_LAUNCH((rsample_kl_cholesky_short<C, S, 8>), grid, kThreads, stream, a);
    } else if (a.cols <= 16) {
      MC_LAUNCH((rsample_kl_cholesky_short<C, S, 16>), grid, kThreads, stream, a);
    } else if (a.cols <= 32) {
      MC_LAUNCH((rsample_kl_cholesky_short<C, S, 32>), grid, kThreads, stream, a);
    } else {
      MC_LAUNCH((rsample_kl_cholesky_long<C, S>), grid, kThreads, stream, a);
    }
  };
  choose_packed_storage(wide, run, a.tril);
}

void launch(const CholeskyBackward& a, bool wide, cudaStream_t stream) {
  const int grid = blocks(a.rows, a.threads_a_row, a.sum.parts != nullptr);
  const auto run = [&](auto* arithmetic, auto* storage) {
    using C = std::remove_pointer_t<decltype(arithmetic)>;
    using S = std::remove_pointer_t<decltype(storage)>;
    if (a.cols <= 8) {
      MC_LAUNCH((rsample_kl_cholesky_short_backward<C, S, 8>), grid, kThreads, stream, a);
    } else if (a.cols <= 16) {
      MC_LAUNCH((rsample_kl_cholesky_short_backward<C, S, 16>), grid, kThreads, stream, a);
    } else if (a.cols <= 32) {
      MC_LAUNCH((rsample_kl_cholesky_short_backward<C, S, 32>), grid, kThreads, stream, a);
    } else if (a.grad_prior_mu.data != nullptr) {
      MC_LAUNCH((rsample_kl_cholesky_long_backward<C, S, 2>), grid, kThreads, stream, a);
    } else {
      MC_LAUNCH((rsample_kl_cholesky_long_backward<C, S, 0>), grid, kThreads, stream, a);
    }
  };
  choose_packed_storage(wide, run, a.tril);
}

std::tuple<Tensor, Tensor, Tensor> rsample_kl_cholesky(const Tensor& mu, const Tensor& tril, const Optional& prior_mu,
                                                       const Optional& prior_log_var, const Tensor& seed,
                                                       int64_t first_row, bool per_dimension,
                                                       bool with_variance_ratio) {
  const Batch batch(mu, "mu");
  STD_TORCH_CHECK(prior_mu.has_value() == prior_log_var.has_value(),
                  "manifold_core: prior_mu and prior_log_var must be given together");
  const OnDeviceOf device(mu);
  const bool wide = any_wide(mu, tril, prior_mu, prior_log_var);
  const ScalarType type = arithmetic_type(wide);
  const int threads = threads_a_sample(batch.rows, batch.cols);
  const SumMemory memory(with_variance_ratio, batch, mu, threads, batch.cols, device.stream);
  Tensor z = allocate(mu, {batch.rows, batch.cols}, promoted(mu, tril));
  Tensor kl = per_dimension ? allocate(mu, {batch.rows, batch.cols}, type) : allocate(mu, {batch.rows}, type);
  Tensor variance_ratio = allocate(mu, {with_variance_ratio ? batch.cols : 0}, type);
  Cholesky a{batch.rows, batch.cols, threads, static_cast<uint64_t>(first_row), batch.seed(seed)};
  a.mu = batch.matrix(mu, "mu");
  a.tril = batch.matrix(tril, "tril", batch.cols * (batch.cols + 1) / 2);
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
    const Optional& grad_z, const Optional& grad_kl, const Tensor& mu, const Tensor& tril, const Optional& prior_mu,
    const Optional& prior_log_var, const Tensor& seed, int64_t first_row, bool with_prior) {
  const Batch batch(mu, "mu");
  const OnDeviceOf device(mu);
  const bool wide = any_wide(mu, tril, prior_mu, prior_log_var);
  const int threads = threads_a_sample(batch.rows, batch.cols);
  const int64_t packed = batch.cols * (batch.cols + 1) / 2;
  with_prior = with_prior && prior_mu.has_value();
  const bool summed = with_prior && (batch.is_one_for_all(prior_mu) || batch.is_one_for_all(prior_log_var));
  const SumMemory memory(summed, batch, mu, threads, 2 * batch.cols, device.stream);
  Tensor grad_mu = allocate(mu, {batch.rows, batch.cols}, mu.scalar_type());
  Tensor grad_tril = allocate(mu, {batch.rows, packed}, tril.scalar_type());
  Tensor grad_prior_mu = allocate_gradient(mu, prior_mu, with_prior);
  Tensor grad_prior_log_var = allocate_gradient(mu, prior_log_var, with_prior);
  CholeskyBackward a{batch.rows, batch.cols, threads, static_cast<uint64_t>(first_row), batch.seed(seed)};
  a.grad_z = batch.matrix(grad_z, "grad_z");
  a.grad_kl = batch.per_row(grad_kl, "grad_kl");
  a.mu = batch.matrix(mu, "mu");
  a.tril = batch.matrix(tril, "tril", packed);
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
