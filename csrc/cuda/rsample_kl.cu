#include "rsample_kl.cuh"

#include "ops.h"
#include "tensors.h"

namespace manifold_core::cuda {

namespace {

void launch(const RsampleKl& a, bool wide, cudaStream_t stream) {
  const bool summed = a.sum.partials != nullptr;
  const int grid = blocks(a.rows, a.threads_a_row, summed);
  const auto run = [&](auto* arithmetic, auto* storage) {
    using C = std::remove_pointer_t<decltype(arithmetic)>;
    using S = std::remove_pointer_t<decltype(storage)>;
    if (summed) {
      MC_LAUNCH((rsample_kl<C, S, 1>), grid, kThreads, stream, a);
    } else {
      MC_LAUNCH((rsample_kl<C, S, 0>), grid, kThreads, stream, a);
    }
  };
  choose_storage(wide, run, a.mu, a.log_var, a.z);
}

void launch(const RsampleKlBackward& a, bool wide, cudaStream_t stream) {
  const bool summed = a.sum.partials != nullptr;
  const int grid = blocks(a.rows, a.threads_a_row, summed);
  const auto run = [&](auto* arithmetic, auto* storage) {
    using C = std::remove_pointer_t<decltype(arithmetic)>;
    using S = std::remove_pointer_t<decltype(storage)>;
    if (summed) {
      MC_LAUNCH((rsample_kl_backward<C, S, 3>), grid, kThreads, stream, a);
    } else {
      MC_LAUNCH((rsample_kl_backward<C, S, 0>), grid, kThreads, stream, a);
    }
  };
  choose_storage(wide, run, a.mu, a.log_var, a.grad_z, a.grad_mu, a.grad_log_var);
}

}  // namespace

std::tuple<Tensor, Tensor, Tensor> rsample_kl(const Tensor& mu, const Tensor& log_var, const OptionalTensor& prior_mu,
                                              const OptionalTensor& prior_log_var, const OptionalTensor& gate_logits,
                                              const Tensor& seed, int64_t first_row, bool per_dimension,
                                              bool with_variance_ratio) {
  const Batch batch(mu, "mu");
  STD_TORCH_CHECK(prior_mu.has_value() == prior_log_var.has_value(),
                  "manifold_core: prior_mu and prior_log_var must be given together");
  const DeviceGuard device(mu);
  const ScalarType type = arithmetic_type(mu, log_var, prior_mu, prior_log_var, gate_logits);
  const bool wide = type == ScalarType::Double;
  const int threads = with_variance_ratio ? threads_a_row_for_sums(batch.cols) : threads_a_row(batch.rows, batch.cols);
  const SumMemory memory(with_variance_ratio, batch, mu, threads, batch.cols, device.stream);
  Tensor z = allocate(mu, {batch.rows, batch.cols}, promoted(mu, log_var));
  Tensor kl = per_dimension ? allocate(mu, {batch.rows, batch.cols}, type) : allocate(mu, {batch.rows}, type);
  Tensor variance_ratio = allocate(mu, {with_variance_ratio ? batch.cols : 0}, type);
  RsampleKl a{batch.rows, batch.cols, threads, static_cast<uint64_t>(first_row), batch.seed(seed)};
  a.mu = batch.matrix(mu, "mu");
  a.log_var = batch.matrix(log_var, "log_var");
  a.prior_mu = batch.rows_or_one(prior_mu, "prior_mu");
  a.prior_log_var = batch.rows_or_one(prior_log_var, "prior_log_var");
  a.gate_logits = batch.rows_or_one(gate_logits, "gate_logits");
  a.z = batch.matrix(z, "z");
  a.kl = batch.per_row(kl, "kl");
  a.per_dimension = per_dimension;
  a.sum = memory.sum;
  if (with_variance_ratio) a.variance_ratio = matrix_of(variance_ratio, 0, 1, batch.cols);
  launch(a, wide, device.stream);
  check_launch();
  return {z, kl, variance_ratio};
}

std::tuple<Tensor, Tensor, Tensor, Tensor, Tensor> rsample_kl_backward(
    const OptionalTensor& grad_z, const OptionalTensor& grad_kl, const Tensor& mu, const Tensor& log_var,
    const OptionalTensor& prior_mu, const OptionalTensor& prior_log_var, const OptionalTensor& gate_logits,
    const Tensor& seed, int64_t first_row, bool with_prior, bool with_gate) {
  const Batch batch(mu, "mu");
  const DeviceGuard device(mu);
  const bool wide = any_wide(mu, log_var, prior_mu, prior_log_var, gate_logits);
  with_prior = with_prior && prior_mu.has_value();
  with_gate = with_gate && gate_logits.has_value();
  const bool summed = (with_prior && (batch.is_one_for_all(prior_mu) || batch.is_one_for_all(prior_log_var))) ||
                      (with_gate && batch.is_one_for_all(gate_logits));
  const int threads = summed ? threads_a_row_for_sums(batch.cols) : threads_a_row(batch.rows, batch.cols);
  const SumMemory memory(summed, batch, mu, threads, 3 * batch.cols, device.stream);
  Tensor grad_mu = allocate(mu, {batch.rows, batch.cols}, mu.scalar_type());
  Tensor grad_log_var = allocate(mu, {batch.rows, batch.cols}, log_var.scalar_type());
  Tensor grad_prior_mu = allocate_gradient(mu, prior_mu, with_prior);
  Tensor grad_prior_log_var = allocate_gradient(mu, prior_log_var, with_prior);
  Tensor grad_gate_logits = allocate_gradient(mu, gate_logits, with_gate);
  RsampleKlBackward a{batch.rows, batch.cols, threads, static_cast<uint64_t>(first_row), batch.seed(seed)};
  a.grad_z = batch.matrix(grad_z, "grad_z");
  a.grad_kl = batch.per_row(grad_kl, "grad_kl");
  a.mu = batch.matrix(mu, "mu");
  a.log_var = batch.matrix(log_var, "log_var");
  a.prior_mu = batch.rows_or_one(prior_mu, "prior_mu");
  a.prior_log_var = batch.rows_or_one(prior_log_var, "prior_log_var");
  a.gate_logits = batch.rows_or_one(gate_logits, "gate_logits");
  a.grad_mu = batch.matrix(grad_mu, "grad_mu");
  a.grad_log_var = batch.matrix(grad_log_var, "grad_log_var");
  if (with_prior) {
    a.grad_prior_mu = batch.rows_or_one(grad_prior_mu, "grad_prior_mu");
    a.grad_prior_log_var = batch.rows_or_one(grad_prior_log_var, "grad_prior_log_var");
  }
  if (with_gate) a.grad_gate_logits = batch.rows_or_one(grad_gate_logits, "grad_gate_logits");
  a.sum = memory.sum;
  launch(a, wide, device.stream);
  check_launch();
  return {grad_mu, grad_log_var, grad_prior_mu, grad_prior_log_var, grad_gate_logits};
}

}  // namespace manifold_core::cuda
