#include "ops.h"
#include "prior.h"
#include "tensors.h"

namespace manifold_core::cpu {

std::tuple<Tensor, Tensor, Tensor> rsample_kl(const Tensor& mu, const Tensor& log_var, const OptionalTensor& prior_mu,
                                              const OptionalTensor& prior_log_var, const OptionalTensor& gate_logits,
                                              const Tensor& seed, int64_t first_row, bool per_dimension,
                                              bool with_variance_ratio) {
  check_same_shape(mu, log_var, "mu, log_var");
  const int64_t rows = mu.size(0), cols = mu.size(1);
  const ScalarType arithmetic = arithmetic_type(mu, log_var, prior_mu, prior_log_var, gate_logits);
  Tensor z = allocate({rows, cols}, promoted(mu, log_var));
  Tensor kl = per_dimension ? allocate({rows, cols}, arithmetic) : allocate({rows}, arithmetic);
  Tensor variance_ratio = allocate({with_variance_ratio ? cols : 0}, arithmetic);
  ColumnSums sums;
  const RsampleKl args{cols,
                       seed_of(seed),
                       static_cast<uint64_t>(first_row),
                       matrix(mu),
                       matrix(log_var),
                       prior_of(prior_mu, prior_log_var, rows, cols),
                       broadcast(gate_logits, rows, cols, "gate_logits"),
                       matrix(z),
                       per_row(kl),
                       per_dimension,
                       with_variance_ratio ? sums.begin(rows, cols, block_rows(cols)) : Result{}};
  MC_RUN(rsample_kl, args, arithmetic, rows);
  if (with_variance_ratio) sums.finish(variance_ratio, 1.0 / rows);
  return {z, kl, variance_ratio};
}

std::tuple<Tensor, Tensor, Tensor, Tensor, Tensor> rsample_kl_backward(
    const OptionalTensor& grad_z, const OptionalTensor& grad_kl, const Tensor& mu, const Tensor& log_var,
    const OptionalTensor& prior_mu, const OptionalTensor& prior_log_var, const OptionalTensor& gate_logits,
    const Tensor& seed, int64_t first_row, bool with_prior, bool with_gate) {
  check_same_shape(mu, log_var, "mu, log_var");
  if (grad_z.has_value()) check_same_shape(mu, *grad_z, "mu, grad_z");
  const int64_t rows = mu.size(0), cols = mu.size(1), block = block_rows(cols);
  Tensor grad_mu = allocate({rows, cols}, mu.scalar_type());
  Tensor grad_log_var = allocate({rows, cols}, log_var.scalar_type());
  const Gradient grad_prior_mu(prior_mu, with_prior, rows, cols, block);
  const Gradient grad_prior_log_var(prior_log_var, with_prior, rows, cols, block);
  const Gradient grad_gate_logits(gate_logits, with_gate, rows, cols, block);
  const RsampleKlBackward args{cols,
                               seed_of(seed),
                               static_cast<uint64_t>(first_row),
                               matrix(mu),
                               matrix(log_var),
                               prior_of(prior_mu, prior_log_var, rows, cols),
                               broadcast(gate_logits, rows, cols, "gate_logits"),
                               per_row(grad_z),
                               gradient_of_kl(grad_kl, rows, cols),
                               matrix(grad_mu),
                               matrix(grad_log_var),
                               grad_prior_mu.result(),
                               grad_prior_log_var.result(),
                               grad_gate_logits.result()};
  MC_RUN(rsample_kl_backward, args, arithmetic_type(mu, log_var, prior_mu, prior_log_var, gate_logits), rows);
  return {grad_mu, grad_log_var, grad_prior_mu.finish(), grad_prior_log_var.finish(), grad_gate_logits.finish()};
}

}  // namespace manifold_core::cpu
