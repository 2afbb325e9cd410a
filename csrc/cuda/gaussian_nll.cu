#include "gaussian_nll.cuh"

#include "ops.h"
#include "tensors.h"

namespace manifold_core::cuda {

namespace {

void launch(const GaussianNll& a, bool wide, cudaStream_t stream) {
  const int grid = blocks(a.rows, a.threads_a_row, a.sum.partials != nullptr);
  const auto run = [&](auto* arithmetic, auto* storage) {
    using C = std::remove_pointer_t<decltype(arithmetic)>;
    using S = std::remove_pointer_t<decltype(storage)>;
    MC_LAUNCH((gaussian_nll<C, S>), grid, kThreads, stream, a);
  };
  choose_storage(wide, run, a.x_hat, a.x, a.grad_x_hat);
}

void launch(const GaussianNllBackward& a, bool wide, cudaStream_t stream) {
  const int grid = blocks(a.rows, a.threads_a_row, a.sum.partials != nullptr);
  const auto run = [&](auto* arithmetic, auto* storage) {
    using C = std::remove_pointer_t<decltype(arithmetic)>;
    using S = std::remove_pointer_t<decltype(storage)>;
    MC_LAUNCH((gaussian_nll_backward<C, S>), grid, kThreads, stream, a);
  };
  choose_storage(wide, run, a.x_hat, a.x, a.grad_x_hat);
}

void launch(const GaussianElboScale& a, bool wide, cudaStream_t stream) {
  const int grid = blocks_for(a.elements, 4 * kThreads, true);  // few: most often there is nothing to do
  const auto run = [&](auto* arithmetic, auto* storage) {
    using C = std::remove_pointer_t<decltype(arithmetic)>;
    using S = std::remove_pointer_t<decltype(storage)>;
    MC_LAUNCH((gaussian_elbo_scale<C, S>), grid, kThreads, stream, a);
  };
  choose_storage(wide, run, a.grad_x_hat);
}

}  // namespace

std::tuple<Tensor, Tensor> gaussian_nll(const Tensor& x_hat, const Tensor& x, const Tensor& log_gamma) {
  const Batch batch(x_hat, "x_hat");
  const DeviceGuard device(x_hat);
  const ScalarType type = arithmetic_type(x_hat, x);
  Tensor nll = allocate(x_hat, {batch.rows}, type);
  Tensor squared_error = allocate(x_hat, {batch.rows}, type);
  GaussianNll a{batch.rows, batch.cols, threads_a_row(batch.rows, batch.cols), batch.scalar(log_gamma, "log_gamma")};
  a.x_hat = batch.matrix(x_hat, "x_hat");
  a.x = batch.matrix(x, "x");
  a.nll = batch.per_row(nll, "nll");
  a.squared_error = batch.per_row(squared_error, "squared_error");
  launch(a, any_wide(x_hat, x), device.stream);
  check_launch();
  return {nll, squared_error};
}

std::tuple<Tensor, Tensor> gaussian_nll_backward(
    const OptionalTensor& grad_nll, const OptionalTensor& grad_squared_error, const Tensor& x_hat, const Tensor& x,
    const Tensor& log_gamma, const Tensor& squared_error) {
  const Batch batch(x_hat, "x_hat");
  const DeviceGuard device(x_hat);
  const int threads = threads_a_row(batch.rows, batch.cols);
  const SumMemory memory(grad_nll.has_value(), batch, x_hat, threads, 1, device.stream);
  Tensor grad_x_hat = allocate(x_hat, {batch.rows, batch.cols}, x_hat.scalar_type());
  Tensor grad_log_gamma = allocate(x_hat, {}, log_gamma.scalar_type());
  GaussianNllBackward a{batch.rows, batch.cols, threads, batch.scalar(log_gamma, "log_gamma")};
  a.grad_nll = batch.per_row(grad_nll, "grad_nll");
  a.grad_squared_error = batch.per_row(grad_squared_error, "grad_squared_error");
  a.x_hat = batch.matrix(x_hat, "x_hat");
  a.x = batch.matrix(x, "x");
  a.squared_error = batch.per_row(squared_error, "squared_error");
  a.grad_x_hat = batch.matrix(grad_x_hat, "grad_x_hat");
  a.sum = memory.sum;
  a.grad_log_gamma = batch.scalar(grad_log_gamma, "grad_log_gamma");
  launch(a, any_wide(x_hat, x), device.stream);
  check_launch();
  return {grad_x_hat, grad_log_gamma};
}

std::tuple<Tensor, Tensor, Tensor, Tensor, Tensor, Tensor> gaussian_elbo(const Tensor& x_hat, const Tensor& x,
                                                                         const Tensor& log_gamma, const Tensor& kl,
                                                                         double beta, bool with_gradients) {
  const Batch batch(x_hat, "x_hat");
  const DeviceGuard device(x_hat);
  const ScalarType type = arithmetic_type(x_hat, x);
  const int threads = threads_a_row(batch.rows, batch.cols);
  const SumMemory memory(true, batch, x_hat, threads, 2, device.stream);
  Tensor loss = allocate(x_hat, {}, type);
  Tensor nll = allocate(x_hat, {batch.rows}, type);
  Tensor squared_error = allocate(x_hat, {batch.rows}, type);
  Tensor grad_x_hat = allocate(x_hat, {with_gradients ? batch.rows : 0, batch.cols}, x_hat.scalar_type());
  Tensor grad_log_gamma = allocate(x_hat, {}, log_gamma.scalar_type());
  Tensor grad_kl = allocate(x_hat, {}, type);
  GaussianNll a{batch.rows, batch.cols, threads, batch.scalar(log_gamma, "log_gamma")};
  a.x_hat = batch.matrix(x_hat, "x_hat");
  a.x = batch.matrix(x, "x");
  a.nll = batch.per_row(nll, "nll");
  a.squared_error = batch.per_row(squared_error, "squared_error");
  a.kl = batch.per_row(kl, "kl");
  a.beta = beta;
  if (with_gradients) a.grad_x_hat = batch.matrix(grad_x_hat, "grad_x_hat");
  a.sum = memory.sum;
  a.loss = batch.scalar(loss, "loss");
  a.grad_log_gamma = batch.scalar(grad_log_gamma, "grad_log_gamma");
  a.grad_kl = batch.scalar(grad_kl, "grad_kl");
  launch(a, any_wide(x_hat, x), device.stream);
  check_launch();
  return {loss, nll, squared_error, grad_x_hat, grad_log_gamma, grad_kl};
}

void gaussian_elbo_scale(const Tensor& grad_x_hat, const Tensor& grad_log_gamma, const Tensor& grad_kl,
                         const Tensor& grad_loss) {
  const Batch batch(grad_x_hat, "grad_x_hat");
  const DeviceGuard device(grad_x_hat);
  STD_TORCH_CHECK(grad_x_hat.is_contiguous(), "manifold_core: grad_x_hat must be contiguous");
  const int64_t elements = batch.rows * batch.cols;
  GaussianElboScale a{elements, matrix_of(grad_x_hat, 0, 1, elements)};
  a.grad_log_gamma = batch.scalar(grad_log_gamma, "grad_log_gamma");
  a.grad_kl = batch.scalar(grad_kl, "grad_kl");
  a.grad_loss = batch.scalar(grad_loss, "grad_loss");
  launch(a, is_wide(grad_x_hat), device.stream);
  check_launch();
}

}  // namespace manifold_core::cuda
