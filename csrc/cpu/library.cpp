// Which function serves an operator on CPU tensors. Schemas, fake implementations and autograd stand in Python, beside
// each operator's public function (kernels/<op>/op.py); of the ensemble's only schemas, in ensemble/train.py.
#include "ops.h"

#include <torch/csrc/stable/library.h>

#define MC_IMPL(name) m.impl(#name, TORCH_BOX(&manifold_core::cpu::name))

STABLE_TORCH_LIBRARY_IMPL(manifold_core, CPU, m) {
  MC_IMPL(rsample_kl);
  MC_IMPL(rsample_kl_backward);
  MC_IMPL(rsample_kl_cholesky);
  MC_IMPL(rsample_kl_cholesky_backward);
  MC_IMPL(gaussian_nll);
  MC_IMPL(gaussian_nll_backward);
  MC_IMPL(gaussian_elbo);
  MC_IMPL(conv_norm);
  MC_IMPL(conv_norm_backward);
  MC_IMPL(conv_transpose);
  MC_IMPL(conv_transpose_backward);
  MC_IMPL(lstm);
  MC_IMPL(lstm_backward);
  MC_IMPL(ensemble_steps);
  MC_IMPL(ensemble_workspace);
}
