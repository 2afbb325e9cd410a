#include "ops.h"
#include "tensors.h"

namespace manifold_core::cpu {

std::tuple<Tensor, Tensor> rsample_kl(const Tensor& mu, const Tensor& log_var, const Tensor& seed, int64_t first_row,
                                      bool per_dimension) {
  check_same_shape(mu, log_var, "mu, log_var");
  const int64_t rows = mu.size(0), cols = mu.size(1);
  const ScalarType arithmetic = arithmetic_type(mu, log_var);
  Tensor z = allocate({rows, cols}, mu.scalar_type());
  Tensor kl = per_dimension ? allocate({rows, cols}, arithmetic)
                            : allocate({rows}, arithmetic);
  const RsampleKl args{cols,        static_cast<uint64_t>(scalar<int64_t>(seed)), static_cast<uint64_t>(first_row),
                       matrix(mu),  matrix(log_var),                              matrix(z),
                       per_row(kl), per_dimension};
  MC_RUN(rsample_kl, args, arithmetic, rows);
  return {z, kl};
}

std::tuple<Tensor, Tensor> rsample_kl_backward(const std::optional<Tensor>& grad_z,
                                               const std::optional<Tensor>& grad_kl, const Tensor& mu,
                                               const Tensor& log_var, const Tensor& seed, int64_t first_row) {
  check_same_shape(mu, log_var, "mu, log_var");
  if (grad_z.has_value()) check_same_shape(mu, *grad_z, "mu, grad_z");
  if (grad_kl.has_value()) STD_TORCH_CHECK(grad_kl->size(0) == mu.size(0), "manifold_core: grad_kl has another batch");
  const int64_t rows = mu.size(0), cols = mu.size(1);
  Tensor grad_mu = allocate({rows, cols}, mu.scalar_type());
  Tensor grad_log_var = allocate({rows, cols}, log_var.scalar_type());
  const RsampleKlBackward args{cols,
                               static_cast<uint64_t>(scalar<int64_t>(seed)),
                               static_cast<uint64_t>(first_row),
                               matrix(mu),
                               matrix(log_var),
                               per_row(grad_z),
                               per_row(grad_kl),
                               matrix(grad_mu),
                               matrix(grad_log_var)};
  MC_RUN(rsample_kl_backward, args, arithmetic_type(mu, log_var), rows);
  return {grad_mu, grad_log_var};
}

}  // namespace manifold_core::cpu
