// What a node is made of: its kernel, and the pass back, which can be differentiated no further.
#pragma once

#include <ATen/EmptyTensor.h>
#include <ATen/core/LegacyTypeDispatch.h>
#include <ATen/core/dispatch/Dispatcher.h>
#include <c10/core/InferenceMode.h>
#include <torch/csrc/autograd/custom_function.h>

#include <optional>

namespace manifold_core::autograd {

using at::Tensor;
using torch::autograd::AutogradContext;
using torch::autograd::Function;
using torch::autograd::variable_list;
using OptionalTensor = std::optional<Tensor>;

// An operator of torch.ops.manifold_core, CPU or CUDA, below the autograd formula that it has there.
template <class Signature>
class Kernel;

template <class Result, class... Args>
class Kernel<Result(Args...)> {
 public:
  explicit Kernel(const char* name)
      : operator_(c10::Dispatcher::singleton().findSchemaOrThrow(name, "").typed<Result(Args...)>()) {}

  Result operator()(Args... args) const {
    const at::AutoDispatchBelowADInplaceOrView below;
    return operator_.call(args...);
  }

 private:
  c10::TypedOperatorHandle<Result(Args...)> operator_;
};

// On the CPU, with no subclass, wrapper, batch of vmap or lazy negation about it: its data are where it says.
inline bool is_usual(const Tensor& t) {
  static const c10::DispatchKeySet usual = [] {  // of a tensor made here, whatever mode the first call finds in force
    const c10::InferenceMode normal(false);
    return at::detail::empty_cpu({0}, at::kFloat).key_set();
  }();
  return t.key_set() == usual;
}

inline OptionalTensor maybe(const Tensor& t) { return t.defined() ? OptionalTensor(t) : std::nullopt; }

inline Tensor or_undefined(const OptionalTensor& t) { return t.value_or(Tensor()); }

inline bool wants_gradient(const OptionalTensor& t) { return t.has_value() && t->requires_grad(); }

// A result of a node that has no gradient. Not by mark_non_differentiable, with which compiled autograd takes no node.
inline Tensor not_differentiable(const Tensor& t) { return t.requires_grad() ? t.detach() : t; }

// The same of one that may not have been asked for: then nobody sees it, and nothing is called for it.
inline Tensor not_differentiable_or_empty(const Tensor& t, bool asked_for) {
  return asked_for ? not_differentiable(t) : at::detail::empty_cpu({0}, t.scalar_type());
}

// A gradient that refuses to be differentiated; kernels/autograd.py says why torch's own way will not do.
struct Once : Function<Once> {
  static Tensor forward(AutogradContext*, const Tensor& gradient, at::TensorList) { return gradient.view_as(gradient); }
  static variable_list backward(AutogradContext*, const variable_list&) {
    TORCH_CHECK(false,
                "manifold_core: a compiled op is differentiable once, but a second derivative was asked for; "
                "backend='reference' has it, and of the layers of a model manifold_core.networks.by_pytorch(model)");
  }
};

// Runs a backward pass. With create_graph=True somebody may ask for a second derivative, of what the pass has seen.
template <class F>
variable_list once(AutogradContext* ctx, const variable_list& incoming, const F& backward) {
  if (!c10::GradMode::is_enabled()) return backward();
  variable_list gradients;
  {
    const at::NoGradGuard no_grad;
    gradients = backward();
  }
  variable_list seen;
  for (const variable_list& tensors : {ctx->get_saved_variables(), incoming}) {
    for (const Tensor& t : tensors) {
      if (t.defined() && t.requires_grad()) seen.push_back(t);
    }
  }
  for (Tensor& g : gradients) {
    if (g.defined()) g = Once::apply(g.detach(), at::TensorList(seen));
  }
  return gradients;
}

}  // namespace manifold_core::autograd
