// Which function serves an operator on CPU tensors. Schemas, fake implementations and autograd stand in Python, beside
// each operator's public function (kernels/<op>/op.py).
#include "cpu/ops.h"

#include <torch/csrc/stable/library.h>

// <op> and <op>_forward are one kernel: the first has the autograd formula of kernels/registration.py on top, the second
// is called from within an autograd.Function, where looking for a formula would only cost time.
#define MC_IMPL(name) m.impl(#name, TORCH_BOX(&manifold_core::cpu::name))
#define MC_IMPL_FORWARD(name) \
  MC_IMPL(name);              \
  m.impl(#name "_forward", TORCH_BOX(&manifold_core::cpu::name))

STABLE_TORCH_LIBRARY_IMPL(manifold_core, CPU, m) {
  MC_IMPL_FORWARD(rsample_kl);
  MC_IMPL(rsample_kl_backward);
  MC_IMPL_FORWARD(gaussian_nll);
  MC_IMPL(gaussian_nll_backward);
  MC_IMPL_FORWARD(gaussian_elbo);
}
