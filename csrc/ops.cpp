// Every operator's schema, and which function serves it on the CPU. Fake implementations and autograd are registered
// from Python, beside each operator's public function (kernels/<op>/op.py).
#include "cpu/ops.h"

#include <torch/csrc/stable/library.h>

// <op> and <op>_forward are one kernel: the first has the autograd formula of kernels/registration.py on top, the second
// is called from within an autograd.Function, where looking for a formula would only cost time.
#define RSAMPLE_KL "(Tensor mu, Tensor log_var, Tensor seed, int first_row, bool per_dimension) -> (Tensor z, Tensor kl)"
#define GAUSSIAN_NLL "(Tensor x_hat, Tensor x, Tensor log_gamma) -> (Tensor nll, Tensor squared_error)"
#define GAUSSIAN_ELBO                                                                          \
  "(Tensor x_hat, Tensor x, Tensor log_gamma, Tensor kl, float beta, bool with_gradients)"     \
  " -> (Tensor loss, Tensor nll, Tensor squared_error, Tensor grad_x_hat, Tensor grad_log_gamma, Tensor grad_kl)"

STABLE_TORCH_LIBRARY(manifold_core, m) {
  m.def("rsample_kl" RSAMPLE_KL);
  m.def("rsample_kl_forward" RSAMPLE_KL);
  m.def(
      "rsample_kl_backward(Tensor? grad_z, Tensor? grad_kl, Tensor mu, Tensor log_var, Tensor seed, int first_row)"
      " -> (Tensor grad_mu, Tensor grad_log_var)");
  m.def("gaussian_nll" GAUSSIAN_NLL);
  m.def("gaussian_nll_forward" GAUSSIAN_NLL);
  m.def(
      "gaussian_nll_backward(Tensor? grad_nll, Tensor? grad_squared_error, Tensor x_hat, Tensor x, Tensor log_gamma,"
      " Tensor squared_error) -> (Tensor grad_x_hat, Tensor grad_log_gamma)");
  m.def("gaussian_elbo" GAUSSIAN_ELBO);
  m.def("gaussian_elbo_forward" GAUSSIAN_ELBO);
}

STABLE_TORCH_LIBRARY_IMPL(manifold_core, CPU, m) {
  m.impl("rsample_kl", TORCH_BOX(&manifold_core::cpu::rsample_kl));
  m.impl("rsample_kl_forward", TORCH_BOX(&manifold_core::cpu::rsample_kl));
  m.impl("rsample_kl_backward", TORCH_BOX(&manifold_core::cpu::rsample_kl_backward));
  m.impl("gaussian_nll", TORCH_BOX(&manifold_core::cpu::gaussian_nll));
  m.impl("gaussian_nll_forward", TORCH_BOX(&manifold_core::cpu::gaussian_nll));
  m.impl("gaussian_nll_backward", TORCH_BOX(&manifold_core::cpu::gaussian_nll_backward));
  m.impl("gaussian_elbo", TORCH_BOX(&manifold_core::cpu::gaussian_elbo));
  m.impl("gaussian_elbo_forward", TORCH_BOX(&manifold_core::cpu::gaussian_elbo));
}
