// The operators of csrc/cuda on CPU tensors, in a namespace of their own, and what torch built for CUDA would bring.
#include <torch/csrc/stable/library.h>

STABLE_TORCH_LIBRARY(manifold_core_cuda_on_host, m) {
  m.def(
      "rsample_kl(Tensor mu, Tensor log_var, Tensor? prior_mu, Tensor? prior_log_var, Tensor? gate_logits, Tensor seed,"
      " SymInt first_row, bool per_dimension, bool with_variance_ratio)"
      " -> (Tensor z, Tensor kl, Tensor variance_ratio)");
  m.def(
      "rsample_kl_backward(Tensor? grad_z, Tensor? grad_kl, Tensor mu, Tensor log_var, Tensor? prior_mu,"
      " Tensor? prior_log_var, Tensor? gate_logits, Tensor seed, SymInt first_row, bool with_prior, bool with_gate)"
      " -> (Tensor grad_mu, Tensor grad_log_var, Tensor grad_prior_mu, Tensor grad_prior_log_var,"
      " Tensor grad_gate_logits)");
  m.def(
      "rsample_kl_cholesky(Tensor mu, Tensor tril, Tensor? prior_mu, Tensor? prior_log_var, Tensor seed,"
      " SymInt first_row, bool per_dimension, bool with_variance_ratio)"
      " -> (Tensor z, Tensor kl, Tensor variance_ratio)");
  m.def(
      "rsample_kl_cholesky_backward(Tensor? grad_z, Tensor? grad_kl, Tensor mu, Tensor tril, Tensor? prior_mu,"
      " Tensor? prior_log_var, Tensor seed, SymInt first_row, bool with_prior)"
      " -> (Tensor grad_mu, Tensor grad_tril, Tensor grad_prior_mu, Tensor grad_prior_log_var)");
  m.def("gaussian_nll(Tensor x_hat, Tensor x, Tensor log_gamma) -> (Tensor nll, Tensor squared_error)");
  m.def(
      "gaussian_nll_backward(Tensor? grad_nll, Tensor? grad_squared_error, Tensor x_hat, Tensor x, Tensor log_gamma,"
      " Tensor squared_error) -> (Tensor grad_x_hat, Tensor grad_log_gamma)");
  m.def(
      "gaussian_elbo(Tensor x_hat, Tensor x, Tensor log_gamma, Tensor kl, float beta, bool with_gradients) -> (Tensor"
      " loss, Tensor nll, Tensor squared_error, Tensor grad_x_hat, Tensor grad_log_gamma, Tensor grad_kl)");
}

extern "C" {

AOTITorchError aoti_torch_create_cuda_guard(int32_t, CUDAGuardHandle* guard) {
  *guard = nullptr;
  return 0;
}

AOTITorchError aoti_torch_delete_cuda_guard(CUDAGuardHandle) { return 0; }

AOTITorchError aoti_torch_get_current_cuda_stream(int32_t, void** stream) {
  *stream = nullptr;
  return 0;
}
}
