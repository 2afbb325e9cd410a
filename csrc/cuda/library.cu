// Which function serves an operator on CUDA tensors. Schemas, fake implementations and autograd stand in Python, beside
// each operator's public function (kernels/<op>/op.py); of the ensemble's only schemas, in ensemble/train.py.
#include "ops.h"

#include <torch/csrc/stable/library.h>

// Tests build the same file for the CPU, under a name of their own.
#if !defined(MC_LIBRARY)
#define MC_LIBRARY manifold_core
#define MC_DISPATCH_KEY CUDA
#endif

#define MC_IMPL(name) m.impl(#name, TORCH_BOX(&manifold_core::cuda::name))

STABLE_TORCH_LIBRARY_IMPL(MC_LIBRARY, MC_DISPATCH_KEY, m) {
  MC_IMPL(rsample_kl);
  MC_IMPL(rsample_kl_backward);
  MC_IMPL(rsample_kl_cholesky);
  MC_IMPL(rsample_kl_cholesky_backward);
  MC_IMPL(gaussian_nll);
  MC_IMPL(gaussian_nll_backward);
  MC_IMPL(gaussian_elbo);
  MC_IMPL(gaussian_elbo_scale);
  MC_IMPL(batch_norm_relu);
  MC_IMPL(batch_norm_relu_backward);
  MC_IMPL(ensemble_steps);
  MC_IMPL(ensemble_workspace);
}
