// Which function serves each operator on CUDA tensors. The schemas are defined elsewhere, once for all backends.
#include "ops.h"

#include <torch/csrc/stable/library.h>

// Tests build the same file for the CPU, under a name of their own.
#if !defined(MC_LIBRARY)
#define MC_LIBRARY manifold_core
#define MC_DISPATCH_KEY CUDA
#endif

STABLE_TORCH_LIBRARY_IMPL(MC_LIBRARY, MC_DISPATCH_KEY, m) {
  using namespace manifold_core::cuda;
  m.impl("rsample_kl", TORCH_BOX(&rsample_kl));
  m.impl("rsample_kl_forward", TORCH_BOX(&rsample_kl));
  m.impl("rsample_kl_backward", TORCH_BOX(&rsample_kl_backward));
  m.impl("rsample_kl_cholesky", TORCH_BOX(&rsample_kl_cholesky));
  m.impl("rsample_kl_cholesky_forward", TORCH_BOX(&rsample_kl_cholesky));
  m.impl("rsample_kl_cholesky_backward", TORCH_BOX(&rsample_kl_cholesky_backward));
  m.impl("gaussian_nll", TORCH_BOX(&gaussian_nll));
  m.impl("gaussian_nll_forward", TORCH_BOX(&gaussian_nll));
  m.impl("gaussian_nll_backward", TORCH_BOX(&gaussian_nll_backward));
  m.impl("gaussian_elbo", TORCH_BOX(&gaussian_elbo));
  m.impl("gaussian_elbo_forward", TORCH_BOX(&gaussian_elbo));
}
