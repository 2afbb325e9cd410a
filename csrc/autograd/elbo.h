// The nodes of the ELBO: sample and KL, reconstruction term, and both as one loss.
#pragma once

#include <ATen/TensorOperators.h>

#include <algorithm>
#include <tuple>

#include "node.h"

namespace manifold_core::autograd {

struct RsampleKl : Function<RsampleKl> {
  static variable_list forward(AutogradContext* ctx, const Tensor& mu, const Tensor& log_var,
                               const OptionalTensor& prior_mu, const OptionalTensor& prior_log_var,
                               const OptionalTensor& gate_logits, const Tensor& seed, int64_t first_row,
                               bool per_dimension, bool with_variance_ratio) {
    static const Kernel<std::tuple<Tensor, Tensor, Tensor>(
        const Tensor&, const Tensor&, const OptionalTensor&, const OptionalTensor&, const OptionalTensor&,
        const Tensor&, c10::SymInt, bool, bool)>
        kernel("manifold_core::rsample_kl");
    auto [z, kl, variance_ratio] =
        kernel(mu, log_var, prior_mu, prior_log_var, gate_logits, seed, first_row, per_dimension, with_variance_ratio);
    ctx->save_for_backward(
        {mu, log_var, or_undefined(prior_mu), or_undefined(prior_log_var), or_undefined(gate_logits), seed});
    ctx->saved_data["first_row"] = first_row;
    ctx->saved_data["with_prior"] = wants_gradient(prior_mu) || wants_gradient(prior_log_var);
    ctx->saved_data["with_gate"] = wants_gradient(gate_logits);
    ctx->set_materialize_grads(false);
    return {z, kl, variance_ratio};
  }

  static variable_list backward(AutogradContext* ctx, const variable_list& gradients) {
    static const Kernel<std::tuple<Tensor, Tensor, Tensor, Tensor, Tensor>(
        const OptionalTensor&, const OptionalTensor&, const Tensor&, const Tensor&, const OptionalTensor&,
        const OptionalTensor&, const OptionalTensor&, const Tensor&, c10::SymInt, bool, bool)>
        kernel("manifold_core::rsample_kl_backward");
    variable_list found(9);
    if (!gradients[0].defined() && !gradients[1].defined()) return found;
    return once(ctx, gradients, [&] {
      const bool with_prior = ctx->saved_data["with_prior"].toBool(), with_gate = ctx->saved_data["with_gate"].toBool();
      const variable_list s = ctx->get_saved_variables();
      auto [grad_mu, grad_log_var, grad_prior_mu, grad_prior_log_var, grad_gate_logits] =
          kernel(maybe(gradients[0]), maybe(gradients[1]), s[0], s[1], maybe(s[2]), maybe(s[3]), maybe(s[4]), s[5],
                 ctx->saved_data["first_row"].toInt(), with_prior, with_gate);
      found[0] = grad_mu;
      found[1] = grad_log_var;
      if (with_prior) found[2] = grad_prior_mu, found[3] = grad_prior_log_var;
      if (with_gate) found[4] = grad_gate_logits;
      return found;
    });
  }
};

struct RsampleKlCholesky : Function<RsampleKlCholesky> {
  static variable_list forward(AutogradContext* ctx, const Tensor& mu, const Tensor& tril,
                               const OptionalTensor& prior_mu, const OptionalTensor& prior_log_var, const Tensor& seed,
                               int64_t first_row, bool per_dimension, bool with_variance_ratio) {
    static const Kernel<std::tuple<Tensor, Tensor, Tensor>(const Tensor&, const Tensor&, const OptionalTensor&,
                                                           const OptionalTensor&, const Tensor&, c10::SymInt, bool,
                                                           bool)>
        kernel("manifold_core::rsample_kl_cholesky");
    auto [z, kl, variance_ratio] =
        kernel(mu, tril, prior_mu, prior_log_var, seed, first_row, per_dimension, with_variance_ratio);
    ctx->save_for_backward({mu, tril, or_undefined(prior_mu), or_undefined(prior_log_var), seed});
    ctx->saved_data["first_row"] = first_row;
    ctx->saved_data["with_prior"] = wants_gradient(prior_mu) || wants_gradient(prior_log_var);
    ctx->set_materialize_grads(false);
    return {z, kl, variance_ratio};
  }

  static variable_list backward(AutogradContext* ctx, const variable_list& gradients) {
    static const Kernel<std::tuple<Tensor, Tensor, Tensor, Tensor>(
        const OptionalTensor&, const OptionalTensor&, const Tensor&, const Tensor&, const OptionalTensor&,
        const OptionalTensor&, const Tensor&, c10::SymInt, bool)>
        kernel("manifold_core::rsample_kl_cholesky_backward");
    variable_list found(8);
    if (!gradients[0].defined() && !gradients[1].defined()) return found;
    return once(ctx, gradients, [&] {
      const bool with_prior = ctx->saved_data["with_prior"].toBool();
      const variable_list s = ctx->get_saved_variables();
      auto [grad_mu, grad_tril, grad_prior_mu, grad_prior_log_var] =
          kernel(maybe(gradients[0]), maybe(gradients[1]), s[0], s[1], maybe(s[2]), maybe(s[3]), s[4],
                 ctx->saved_data["first_row"].toInt(), with_prior);
      found[0] = grad_mu;
      found[1] = grad_tril;
      if (with_prior) found[2] = grad_prior_mu, found[3] = grad_prior_log_var;
      return found;
    });
  }
};

// The gradients of x_hat, of x if wanted, and of log_gamma.
inline std::tuple<Tensor, Tensor, Tensor> nll_gradients(const Tensor& grad_nll, const Tensor& grad_squared_error,
                                                        const Tensor& x_hat, const Tensor& x, const Tensor& log_gamma,
                                                        const Tensor& squared_error, bool with_data) {
  static const Kernel<std::tuple<Tensor, Tensor>(const OptionalTensor&, const OptionalTensor&, const Tensor&,
                                                 const Tensor&, const Tensor&, const Tensor&)>
      kernel("manifold_core::gaussian_nll_backward");
  const OptionalTensor of_nll = maybe(grad_nll), of_squared_error = maybe(grad_squared_error);
  auto [grad_x_hat, grad_log_gamma] = kernel(of_nll, of_squared_error, x_hat, x, log_gamma, squared_error);
  if (!with_data) return {grad_x_hat, Tensor(), grad_log_gamma};
  if (x.scalar_type() == x_hat.scalar_type()) return {grad_x_hat, -grad_x_hat, grad_log_gamma};
  // Not rounded by the type of x_hat.
  Tensor grad_x = std::get<0>(kernel(of_nll, of_squared_error, x, x_hat, log_gamma, squared_error));
  return {grad_x_hat, grad_x, grad_log_gamma};
}

struct GaussianNll : Function<GaussianNll> {
  static variable_list forward(AutogradContext* ctx, const Tensor& x_hat, const Tensor& x, const Tensor& log_gamma) {
    static const Kernel<std::tuple<Tensor, Tensor>(const Tensor&, const Tensor&, const Tensor&)> kernel(
        "manifold_core::gaussian_nll");
    auto [nll, squared_error] = kernel(x_hat, x, log_gamma);
    ctx->save_for_backward({x_hat, x, log_gamma, squared_error});
    ctx->set_materialize_grads(false);
    return {nll, squared_error};
  }

  static variable_list backward(AutogradContext* ctx, const variable_list& gradients) {
    if (!gradients[0].defined() && !gradients[1].defined()) return variable_list(3);
    return once(ctx, gradients, [&]() -> variable_list {
      const variable_list s = ctx->get_saved_variables();
      auto [grad_x_hat, grad_x, grad_log_gamma] =
          nll_gradients(gradients[0], gradients[1], s[0], s[1], s[2], s[3], ctx->needs_input_grad(1));
      return {grad_x_hat, grad_x, grad_log_gamma};
    });
  }
};

// loss.backward() begins with 1: nothing to multiply. On the CPU the look is free: it waits for nothing. Many gradients
// at once (is_grads_batched) are not one value.
inline bool is_one(const Tensor& gradient) {
  if (!is_usual(gradient)) return false;
  if (gradient.scalar_type() == at::kFloat) return *gradient.const_data_ptr<float>() == 1;
  return gradient.scalar_type() == at::kDouble && *gradient.const_data_ptr<double>() == 1;
}

// Multiplies the loss's gradients, which the forward pass wrote and nobody has seen yet, by the loss's own. On a GPU a
// look from here would wait: the kernel looks, and changes nothing if that is 1. Compiled autograd calls with a copy of
// the node, which keeps them for a second pass: then new ones are handed on.
inline void scale(variable_list& early, const Tensor& grad_loss) {
  const bool kept = std::any_of(early.begin(), early.end(), [](const Tensor& one) { return one.use_count() > 1; });
  if (!kept && is_one(grad_loss)) return;
  if (!kept && grad_loss.is_cuda() && grad_loss.key_set() == early[0].key_set()) {  // of an ordinary call
    static const Kernel<void(const Tensor&, const Tensor&, const Tensor&, const Tensor&)> kernel(
        "manifold_core::gaussian_elbo_scale");
    kernel(early[0], early[1], early[2], grad_loss);
    return;
  }
  for (Tensor& gradient : early) gradient = gradient * grad_loss;
}

// One value for so many rows.
inline Tensor for_each_row(const Tensor& number, int64_t rows) {
  const at::AutoDispatchBelowADInplaceOrView below;  // nobody sees the value itself
  return number.expand({rows});
}

struct GaussianElbo : Function<GaussianElbo> {
  static variable_list forward(AutogradContext* ctx, const Tensor& x_hat, const Tensor& x, const Tensor& log_gamma,
                               const Tensor& kl, double beta, bool with_gradients) {
    static const Kernel<std::tuple<Tensor, Tensor, Tensor, Tensor, Tensor, Tensor>(
        const Tensor&, const Tensor&, const Tensor&, const Tensor&, double, bool)>
        kernel("manifold_core::gaussian_elbo");
    auto [loss, nll, squared_error, grad_x_hat, grad_log_gamma, grad_kl] =
        kernel(x_hat, x, log_gamma, kl, beta, with_gradients);
    ctx->save_for_backward({x_hat, x, log_gamma, squared_error});
    ctx->saved_data["beta"] = beta;
    // Not saved with the rest: they are handed to the caller, who may write to them, and made anew for a second pass.
    if (with_gradients) {  // one by one: compiled autograd would take those of a list for constants
      ctx->saved_data["grad_x_hat"] = grad_x_hat;
      ctx->saved_data["grad_log_gamma"] = grad_log_gamma;
      ctx->saved_data["grad_kl"] = grad_kl;
    }
    ctx->set_materialize_grads(false);
    return {loss, nll, squared_error};
  }

  static variable_list backward(AutogradContext* ctx, const variable_list& gradients) {
    variable_list early;
    for (const char* name : {"grad_x_hat", "grad_log_gamma", "grad_kl"}) {
      const auto found = ctx->saved_data.find(name);
      if (found == ctx->saved_data.end()) break;
      early.push_back(found->second.toTensor());
      ctx->saved_data.erase(found);
    }
    return once(ctx, gradients, [&]() -> variable_list {
      const Tensor &grad_loss = gradients[0], &grad_squared_error = gradients[2];
      Tensor grad_nll = gradients[1];
      const variable_list s = ctx->get_saved_variables();
      const int64_t rows = s[3].size(0);
      const bool with_data = ctx->needs_input_grad(1);
      if (!early.empty() && grad_loss.defined() && !grad_nll.defined() && !grad_squared_error.defined()) {
        scale(early, grad_loss);
        return {early[0], with_data ? -early[0] : Tensor(), early[1], for_each_row(early[2], rows), Tensor(), Tensor()};
      }
      Tensor grad_kl;
      if (grad_loss.defined()) {
        const Tensor mean = (grad_loss / std::max<int64_t>(rows, 1)).expand({rows});
        grad_kl = mean * ctx->saved_data["beta"].toDouble();
        grad_nll = grad_nll.defined() ? grad_nll + mean : mean;
      }
      if (!grad_nll.defined() && !grad_squared_error.defined()) return variable_list(6);
      auto [grad_x_hat, grad_x, grad_log_gamma] =
          nll_gradients(grad_nll, grad_squared_error, s[0], s[1], s[2], s[3], with_data);
      return {grad_x_hat, grad_x, grad_log_gamma, grad_kl, Tensor(), Tensor()};
    });
  }
};

// Each takes its operator's arguments and gives the results that a caller wants, as a tuple.
inline std::tuple<Tensor, Tensor, Tensor> rsample_kl(const Tensor& mu, const Tensor& log_var,
                                                     const OptionalTensor& prior_mu,
                                                     const OptionalTensor& prior_log_var,
                                                     const OptionalTensor& gate_logits, const Tensor& seed,
                                                     int64_t first_row, bool per_dimension, bool with_variance_ratio) {
  const variable_list out = RsampleKl::apply(mu, log_var, prior_mu, prior_log_var, gate_logits, seed, first_row,
                                             per_dimension, with_variance_ratio);
  return {out[0], out[1], not_differentiable_or_empty(out[2], with_variance_ratio)};
}

inline std::tuple<Tensor, Tensor, Tensor> rsample_kl_cholesky(const Tensor& mu, const Tensor& tril,
                                                              const OptionalTensor& prior_mu,
                                                              const OptionalTensor& prior_log_var, const Tensor& seed,
                                                              int64_t first_row, bool per_dimension,
                                                              bool with_variance_ratio) {
  const variable_list out =
      RsampleKlCholesky::apply(mu, tril, prior_mu, prior_log_var, seed, first_row, per_dimension, with_variance_ratio);
  return {out[0], out[1], not_differentiable_or_empty(out[2], with_variance_ratio)};
}

inline std::tuple<Tensor, Tensor> gaussian_nll(const Tensor& x_hat, const Tensor& x, const Tensor& log_gamma) {
  const variable_list out = GaussianNll::apply(x_hat, x, log_gamma);
  return {out[0], out[1]};
}

inline std::tuple<Tensor, Tensor, Tensor> gaussian_elbo(const Tensor& x_hat, const Tensor& x, const Tensor& log_gamma,
                                                        const Tensor& kl, double beta, bool with_gradients) {
  const variable_list out = GaussianElbo::apply(x_hat, x, log_gamma, kl, beta, with_gradients);
  return {out[0], out[1], out[2]};
}

}  // namespace manifold_core::autograd
