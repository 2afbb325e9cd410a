#include "batch_norm_relu.cuh"

#include "ops.h"
#include "tensors.h"

#include <torch/csrc/stable/ops.h>

namespace manifold_core::cuda {

namespace {

// Blocks that all have about as many turns.
int sum_blocks(const ImagesShape& s) {
  constexpr int64_t kMost = kMostSummedBlocks / 2;  // a few for each multiprocessor of a large device
  const auto ceil_div = [](int64_t n, int64_t of) { return (n + of - 1) / of; };
  const int64_t turns = ceil_div(s.samples * s.pixels, kThreads / s.groups * kInFlight);
  return static_cast<int>(ceil_div(turns, ceil_div(turns, kMost)));
}

int elementwise_blocks(const ImagesShape& s) { return blocks((s.samples * s.channels * s.pixels + 3) / 4, 1, false); }

// Whether the images are dense, and in that order. The stride of a dimension of size 1 does not matter.
bool dense(const ImagesShape& s, const Images& m, bool channels_last) {
  return (s.samples == 1 || m.sample_stride == s.channels * s.pixels) &&
         (s.channels == 1 || m.channel_stride == (channels_last ? 1 : s.pixels)) &&
         (s.pixels == 1 || m.pixel_stride == (channels_last ? s.channels : 1));
}

// The same elements, with one stride from pixel to pixel.
Tensor evenly_spaced(const Tensor& t) {
  const bool even = t.size(2) == 1 || t.size(3) == 1 || t.stride(2) == t.size(3) * t.stride(3);
  return even ? t : torch::stable::contiguous(t);
}

void check_images(const Tensor& t, const Tensor& u, const char* name) {
  check_device(t, u, name);
  bool alike = t.dim() == 4;
  for (int64_t i = 0; i < 4 && alike; ++i) alike = t.size(i) == u.size(i);
  STD_TORCH_CHECK(alike, "manifold_core: ", name, " must have the shape of u");
}

// The shape of a call's images, and the order in which the first of them lies in memory.
class Layout {
 public:
  explicit Layout(const Tensor& u) : u_(u) {
    STD_TORCH_CHECK(u.dim() == 4 && u.numel() > 0, "manifold_core: u must be images [B, C, H, W], at least one");
    shape = {u.size(0), u.size(1), u.size(2) * u.size(3), false, 0};
    const Images m = strided(u);
    shape.channels_last = !dense(shape, m, false) && dense(shape, m, true);
    shape.groups = groups_of_channels(shape.channels, shape.channels_last);
  }

  Images images(const Tensor& t) const {
    Images m = strided(t);
    const bool aligned = reinterpret_cast<uintptr_t>(m.data) % static_cast<uintptr_t>(4 * size_of(m.dtype)) == 0;
    m.by_four = aligned && u_.numel() % 4 == 0 && dense(shape, m, shape.channels_last);
    return m;
  }

  // One element for each channel.
  Matrix per_channel(const Tensor& t, const char* name) const {
    check_device(t, u_, name);
    STD_TORCH_CHECK(t.dim() == 1 && t.size(0) == shape.channels, "manifold_core: ", name, " must have shape [",
                    shape.channels, "]");
    return matrix_of(t, 0, t.stride(0), shape.channels);
  }

  // As u lies in memory; contiguous if that has gaps, or is in another order than the two of PyTorch.
  Tensor allocate_images(ScalarType type) const {
    const int64_t height = u_.size(2), width = u_.size(3);
    const int64_t sizes[4] = {shape.samples, shape.channels, height, width};
    int64_t strides[4] = {shape.channels * shape.pixels, shape.pixels, width, 1};
    const Images m = strided(u_);
    const bool even = height == 1 || width == 1 || u_.stride(2) == width * u_.stride(3);
    if (even && dense(shape, m, shape.channels_last)) {
      for (int64_t i = 0; i < 4; ++i) strides[i] = u_.stride(i);
    }
    return allocate_strided(u_, 4, sizes, strides, type);
  }

  ImagesShape shape;

 private:
  static Images strided(const Tensor& t) {
    return {t.data_ptr(), dtype_of(t), false, t.stride(0), t.stride(1), t.size(3) > 1 ? t.stride(3) : t.stride(2)};
  }

  const Tensor& u_;
};

void launch_sums(const BatchNormRelu& a, bool wide, cudaStream_t stream) {
  const auto run = [&](auto* arithmetic, auto* storage) {
    using C = std::remove_pointer_t<decltype(arithmetic)>;
    using S = std::remove_pointer_t<decltype(storage)>;
    MC_LAUNCH((batch_norm_relu_sums<C, S>), sum_blocks(a.shape), kThreads, stream, a);
  };
  choose_storage(wide, run, a.u);
}

void launch(const BatchNormRelu& a, bool wide, cudaStream_t stream) {
  const auto run = [&](auto* arithmetic, auto* storage) {
    using C = std::remove_pointer_t<decltype(arithmetic)>;
    using S = std::remove_pointer_t<decltype(storage)>;
    MC_LAUNCH((batch_norm_relu<C, S>), elementwise_blocks(a.shape), kThreads, stream, a);
  };
  choose_storage(wide, run, a.u, a.residual, a.y);
}

void launch_sums(const BatchNormReluBackward& a, bool wide, cudaStream_t stream) {
  const auto run = [&](auto* arithmetic, auto* storage) {
    using C = std::remove_pointer_t<decltype(arithmetic)>;
    using S = std::remove_pointer_t<decltype(storage)>;
    MC_LAUNCH((batch_norm_relu_backward_sums<C, S>), sum_blocks(a.shape), kThreads, stream, a);
  };
  choose_storage(wide, run, a.u, a.grad_y);
}

void launch(const BatchNormReluBackward& a, bool wide, cudaStream_t stream) {
  const auto run = [&](auto* arithmetic, auto* storage) {
    using C = std::remove_pointer_t<decltype(arithmetic)>;
    using S = std::remove_pointer_t<decltype(storage)>;
    MC_LAUNCH((batch_norm_relu_backward<C, S>), elementwise_blocks(a.shape), kThreads, stream, a);
  };
  choose_storage(wide, run, a.u, a.grad_y, a.grad_u);
}

}  // namespace

std::tuple<Tensor, Tensor, Tensor, Tensor> batch_norm_relu(const Tensor& u, const Tensor& norm_weight,
                                                           const Tensor& norm_bias, const OptionalTensor& residual,
                                                           double eps, bool relu) {
  const Layout layout(u);
  const DeviceGuard device(u);
  const bool wide = any_wide(u, residual);
  const int64_t channels = layout.shape.channels;
  if (residual.has_value()) check_images(*residual, u, "residual");
  const Tensor even_u = evenly_spaced(u);
  const auto even_residual = residual.has_value() ? OptionalTensor(evenly_spaced(*residual)) : std::nullopt;
  Tensor y = layout.allocate_images(residual.has_value() ? promoted(u, *residual) : u.scalar_type());
  Tensor mean = allocate(u, {channels}, arithmetic_type(u));
  Tensor variance = allocate(u, {channels}, arithmetic_type(u));
  Tensor of_channels = allocate(u, {channels, 4}, arithmetic_type(u, residual));
  const Tensor totals = allocate(u, {2 * channels}, ScalarType::Double);
  const SumMemory memory(true, u, sum_blocks(layout.shape), 2 * channels, device.stream);
  BatchNormRelu a{layout.shape, eps, relu};
  a.u = layout.images(even_u);
  if (residual.has_value()) a.residual = layout.images(*even_residual);
  a.y = layout.images(y);
  a.norm_weight = layout.per_channel(norm_weight, "norm_weight");
  a.norm_bias = layout.per_channel(norm_bias, "norm_bias");
  a.mean = layout.per_channel(mean, "mean");
  a.variance = layout.per_channel(variance, "variance");
  a.sum = memory.sum;
  a.totals = static_cast<double*>(totals.data_ptr());
  a.of_channels = of_channels.data_ptr();
  launch_sums(a, wide, device.stream);
  launch(a, wide, device.stream);
  check_launch();
  return {y, mean, variance, of_channels};
}

std::tuple<Tensor, Tensor, Tensor> batch_norm_relu_backward(const Tensor& grad_y, const Tensor& u,
                                                            const Tensor& norm_weight, const Tensor& norm_bias,
                                                            const Tensor& of_channels, bool relu) {
  const Layout layout(u);
  const DeviceGuard device(u);
  const bool wide = any_wide(grad_y, u);
  const int64_t channels = layout.shape.channels;
  check_images(grad_y, u, "grad_y");
  check_device(of_channels, u, "of_channels");
  STD_TORCH_CHECK(of_channels.numel() == 4 * channels && of_channels.is_contiguous() &&
                      of_channels.scalar_type() == arithmetic_type(grad_y, u),
                  "manifold_core: of_channels must be what the forward pass left");
  const Tensor even_grad_y = evenly_spaced(grad_y), even_u = evenly_spaced(u);
  Tensor grad_u = layout.allocate_images(u.scalar_type());
  Tensor grad_norm_weight = allocate(u, {channels}, norm_weight.scalar_type());
  Tensor grad_norm_bias = allocate(u, {channels}, norm_bias.scalar_type());
  const Tensor of_gradients = allocate(u, {channels, 2}, arithmetic_type(grad_y, u));
  const Tensor totals = allocate(u, {2 * channels}, ScalarType::Double);
  const SumMemory memory(true, u, sum_blocks(layout.shape), 2 * channels, device.stream);
  BatchNormReluBackward a{layout.shape, relu};
  a.grad_y = layout.images(even_grad_y);
  a.u = layout.images(even_u);
  a.grad_u = layout.images(grad_u);
  a.grad_norm_weight = layout.per_channel(grad_norm_weight, "grad_norm_weight");
  a.grad_norm_bias = layout.per_channel(grad_norm_bias, "grad_norm_bias");
  a.sum = memory.sum;
  a.totals = static_cast<double*>(totals.data_ptr());
  a.of_channels = of_channels.data_ptr();
  a.of_gradients = of_gradients.data_ptr();
  launch_sums(a, wide, device.stream);
  launch(a, wide, device.stream);
  check_launch();
  return {grad_u, grad_norm_weight, grad_norm_bias};
}

}  // namespace manifold_core::cuda
