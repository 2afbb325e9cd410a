// Autograd nodes of the ops in C++, for eager calls. kernels/<op>/op.py has the same formulas for torch.compile and
// torch.func, and for all calls if this module is missing.
//
// They need libtorch's unstable interface: setup.py puts torch's version into the module's name, and with another torch
// kernels/extension.py does not look for it.
#include <torch/csrc/Exceptions.h>
#include <torch/csrc/utils/pybind.h>

#include "convolution.h"
#include "elbo.h"
#include "lstm.h"
#include "plain.h"

namespace manifold_core::autograd {

PYBIND11_MODULE(MC_MODULE, m) {
  // Without Python's lock, and with torch's own way of handing on what a hook of the caller's raises.
  m.def("rsample_kl", torch::wrap_pybind_function_no_gil(&rsample_kl));
  m.def("rsample_kl_cholesky", torch::wrap_pybind_function_no_gil(&rsample_kl_cholesky));
  m.def("gaussian_nll", torch::wrap_pybind_function_no_gil(&gaussian_nll));
  m.def("gaussian_elbo", torch::wrap_pybind_function_no_gil(&gaussian_elbo));
  m.def("conv_norm", torch::wrap_pybind_function_no_gil(&conv_norm));
  m.def("conv_transpose", torch::wrap_pybind_function_no_gil(&conv_transpose));
  m.def("lstm", torch::wrap_pybind_function_no_gil(&lstm));
  // These begin with it, to look at what they are given.
  m.def("plain_rsample_kl", torch::wrap_pybind_function(&plain_rsample_kl));
  m.def("plain_rsample_kl_cholesky", torch::wrap_pybind_function(&plain_rsample_kl_cholesky));
  m.def("plain_gaussian_nll", torch::wrap_pybind_function(&plain_gaussian_nll));
  m.def("plain_gaussian_elbo", torch::wrap_pybind_function(&plain_gaussian_elbo));
}

}  // namespace manifold_core::autograd
