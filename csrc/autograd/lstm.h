// The node of the layer of sequences.
#pragma once

#include <tuple>

#include "node.h"

namespace manifold_core::autograd {

struct Lstm : Function<Lstm> {
  static variable_list forward(AutogradContext* ctx, const Tensor& x, const Tensor& weight_ih, const Tensor& weight_hh,
                               const Tensor& bias_ih, const Tensor& bias_hh, bool keep) {
    static const Kernel<std::tuple<Tensor, Tensor>(const Tensor&, const Tensor&, const Tensor&, const Tensor&,
                                                   const Tensor&, bool)>
        kernel("manifold_core::lstm");
    auto [y, kept] = kernel(x, weight_ih, weight_hh, bias_ih, bias_hh, keep);
    // The biases so that `once` sees them: the gradients depend on them through what is kept.
    ctx->save_for_backward({x, weight_ih, weight_hh, kept, bias_ih, bias_hh});
    ctx->set_materialize_grads(false);
    return {y};
  }

  static variable_list backward(AutogradContext* ctx, const variable_list& gradients) {
    static const Kernel<std::tuple<Tensor, Tensor, Tensor, Tensor>(const Tensor&, const Tensor&, const Tensor&,
                                                                   const Tensor&, const Tensor&, bool)>
        kernel("manifold_core::lstm_backward");
    variable_list found(6);
    if (!gradients[0].defined()) return found;
    return once(ctx, gradients, [&] {
      const variable_list s = ctx->get_saved_variables();
      const bool with_x = ctx->needs_input_grad(0);
      auto [grad_x, grad_weight_ih, grad_weight_hh, grad_bias] =
          kernel(gradients[0].contiguous(), s[0], s[1], s[2], s[3], with_x);
      if (with_x) found[0] = grad_x;
      found[1] = grad_weight_ih;
      found[2] = grad_weight_hh;
      found[3] = grad_bias;
      found[4] = grad_bias.clone();  // the caller may write to either
      return found;
    });
  }
};

inline std::tuple<Tensor> lstm(const Tensor& x, const Tensor& weight_ih, const Tensor& weight_hh, const Tensor& bias_ih,
                               const Tensor& bias_hh, bool keep) {
  return {Lstm::apply(x, weight_ih, weight_hh, bias_ih, bias_hh, keep)[0]};
}

}  // namespace manifold_core::autograd
