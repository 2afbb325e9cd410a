// The operators on CPU tensors: checks, allocation, threads. Matrices are [rows, cols], of any stride.
#pragma once

#include "../tensors.h"

#include <cstdint>
#include <tuple>

namespace manifold_core::cpu {

std::tuple<Tensor, Tensor, Tensor> rsample_kl(const Tensor& mu, const Tensor& log_var, const OptionalTensor& prior_mu,
                                              const OptionalTensor& prior_log_var, const OptionalTensor& gate_logits,
                                              const Tensor& seed, int64_t first_row, bool per_dimension,
                                              bool with_variance_ratio);

std::tuple<Tensor, Tensor, Tensor, Tensor, Tensor> rsample_kl_backward(
    const OptionalTensor& grad_z, const OptionalTensor& grad_kl, const Tensor& mu, const Tensor& log_var,
    const OptionalTensor& prior_mu, const OptionalTensor& prior_log_var, const OptionalTensor& gate_logits,
    const Tensor& seed, int64_t first_row, bool with_prior, bool with_gate);

std::tuple<Tensor, Tensor, Tensor> rsample_kl_cholesky(
    const Tensor& mu, const Tensor& tril, const OptionalTensor& prior_mu, const OptionalTensor& prior_log_var,
    const Tensor& seed, int64_t first_row, bool per_dimension, bool with_variance_ratio);

std::tuple<Tensor, Tensor, Tensor, Tensor> rsample_kl_cholesky_backward(
    const OptionalTensor& grad_z, const OptionalTensor& grad_kl, const Tensor& mu, const Tensor& tril,
    const OptionalTensor& prior_mu, const OptionalTensor& prior_log_var, const Tensor& seed, int64_t first_row,
    bool with_prior);

std::tuple<Tensor, Tensor> gaussian_nll(const Tensor& x_hat, const Tensor& x, const Tensor& log_gamma);

std::tuple<Tensor, Tensor> gaussian_nll_backward(const OptionalTensor& grad_nll,
                                                 const OptionalTensor& grad_squared_error, const Tensor& x_hat,
                                                 const Tensor& x, const Tensor& log_gamma, const Tensor& squared_error);

// Also the gradients of the loss, which is the batch mean of nll + beta kl; that of kl is one value for all rows.
std::tuple<Tensor, Tensor, Tensor, Tensor, Tensor, Tensor> gaussian_elbo(const Tensor& x_hat, const Tensor& x,
                                                                         const Tensor& log_gamma, const Tensor& kl,
                                                                         double beta, bool with_gradients);

// Contiguous images [B, C, H, W] of float32 or float64. The output, mean and variance of its channels, and what was
// normalised: the last three for the backward pass and the running statistics.
std::tuple<Tensor, Tensor, Tensor, Tensor> conv_norm(const Tensor& x, const Tensor& weight, const Tensor& norm_weight,
                                                     const Tensor& norm_bias, const OptionalTensor& residual,
                                                     int64_t stride, int64_t padding, double eps, bool relu);

std::tuple<Tensor, Tensor, Tensor, Tensor> conv_norm_backward(const Tensor& grad_y, const Tensor& x,
                                                              const Tensor& weight, const Tensor& norm_weight,
                                                              const Tensor& norm_bias, const Tensor& mean,
                                                              const Tensor& variance, const Tensor& u, int64_t stride,
                                                              int64_t padding, double eps, bool relu, bool with_x);

Tensor conv_transpose(const Tensor& x, const Tensor& weight, const Tensor& bias, int64_t stride, int64_t padding);

std::tuple<Tensor, Tensor, Tensor> conv_transpose_backward(const Tensor& grad_y, const Tensor& x, const Tensor& weight,
                                                           int64_t stride, int64_t padding, bool with_x);

// An LSTM of sequences [B, L, d] from a state of zeros: float32, contiguous, nothing empty. The state after each step, and
// what its backward pass is given; of one step if there will be none.
std::tuple<Tensor, Tensor> lstm(const Tensor& x, const Tensor& weight_ih, const Tensor& weight_hh, const Tensor& bias_ih,
                                const Tensor& bias_hh, bool keep);

// The gradient of the biases is one for both.
std::tuple<Tensor, Tensor, Tensor, Tensor> lstm_backward(const Tensor& grad_y, const Tensor& x, const Tensor& weight_ih,
                                                         const Tensor& weight_hh, const Tensor& kept, bool with_x);

// Advances each model, one per row of int64 words (program.h), by this many steps, on this many threads.
void ensemble_steps(const Tensor& models, int64_t steps, int64_t threads);

// Bytes of memory that this takes, besides what the models say.
int64_t ensemble_workspace(const Tensor& models, int64_t threads);

}  // namespace manifold_core::cpu
