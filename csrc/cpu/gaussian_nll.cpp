#include "ops.h"
#include "tensors.h"

#include <cmath>

namespace manifold_core::cpu {

std::tuple<Tensor, Tensor> gaussian_nll(const Tensor& x_hat, const Tensor& x, const Tensor& log_gamma) {
  check_same_shape(x_hat, x, "x_hat, x");
  const int64_t rows = x_hat.size(0), cols = x_hat.size(1);
  const ScalarType arithmetic = arithmetic_type(x_hat, x);
  Tensor nll = torch::stable::new_empty(x_hat, {rows}, arithmetic);
  Tensor squared_error = torch::stable::new_empty(x_hat, {rows}, arithmetic);
  const GaussianNll args{cols,      real_scalar(log_gamma), matrix(x_hat),
                         matrix(x), per_row(nll),           per_row(squared_error)};
  MC_RUN(gaussian_nll, args, arithmetic, rows);
  return {nll, squared_error};
}

namespace {

// d sum_b g_b nll_b / d log gamma = sum_b g_b (cols - SSE_b / gamma) / 2: in one order and in double, so that the
// result does not depend on the number of threads.
template <class C>
double gradient_of_log_gamma(const Tensor& grad_nll, const Tensor& squared_error, double cols, double inv_gamma) {
  const C* const g = static_cast<const C*>(grad_nll.const_data_ptr());
  const C* const s = static_cast<const C*>(squared_error.const_data_ptr());
  const int64_t rows = squared_error.size(0), g_stride = grad_nll.stride(0), s_stride = squared_error.stride(0);
  double sum = 0;
  for (int64_t i = 0; i < rows; ++i) sum += 0.5 * double{g[i * g_stride]} * (cols - s[i * s_stride] * inv_gamma);
  return sum;
}

}  // namespace

std::tuple<Tensor, Tensor> gaussian_nll_backward(const std::optional<Tensor>& grad_nll,
                                                 const std::optional<Tensor>& grad_squared_error, const Tensor& x_hat,
                                                 const Tensor& x, const Tensor& log_gamma,
                                                 const Tensor& squared_error) {
  check_same_shape(x_hat, x, "x_hat, x");
  const int64_t rows = x_hat.size(0), cols = x_hat.size(1);
  const ScalarType arithmetic = arithmetic_type(x_hat, x);
  for (const std::optional<Tensor>& g : {grad_nll, grad_squared_error, std::optional<Tensor>(squared_error)}) {
    STD_TORCH_CHECK(!g.has_value() || (g->dim() == 1 && g->size(0) == rows && g->scalar_type() == arithmetic),
                    "manifold_core: expected one number a row, of the type of nll");
  }
  const double log_gamma_value = real_scalar(log_gamma);
  Tensor grad_x_hat = torch::stable::new_empty(x_hat, {rows, cols});
  const GaussianNllBackward args{cols,      log_gamma_value,   matrix(x_hat),
                                 matrix(x), per_row(grad_nll), per_row(grad_squared_error),
                                 matrix(grad_x_hat)};
  MC_RUN(gaussian_nll_backward, args, arithmetic, rows);

  double gradient = 0;
  if (grad_nll.has_value()) {
    const double inv_gamma = std::exp(-log_gamma_value);
    gradient = arithmetic == ScalarType::Double
                   ? gradient_of_log_gamma<double>(*grad_nll, squared_error, cols, inv_gamma)
                   : gradient_of_log_gamma<float>(*grad_nll, squared_error, cols, inv_gamma);
  }
  Tensor grad_log_gamma = torch::stable::empty_like(log_gamma);
  if (log_gamma.scalar_type() == ScalarType::Double) {
    *static_cast<double*>(grad_log_gamma.data_ptr()) = gradient;
  } else {
    *static_cast<float*>(grad_log_gamma.data_ptr()) = static_cast<float>(gradient);
  }
  return {grad_x_hat, grad_log_gamma};
}

}  // namespace manifold_core::cpu
