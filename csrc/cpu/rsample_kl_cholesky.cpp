#include "ops.h"
#include "prior.h"
#include "tensors.h"

namespace manifold_core::cpu {

namespace {

void check_packed(const Tensor& mu, const Tensor& tril) {
  STD_TORCH_CHECK(mu.dim() == 2 && tril.dim() == 2 && mu.size(0) == tril.size(0) &&
                      tril.size(1) == mu.size(1) * (mu.size(1) + 1) / 2,
                  "manifold_core: expected mu [rows, cols] and tril [rows, cols (cols + 1) / 2]");
}

}  // namespace

std::tuple<Tensor, Tensor, Tensor> rsample_kl_cholesky(
    const Tensor& mu, const Tensor& tril, const OptionalTensor& prior_mu, const OptionalTensor& prior_log_var,
    const Tensor& seed, int64_t first_row, bool per_dimension, bool with_variance_ratio) {
  check_packed(mu, tril);
  const int64_t rows = mu.size(0), cols = mu.size(1);
  const ScalarType arithmetic = arithmetic_type(mu, tril, prior_mu, prior_log_var);
  Tensor z = allocate({rows, cols}, promoted(mu, tril));
  Tensor kl = per_dimension ? allocate({rows, cols}, arithmetic) : allocate({rows}, arithmetic);
  Tensor variance_ratio = allocate({with_variance_ratio ? cols : 0}, arithmetic);
  ColumnSums sums;
  const RsampleKlCholesky args{cols,
                               seed_of(seed),
                               static_cast<uint64_t>(first_row),
                               matrix(mu),
                               matrix(tril),
                               prior_of(prior_mu, prior_log_var, rows, cols),
                               matrix(z),
                               per_row(kl),
                               per_dimension,
                               with_variance_ratio ? sums.begin(rows, cols, block_triangles(cols)) : Result{}};
  MC_RUN_BLOCKS(rsample_kl_cholesky, args, arithmetic, rows, block_triangles(cols));
  if (with_variance_ratio) sums.finish(variance_ratio, 1.0 / rows);
  return {z, kl, variance_ratio};
}

std::tuple<Tensor, Tensor, Tensor, Tensor> rsample_kl_cholesky_backward(
    const OptionalTensor& grad_z, const OptionalTensor& grad_kl, const Tensor& mu, const Tensor& tril,
    const OptionalTensor& prior_mu, const OptionalTensor& prior_log_var, const Tensor& seed, int64_t first_row,
    bool with_prior) {
  check_packed(mu, tril);
  if (grad_z.has_value()) check_same_shape(mu, *grad_z, "mu, grad_z");
  const int64_t rows = mu.size(0), cols = mu.size(1), block = block_triangles(cols);
  Tensor grad_mu = allocate({rows, cols}, mu.scalar_type());
  Tensor grad_tril = allocate({rows, tril.size(1)}, tril.scalar_type());
  const Gradient grad_prior_mu(prior_mu, with_prior, rows, cols, block);
  const Gradient grad_prior_log_var(prior_log_var, with_prior, rows, cols, block);
  const RsampleKlCholeskyBackward args{cols,
                                       seed_of(seed),
                                       static_cast<uint64_t>(first_row),
                                       matrix(mu),
                                       matrix(tril),
                                       prior_of(prior_mu, prior_log_var, rows, cols),
                                       per_row(grad_z),
                                       gradient_of_kl(grad_kl, rows, cols),
                                       matrix(grad_mu),
                                       matrix(grad_tril),
                                       grad_prior_mu.result(),
                                       grad_prior_log_var.result()};
  MC_RUN_BLOCKS(rsample_kl_cholesky_backward, args, arithmetic_type(mu, tril, prior_mu, prior_log_var), rows, block);
  return {grad_mu, grad_tril, grad_prior_mu.finish(), grad_prior_log_var.finish()};
}

}  // namespace manifold_core::cpu
