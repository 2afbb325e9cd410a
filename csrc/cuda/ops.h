// The operators on CUDA tensors. Matrices are [rows, cols], images [B, C, H, W], of any stride;
// everything is queued on the current stream.
#pragma once

#include "../tensors.h"

#include <cstdint>
#include <tuple>

namespace manifold_core::cuda {

// (z, kl, variance_ratio)
std::tuple<Tensor, Tensor, Tensor> rsample_kl(const Tensor& mu, const Tensor& log_var, const OptionalTensor& prior_mu,
                                              const OptionalTensor& prior_log_var, const OptionalTensor& gate_logits,
                                              const Tensor& seed, int64_t first_row, bool per_dimension,
                                              bool with_variance_ratio);

// (grad_mu, grad_log_var, grad_prior_mu, grad_prior_log_var, grad_gate_logits)
std::tuple<Tensor, Tensor, Tensor, Tensor, Tensor> rsample_kl_backward(
    const OptionalTensor& grad_z, const OptionalTensor& grad_kl, const Tensor& mu, const Tensor& log_var,
    const OptionalTensor& prior_mu, const OptionalTensor& prior_log_var, const OptionalTensor& gate_logits,
    const Tensor& seed, int64_t first_row, bool with_prior, bool with_gate);

// (z, kl, variance_ratio)
std::tuple<Tensor, Tensor, Tensor> rsample_kl_cholesky(
    const Tensor& mu, const Tensor& tril, const OptionalTensor& prior_mu, const OptionalTensor& prior_log_var,
    const Tensor& seed, int64_t first_row, bool per_dimension, bool with_variance_ratio);

// (grad_mu, grad_tril, grad_prior_mu, grad_prior_log_var)
std::tuple<Tensor, Tensor, Tensor, Tensor> rsample_kl_cholesky_backward(
    const OptionalTensor& grad_z, const OptionalTensor& grad_kl, const Tensor& mu, const Tensor& tril,
    const OptionalTensor& prior_mu, const OptionalTensor& prior_log_var, const Tensor& seed, int64_t first_row,
    bool with_prior);

// (nll, squared_error)
std::tuple<Tensor, Tensor> gaussian_nll(const Tensor& x_hat, const Tensor& x, const Tensor& log_gamma);

// (grad_x_hat, grad_log_gamma)
std::tuple<Tensor, Tensor> gaussian_nll_backward(const OptionalTensor& grad_nll,
                                                 const OptionalTensor& grad_squared_error, const Tensor& x_hat,
                                                 const Tensor& x, const Tensor& log_gamma, const Tensor& squared_error);

// (loss, nll, squared_error, grad_x_hat, grad_log_gamma, grad_kl); the gradients are the loss's, the batch mean of
// nll + beta kl, and that of kl is one number for all rows.
std::tuple<Tensor, Tensor, Tensor, Tensor, Tensor, Tensor> gaussian_elbo(const Tensor& x_hat, const Tensor& x,
                                                                         const Tensor& log_gamma, const Tensor& kl,
                                                                         double beta, bool with_gradients);

// Gradients of the loss that gaussian_elbo wrote, times that of the loss, in place.
void gaussian_elbo_scale(const Tensor& grad_x_hat, const Tensor& grad_log_gamma, const Tensor& grad_kl,
                         const Tensor& grad_loss);

// (y, mean, variance, of_channels); the last is for the backward pass.
std::tuple<Tensor, Tensor, Tensor, Tensor> batch_norm_relu(const Tensor& u, const Tensor& norm_weight,
                                                           const Tensor& norm_bias, const OptionalTensor& residual,
                                                           double eps, bool relu);

// (grad_u, grad_norm_weight, grad_norm_bias)
std::tuple<Tensor, Tensor, Tensor> batch_norm_relu_backward(const Tensor& grad_y, const Tensor& u,
                                                            const Tensor& norm_weight, const Tensor& norm_bias,
                                                            const Tensor& of_channels, bool relu);

// models: int64 [models, kModelWords], each row a Model of program.h; each is advanced by this many steps, fewer if
// it has no more, or has ended. The last argument, a number of threads, is for the CPU alone.
void ensemble_steps(const Tensor& models, int64_t steps, int64_t threads);
int64_t ensemble_workspace(const Tensor& models, int64_t threads);

}  // namespace manifold_core::cuda
