#include "ops.h"
#include "tensors.h"

#include <cmath>
#include <numeric>
#include <type_traits>
#include <vector>

namespace manifold_core::cpu {

namespace {

// A tensor of no dimensions.
Tensor scalar_tensor(ScalarType type, double value) {
  Tensor t = allocate({}, type);
  store(t, 0, value);
  return t;
}

constexpr int64_t kSummedRows = 8192;  // by one thread, in kLanes sums that need not wait for each other
constexpr int64_t kLanes = 8;

// sum_i f(a[i], b[i]) in double and in an order that the number of rows alone decides, not the number of threads.
template <class F>
double sum_over_rows(const Tensor& a, const Tensor& b, const F& f) {
  const auto run = [&](auto* type) {
    using C = std::remove_pointer_t<decltype(type)>;
    const C* const x = static_cast<const C*>(a.const_data_ptr());
    const C* const y = static_cast<const C*>(b.const_data_ptr());
    const int64_t rows = a.size(0), x_stride = a.stride(0), y_stride = b.stride(0);
    const auto term = [&](int64_t i) { return f(double{x[i * x_stride]}, double{y[i * y_stride]}); };
    std::vector<double> sums(static_cast<size_t>(rows / kSummedRows + 1));
    parallel_over_rows(rows, kSummedRows, [&](int64_t begin, int64_t end) {
      for (int64_t i = begin; i < end;) {
        double& sum = sums[static_cast<size_t>(i / kSummedRows)];
        const int64_t last = std::min(end, i + kSummedRows);
        double lane[kLanes] = {};
        for (; i + kLanes <= last; i += kLanes) {
          for (int64_t l = 0; l < kLanes; ++l) lane[l] += term(i + l);
        }
        for (; i < last; ++i) sum += term(i);
        for (const double one : lane) sum += one;
      }
    });
    return std::accumulate(sums.begin(), sums.end(), 0.0);
  };
  return a.scalar_type() == ScalarType::Double ? run(static_cast<double*>(nullptr)) : run(static_cast<float*>(nullptr));
}

void check_per_row(const OptionalTensor& t, int64_t rows, ScalarType type) {
  STD_TORCH_CHECK(!t.has_value() || (t->dim() == 1 && t->size(0) == rows && t->scalar_type() == type),
                  "manifold_core: expected one number per row, of the type of nll");
}

}  // namespace

std::tuple<Tensor, Tensor> gaussian_nll(const Tensor& x_hat, const Tensor& x, const Tensor& log_gamma) {
  check_same_shape(x_hat, x, "x_hat, x");
  const int64_t rows = x_hat.size(0), cols = x_hat.size(1);
  const ScalarType arithmetic = arithmetic_type(x_hat, x);
  Tensor nll = allocate({rows}, arithmetic);
  Tensor squared_error = allocate({rows}, arithmetic);
  const GaussianNll args{cols, real_scalar(log_gamma), matrix(x_hat), matrix(x), per_row(nll), per_row(squared_error)};
  MC_RUN(gaussian_nll, args, arithmetic, rows);
  return {nll, squared_error};
}

std::tuple<Tensor, Tensor> gaussian_nll_backward(
    const OptionalTensor& grad_nll, const OptionalTensor& grad_squared_error, const Tensor& x_hat, const Tensor& x,
    const Tensor& log_gamma, const Tensor& squared_error) {
  check_same_shape(x_hat, x, "x_hat, x");
  const int64_t rows = x_hat.size(0), cols = x_hat.size(1);
  const ScalarType arithmetic = arithmetic_type(x_hat, x);
  check_per_row(grad_nll, rows, arithmetic);
  check_per_row(grad_squared_error, rows, arithmetic);
  check_per_row(squared_error, rows, arithmetic);
  const double log_gamma_value = real_scalar(log_gamma), inv_gamma = std::exp(-log_gamma_value);
  Tensor grad_x_hat = allocate({rows, cols}, x_hat.scalar_type());
  const GaussianNllBackward args{cols,      log_gamma_value,   matrix(x_hat),
                                 matrix(x), per_row(grad_nll), per_row(grad_squared_error),
                                 matrix(grad_x_hat)};
  MC_RUN(gaussian_nll_backward, args, arithmetic, rows);
  // d nll / d log gamma = (cols - SSE / gamma) / 2
  const double grad_log_gamma =
      grad_nll.has_value()
          ? sum_over_rows(*grad_nll, squared_error, [&](double g, double s) { return 0.5 * g * (cols - s * inv_gamma); })
          : 0.0;
  return {grad_x_hat, scalar_tensor(log_gamma.scalar_type(), grad_log_gamma)};
}

std::tuple<Tensor, Tensor, Tensor, Tensor, Tensor, Tensor> gaussian_elbo(const Tensor& x_hat, const Tensor& x,
                                                                         const Tensor& log_gamma, const Tensor& kl,
                                                                         double beta, bool with_gradients) {
  check_same_shape(x_hat, x, "x_hat, x");
  const int64_t rows = x_hat.size(0), cols = x_hat.size(1);
  const ScalarType arithmetic = arithmetic_type(x_hat, x);
  check_per_row(kl, rows, arithmetic);
  const double log_gamma_value = real_scalar(log_gamma), inv_gamma = std::exp(-log_gamma_value);
  Tensor nll = allocate({rows}, arithmetic);
  Tensor squared_error = allocate({rows}, arithmetic);
  Tensor grad_x_hat = allocate({with_gradients ? rows : 0, cols}, x_hat.scalar_type());
  // A sample's share of the mean, rounded like the loss's gradient: its terms are a backward pass's, bit for bit.
  const double share = arithmetic == ScalarType::Double ? 1.0 / rows : 1.0f / static_cast<float>(rows);
  const GaussianNll args{cols,
                         log_gamma_value,
                         matrix(x_hat),
                         matrix(x),
                         per_row(nll),
                         per_row(squared_error),
                         with_gradients ? matrix(grad_x_hat) : Matrix{},
                         inv_gamma * share};
  MC_RUN(gaussian_nll, args, arithmetic, rows);
  const double loss = sum_over_rows(nll, kl, [&](double n, double k) { return n + beta * k; }) / rows;
  const double grad_log_gamma = sum_over_rows(
      squared_error, squared_error, [&](double s, double) { return 0.5 * share * (cols - s * inv_gamma); });
  return {scalar_tensor(arithmetic, loss),
          nll,
          squared_error,
          grad_x_hat,
          scalar_tensor(log_gamma.scalar_type(), grad_log_gamma),
          scalar_tensor(arithmetic, beta / rows)};
}

}  // namespace manifold_core::cpu
