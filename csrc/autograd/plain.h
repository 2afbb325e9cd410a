// Plain calls, those of a training loop: whole tensors of PyTorch on the CPU, of the right shapes, with no mode, transform
// or autocast in force. They need none of the checks in kernels/<op>/op.py, which take longer than a small call's
// arithmetic. Each function takes the arguments of the public one, and returns None if a call is not plain: then Python
// checks it, and serves it or refuses it. What is served here must be served there, with the same result.
#pragma once

#include <ATen/CPUGeneratorImpl.h>
#include <ATen/PythonTorchFunctionTLS.h>
#include <c10/core/impl/LocalDispatchKeySet.h>
#include <torch/csrc/autograd/python_variable.h>
#include <torch/csrc/utils/pybind.h>

#include <cstdint>
#include <limits>
#include <mutex>
#include <optional>
#include <tuple>

#include "elbo.h"

namespace manifold_core::autograd {

namespace py = pybind11;

inline bool nothing_in_force() {
  const auto keys = c10::impl::tls_local_dispatch_key_set();
  return keys.included_ == c10::default_included_set && keys.excluded_ == c10::default_excluded_set &&
         !at::impl::torch_function_mode_enabled();
}

// A tensor or parameter in which no subclass, wrapper or lazy negation hides anything; null for everything else.
inline const Tensor* plain(py::handle given) {
  if (!THPVariable_CheckExact(given.ptr())) return nullptr;
  const Tensor& t = THPVariable_Unpack(given.ptr());
  return is_usual(t) && !t._fw_grad(0).defined() ? &t : nullptr;
}

inline const Tensor* plain_floating(py::handle given) {
  const Tensor* const t = plain(given);
  if (t == nullptr) return nullptr;
  switch (t->scalar_type()) {
    case at::kFloat:
    case at::kDouble:
    case at::kHalf:
    case at::kBFloat16: return t;
    default: return nullptr;
  }
}

inline bool alike(const Tensor* a, const Tensor* b) {
  return a != nullptr && b != nullptr && a->sizes() == b->sizes();
}

inline std::optional<bool> flag(py::handle given) {
  if (given.ptr() == Py_True) return true;
  if (given.ptr() == Py_False) return false;
  return std::nullopt;
}

// None, a row for each of mu's, or one for all.
inline bool none_or_rows(py::handle given, const Tensor& mu) {
  if (given.is_none()) return true;
  const Tensor* const t = plain_floating(given);
  return t != nullptr && t->dim() == 2 && t->size(1) == mu.size(1) &&
         (t->size(0) == mu.size(0) || t->size(0) == 1);
}

inline OptionalTensor unpacked(py::handle none_or_tensor) {
  return none_or_tensor.is_none() ? std::nullopt : OptionalTensor(THPVariable_Unpack(none_or_tensor.ptr()));
}

// From 0 on.
inline std::optional<int64_t> count(py::handle given) {
  if (!PyLong_CheckExact(given.ptr())) return std::nullopt;
  int overflow = 0;
  const int64_t value = PyLong_AsLongLongAndOverflow(given.ptr(), &overflow);
  return overflow == 0 && value >= 0 ? std::optional(value) : std::nullopt;
}

template <class F>
auto without_lock(const F& f) {
  const py::gil_scoped_release released;
  return f();
}

inline Tensor as_tensor(int64_t number) {
  Tensor t = at::detail::empty_cpu({}, at::kLong);
  *t.mutable_data_ptr<int64_t>() = number;
  return t;
}

// torch.randint(2**63 - 1, ()), the same number and the same state behind it, in a tenth of the time.
inline int64_t draw() {
  auto* const generator = at::get_generator_or_default<at::CPUGeneratorImpl>({}, at::detail::getDefaultCPUGenerator());
  const std::lock_guard lock(generator->mutex_);
  return static_cast<int64_t>(generator->random64() % static_cast<uint64_t>(std::numeric_limits<int64_t>::max()));
}

// As draw_seed in kernels/random.py; undefined for anything that it would have to look at.
inline Tensor seed_of(py::handle seed, py::handle generator) {
  if (!generator.is_none()) return {};
  if (seed.is_none()) return as_tensor(draw());
  if (const Tensor* const t = plain(seed)) return t->scalar_type() == at::kLong && t->dim() == 0 ? *t : Tensor();
  const auto number = count(seed);
  return number ? as_tensor(*number) : Tensor();
}

// What the two ops that sample have in common, checked.
struct Sampling {
  OptionalTensor prior_mu, prior_log_var;
  Tensor seed;
  int64_t first_row;
  bool per_dimension, with_variance_ratio;
};

inline std::optional<Sampling> sampling(const Tensor& mu, py::handle prior_mu, py::handle prior_log_var,
                                        py::handle per_dimension, py::handle with_variance_ratio, py::handle seed,
                                        py::handle generator, py::handle first_row) {
  if (prior_mu.is_none() != prior_log_var.is_none()) return std::nullopt;
  if (!none_or_rows(prior_mu, mu) || !none_or_rows(prior_log_var, mu)) return std::nullopt;
  const auto each = flag(per_dimension), ratio = flag(with_variance_ratio);
  const auto row = count(first_row);
  if (!each || !ratio || !row || *row > std::numeric_limits<int64_t>::max() - mu.size(0)) return std::nullopt;
  const Tensor used = seed_of(seed, generator);  // last: once it is drawn, the call must be served here
  if (!used.defined()) return std::nullopt;
  return Sampling{unpacked(prior_mu), unpacked(prior_log_var), used, *row, *each, *ratio};
}

inline py::object sampled(const std::tuple<Tensor, Tensor, Tensor>& found, bool with_variance_ratio) {
  const auto& [z, kl, variance_ratio] = found;
  if (with_variance_ratio) return py::make_tuple(z, kl, variance_ratio);
  return py::make_tuple(z, kl);
}

inline py::object plain_rsample_kl(py::handle mu_given, py::handle log_var_given, py::handle prior_mu,
                                   py::handle prior_log_var, py::handle gate_logits, py::handle per_dimension,
                                   py::handle with_variance_ratio, py::handle seed, py::handle generator,
                                   py::handle first_row) {
  const Tensor *const mu = plain_floating(mu_given), *const log_var = plain_floating(log_var_given);
  if (!alike(mu, log_var) || mu->dim() != 2 || !nothing_in_force()) return py::none();
  if (!none_or_rows(gate_logits, *mu)) return py::none();
  const auto s = sampling(*mu, prior_mu, prior_log_var, per_dimension, with_variance_ratio, seed, generator, first_row);
  if (!s) return py::none();
  const OptionalTensor gate = unpacked(gate_logits);
  const auto found = without_lock([&] {
    return rsample_kl(*mu, *log_var, s->prior_mu, s->prior_log_var, gate, s->seed, s->first_row, s->per_dimension,
                      s->with_variance_ratio);
  });
  return sampled(found, s->with_variance_ratio);
}

inline py::object plain_rsample_kl_cholesky(py::handle mu_given, py::handle tril_given, py::handle prior_mu,
                                            py::handle prior_log_var, py::handle per_dimension,
                                            py::handle with_variance_ratio, py::handle seed, py::handle generator,
                                            py::handle first_row) {
  const Tensor *const mu = plain_floating(mu_given), *const tril = plain_floating(tril_given);
  if (mu == nullptr || tril == nullptr || mu->dim() != 2 || tril->dim() != 2 || !nothing_in_force()) return py::none();
  const int64_t latents = mu->size(1);
  if (tril->size(0) != mu->size(0) || tril->size(1) != latents * (latents + 1) / 2) return py::none();
  const auto s = sampling(*mu, prior_mu, prior_log_var, per_dimension, with_variance_ratio, seed, generator, first_row);
  if (!s) return py::none();
  const auto found = without_lock([&] {
    return rsample_kl_cholesky(*mu, *tril, s->prior_mu, s->prior_log_var, s->seed, s->first_row, s->per_dimension,
                               s->with_variance_ratio);
  });
  return sampled(found, s->with_variance_ratio);
}

// x_hat and x as matrices, log_gamma as it is.
struct Reconstruction {
  Tensor x_hat, x, log_gamma;
};

inline std::optional<Reconstruction> reconstruction(py::handle x_hat_given, py::handle x_given,
                                                    py::handle log_gamma_given) {
  const Tensor *const x_hat = plain_floating(x_hat_given), *const x = plain_floating(x_given);
  const Tensor* const log_gamma = plain(log_gamma_given);
  if (!alike(x_hat, x) || x_hat->dim() < 2 || log_gamma == nullptr || !nothing_in_force()) return std::nullopt;
  const auto type = log_gamma->scalar_type();
  if (log_gamma->dim() != 0 || (type != at::kFloat && type != at::kDouble)) return std::nullopt;
  if (x_hat->dim() == 2) return Reconstruction{*x_hat, *x, *log_gamma};
  if (!x_hat->is_contiguous() || !x->is_contiguous() || x_hat->numel() == 0) return std::nullopt;
  return Reconstruction{x_hat->flatten(1), x->flatten(1), *log_gamma};
}

inline py::object plain_gaussian_nll(py::handle x_hat, py::handle x, py::handle log_gamma, py::handle squared_error) {
  const auto with_squared_error = flag(squared_error);
  if (!with_squared_error) return py::none();
  const auto given = reconstruction(x_hat, x, log_gamma);
  if (!given) return py::none();
  const auto [nll, error] = without_lock([&] { return gaussian_nll(given->x_hat, given->x, given->log_gamma); });
  return *with_squared_error ? py::object(py::make_tuple(nll, error)) : py::cast(nll);
}

inline py::object plain_gaussian_elbo(py::handle x_hat, py::handle x, py::handle log_gamma, py::handle kl_given,
                                      py::handle beta_given) {
  const Tensor* const kl = plain_floating(kl_given);
  if (kl == nullptr || kl->dim() != 1 || !PyFloat_CheckExact(beta_given.ptr())) return py::none();
  const auto given = reconstruction(x_hat, x, log_gamma);
  if (!given || kl->size(0) != given->x_hat.size(0)) return py::none();
  const auto type = given->x_hat.scalar_type(), other = given->x.scalar_type();
  const bool wide = type == at::kDouble || other == at::kDouble;
  if (kl->scalar_type() != (wide ? at::kDouble : at::kFloat)) return py::none();
  const double beta = PyFloat_AS_DOUBLE(beta_given.ptr());
  // EARLY_GRADIENT_DTYPES in kernels/gaussian_elbo/op.py says why.
  const bool with_gradients = c10::GradMode::is_enabled() && given->x_hat.requires_grad() &&
                              (type == at::kFloat || type == at::kDouble) &&
                              (type == other || !given->x.requires_grad());
  const auto [loss, nll, squared_error] = without_lock(
      [&] { return gaussian_elbo(given->x_hat, given->x, given->log_gamma, *kl, beta, with_gradients); });
  return py::make_tuple(loss, nll, squared_error);
}

}  // namespace manifold_core::autograd
