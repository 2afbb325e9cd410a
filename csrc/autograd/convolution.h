// The nodes of the layers of images.
#pragma once

#include <tuple>

#include "node.h"

namespace manifold_core::autograd {

struct ConvNorm : Function<ConvNorm> {
  static variable_list forward(AutogradContext* ctx, const Tensor& x, const Tensor& weight, const Tensor& norm_weight,
                               const Tensor& norm_bias, const OptionalTensor& residual, int64_t stride, int64_t padding,
                               double eps, bool relu) {
    static const Kernel<std::tuple<Tensor, Tensor, Tensor, Tensor>(const Tensor&, const Tensor&, const Tensor&,
                                                                   const Tensor&, const OptionalTensor&, c10::SymInt,
                                                                   c10::SymInt, double, bool)>
        kernel("manifold_core::conv_norm");
    auto [y, mean, variance, u] = kernel(x, weight, norm_weight, norm_bias, residual, stride, padding, eps, relu);
    ctx->save_for_backward({x, weight, norm_weight, norm_bias, mean, variance, u});
    ctx->saved_data["stride"] = stride;
    ctx->saved_data["padding"] = padding;
    ctx->saved_data["eps"] = eps;
    ctx->saved_data["relu"] = relu;
    ctx->saved_data["with_residual"] = wants_gradient(residual);
    ctx->set_materialize_grads(false);
    return {y, mean, variance};
  }

  static variable_list backward(AutogradContext* ctx, const variable_list& gradients) {
    static const Kernel<std::tuple<Tensor, Tensor, Tensor, Tensor>(
        const Tensor&, const Tensor&, const Tensor&, const Tensor&, const Tensor&, const Tensor&, const Tensor&,
        const Tensor&, c10::SymInt, c10::SymInt, double, bool, bool)>
        kernel("manifold_core::conv_norm_backward");
    variable_list found(9);
    if (!gradients[0].defined()) return found;
    return once(ctx, gradients, [&] {
      const variable_list s = ctx->get_saved_variables();
      const auto& options = ctx->saved_data;
      const bool with_x = ctx->needs_input_grad(0);
      auto [grad_x, grad_weight, grad_norm_weight, grad_norm_bias] =
          kernel(gradients[0].contiguous(), s[0], s[1], s[2], s[3], s[4], s[5], s[6], options.at("stride").toInt(),
                 options.at("padding").toInt(), options.at("eps").toDouble(), options.at("relu").toBool(), with_x);
      if (with_x) found[0] = grad_x;
      found[1] = grad_weight;
      found[2] = grad_norm_weight;
      found[3] = grad_norm_bias;
      if (options.at("with_residual").toBool()) found[4] = gradients[0];
      return found;
    });
  }
};

struct ConvTranspose : Function<ConvTranspose> {
  static variable_list forward(AutogradContext* ctx, const Tensor& x, const Tensor& weight, const Tensor& bias,
                               int64_t stride, int64_t padding) {
    static const Kernel<Tensor(const Tensor&, const Tensor&, const Tensor&, c10::SymInt, c10::SymInt)> kernel(
        "manifold_core::conv_transpose");
    ctx->save_for_backward({x, weight});
    ctx->saved_data["stride"] = stride;
    ctx->saved_data["padding"] = padding;
    ctx->set_materialize_grads(false);
    return {kernel(x, weight, bias, stride, padding)};
  }

  static variable_list backward(AutogradContext* ctx, const variable_list& gradients) {
    static const Kernel<std::tuple<Tensor, Tensor, Tensor>(const Tensor&, const Tensor&, const Tensor&, c10::SymInt,
                                                           c10::SymInt, bool)>
        kernel("manifold_core::conv_transpose_backward");
    variable_list found(5);
    if (!gradients[0].defined()) return found;
    return once(ctx, gradients, [&] {
      const variable_list s = ctx->get_saved_variables();
      const bool with_x = ctx->needs_input_grad(0);
      auto [grad_x, grad_weight, grad_bias] =
          kernel(gradients[0].contiguous(), s[0], s[1], ctx->saved_data["stride"].toInt(),
                 ctx->saved_data["padding"].toInt(), with_x);
      if (with_x) found[0] = grad_x;
      found[1] = grad_weight;
      found[2] = grad_bias;
      return found;
    });
  }
};

inline std::tuple<Tensor, Tensor, Tensor> conv_norm(const Tensor& x, const Tensor& weight, const Tensor& norm_weight,
                                                    const Tensor& norm_bias, const OptionalTensor& residual,
                                                    int64_t stride, int64_t padding, double eps, bool relu) {
  const variable_list out = ConvNorm::apply(x, weight, norm_weight, norm_bias, residual, stride, padding, eps, relu);
  return {out[0], not_differentiable(out[1]), not_differentiable(out[2])};
}

inline std::tuple<Tensor> conv_transpose(const Tensor& x, const Tensor& weight, const Tensor& bias, int64_t stride,
                                         int64_t padding) {
  return {ConvTranspose::apply(x, weight, bias, stride, padding)[0]};
}

}  // namespace manifold_core::autograd
