#include "convolution_plan.h"
#include "ops.h"
#include "scratch.h"
#include "tensors.h"

#include <cmath>
#include <limits>
#include <type_traits>
#include <utility>

namespace manifold_core::cpu {

namespace {

template <class C>
const Kernels<C>& kernels();
template <>
const Kernels<float>& kernels() { return instruction_set().f32; }
template <>
const Kernels<double>& kernels() { return instruction_set().f64; }

// f(block, begin, end) for blocks of samples, on torch's threads.
template <class F>
void over_blocks(int64_t batch, int64_t samples, const F& f) {
  torch::stable::parallel_for(0, (batch + samples - 1) / samples, 1, [&](int64_t first, int64_t last) {
    for (int64_t i = first; i < last; ++i) f(i, i * samples, std::min(batch, (i + 1) * samples));
  });
}

template <class C>
C* data(const Tensor& t) { return static_cast<C*>(t.data_ptr()); }

template <class C>
const C* const_data(const Tensor& t) { return static_cast<const C*>(t.const_data_ptr()); }

template <class F>
auto with_arithmetic(const Tensor& t, const F& f) {
  return t.scalar_type() == ScalarType::Double ? f(static_cast<double*>(nullptr)) : f(static_cast<float*>(nullptr));
}

// The geometry of a convolution of x, if `large`, or else of its transposed convolution.
Geometry geometry(const Tensor& x, const Tensor& weight, int64_t stride, int64_t padding, bool large) {
  const ScalarType type = x.scalar_type();
  STD_TORCH_CHECK(type == ScalarType::Float || type == ScalarType::Double,
                  "manifold_core: expected images of float32 or float64");
  STD_TORCH_CHECK(x.dim() == 4 && weight.dim() == 4 && x.numel() > 0 && weight.numel() > 0,
                  "manifold_core: expected images and weights of four dimensions, and at least one of each");
  constexpr int64_t most = std::numeric_limits<int32_t>::max();
  STD_TORCH_CHECK(stride > 0 && stride <= most && padding >= 0 && padding <= most,
                  "manifold_core: expected a stride from 1 and a padding from 0 to 2^31 - 1");
  Geometry g{};
  g.batch = x.size(0);
  g.outputs = weight.size(0);
  g.inputs = weight.size(1);
  g.kernel = weight.size(2);
  g.stride = stride;
  g.padding = padding;
  if (large) {
    g.height = x.size(2);
    g.width = x.size(3);
    STD_TORCH_CHECK(g.height + 2 * padding >= g.kernel && g.width + 2 * padding >= g.kernel,
                    "manifold_core: the images are smaller than the kernel");
    g.out_height = (g.height + 2 * padding - g.kernel) / stride + 1;
    g.out_width = (g.width + 2 * padding - g.kernel) / stride + 1;
  } else {
    g.out_height = x.size(2);
    g.out_width = x.size(3);
    g.height = (g.out_height - 1) * stride - 2 * padding + g.kernel;
    g.width = (g.out_width - 1) * stride - 2 * padding + g.kernel;
    STD_TORCH_CHECK(g.height > 0 && g.width > 0, "manifold_core: the padding leaves no images");
  }
  // From a single pixel there is nowhere to step, however far: what follows takes time and memory as the stride's square.
  if (g.out_height == 1 && g.out_width == 1) {
    g.stride = std::min(stride, std::max(g.height, g.width) + 2 * padding);
  }
  check_dense(x, {g.batch, large ? g.inputs : g.outputs, x.size(2), x.size(3)}, type, "x");
  check_dense(weight, {g.outputs, g.inputs, g.kernel, g.kernel}, type, "weight");
  return g;
}

Tensor small_images(const Geometry& g, ScalarType type) {
  return allocate({g.batch, g.outputs, g.out_height, g.out_width}, type);
}

Tensor large_images(const Geometry& g, ScalarType type) {
  return allocate({g.batch, g.inputs, g.height, g.width}, type);
}

template <class C>
void run(const Convolve<C>& args, int64_t batch) {
  const Correlation<C>& c = args.correlation;
  const int64_t samples = kernels<C>().samples, size = (c.source.tile_rows() + c.size()) * samples;
  over_blocks(batch, samples, [&](int64_t block, int64_t begin, int64_t end) {
    kernels<C>().convolve(args, block, begin, end, Scratch<C>(size).data());
  });
}

// The sums of a batch are taken in at most this many parts, whatever the number of threads.
constexpr int64_t kParts = 32;

// The gradients of the weights and the biases, one after the other. gradient_of(begin, end, room) is where the gradient
// of the output of these samples stands; it may use the room.
template <class C, class F>
std::vector<double> run_backward(const ConvolveBackward<C>& args, const Geometry& g, int64_t gradient_size,
                                 const F& gradient_of) {
  const Correlation<C>& c = args.correlation;
  const int64_t weights = g.outputs * g.depth(), size = weights + g.inputs;
  const int64_t samples = kernels<C>().samples;
  const int64_t blocks = (g.batch + samples - 1) / samples, parts = std::min(blocks, kParts);
  const int64_t tiles = c.source.tile_rows() + args.in.tile_rows() + std::max(c.size(), weights);
  std::vector<double> sums(static_cast<size_t>(parts * size), 0.0);
  torch::stable::parallel_for(0, parts, 1, [&](int64_t first, int64_t last) {
    const Scratch<C> scratch((tiles + gradient_size) * samples);
    C* const room = scratch.data();
    C* const rest = room + gradient_size * samples;
    for (int64_t part = first; part < last; ++part) {
      for (int64_t i = part * blocks / parts; i < (part + 1) * blocks / parts; ++i) {
        const int64_t begin = i * samples, end = std::min(g.batch, begin + samples);
        kernels<C>().convolve_backward(args, gradient_of(begin, end, room), begin, end, sums.data() + part * size, rest);
      }
    }
  });
  for (int64_t i = 0; i < size; ++i) {
    for (int64_t part = 1; part < parts; ++part) {
      sums[static_cast<size_t>(i)] += sums[static_cast<size_t>(part * size + i)];
    }
  }
  return sums;
}

template <class C>
void fill(const Tensor& out, const double* numbers) {
  for (int64_t i = 0; i < out.numel(); ++i) data<C>(out)[i] = static_cast<C>(numbers[i]);
}

// mean, scale and shift of a batch normalisation.
template <class C>
struct Constants {
  Constants(const Geometry& g, const C* mean_of, const C* variance, const C* weight, const C* bias, double eps)
      : mean(spread(g, [&](int64_t c) { return mean_of[c]; })),
        scale(spread(g, [&](int64_t c) { return weight[c] / std::sqrt(variance[c] + eps); })),
        shift(spread(g, [&](int64_t c) { return bias[c]; })) {}

  // A number of each channel, once for each of its pixels.
  template <class F>
  static std::vector<C> spread(const Geometry& g, const F& of_channel) {
    const int64_t pixels = g.out_height * g.out_width;
    std::vector<C> numbers;
    numbers.reserve(static_cast<size_t>(g.outputs * pixels));
    for (int64_t c = 0; c < g.outputs; ++c) {
      numbers.insert(numbers.end(), static_cast<size_t>(pixels), static_cast<C>(of_channel(c)));
    }
    return numbers;
  }

  std::vector<C> mean, scale, shift;
};

}  // namespace

std::tuple<Tensor, Tensor, Tensor, Tensor> conv_norm(const Tensor& x, const Tensor& weight, const Tensor& norm_weight,
                                                     const Tensor& norm_bias, const OptionalTensor& residual,
                                                     int64_t stride, int64_t padding, double eps, bool relu) {
  const Geometry g = geometry(x, weight, stride, padding, true);
  const ScalarType type = x.scalar_type();
  check_dense(norm_weight, {g.outputs}, type, "norm_weight");
  check_dense(norm_bias, {g.outputs}, type, "norm_bias");
  if (residual.has_value()) check_dense(*residual, {g.batch, g.outputs, g.out_height, g.out_width}, type, "residual");
  Tensor y = small_images(g, type), u = small_images(g, type);
  Tensor mean = allocate({g.outputs}, type), variance = allocate({g.outputs}, type);
  with_arithmetic(x, [&](auto* of) {
    using C = std::remove_pointer_t<decltype(of)>;
    const int64_t samples = kernels<C>().samples, blocks = (g.batch + samples - 1) / samples;
    const int64_t pixels = g.out_height * g.out_width;
    std::vector<double> moments(static_cast<size_t>(blocks * 2 * g.outputs));
    const Plan<C> plan = Plan<C>::down(g, const_data<C>(weight), nullptr);
    run<C>({plan.correlation(), const_data<C>(x), data<C>(u), moments.data()}, g.batch);
    for (int64_t c = 0; c < g.outputs; ++c) {
      double sum = 0, squares = 0;
      const auto of_block = [&](int64_t block) { return moments.data() + block * 2 * g.outputs + c; };
      const auto count = [&](int64_t block) { return std::min(samples, g.batch - block * samples) * pixels; };
      for (int64_t b = 0; b < blocks; ++b) sum += of_block(b)[0] * count(b);
      const double center = sum / (g.batch * pixels);
      for (int64_t b = 0; b < blocks; ++b) {
        const double d = of_block(b)[0] - center;
        squares += of_block(b)[g.outputs] + d * d * count(b);
      }
      data<C>(mean)[c] = static_cast<C>(center);
      data<C>(variance)[c] = static_cast<C>(squares / (g.batch * pixels));
    }
    const Constants<C> k(g, data<C>(mean), data<C>(variance), const_data<C>(norm_weight), const_data<C>(norm_bias), eps);
    const Normalise<C> args{g.outputs * pixels, k.mean.data(), k.scale.data(), k.shift.data(), relu, data<C>(u),
                            residual.has_value() ? const_data<C>(*residual) : nullptr, data<C>(y)};
    over_blocks(g.batch, samples, [&](int64_t, int64_t begin, int64_t end) { kernels<C>().normalise(args, begin, end); });
  });
  return {y, mean, variance, u};
}

std::tuple<Tensor, Tensor, Tensor, Tensor> conv_norm_backward(const Tensor& grad_y, const Tensor& x,
                                                              const Tensor& weight, const Tensor& norm_weight,
                                                              const Tensor& norm_bias, const Tensor& mean,
                                                              const Tensor& variance, const Tensor& u, int64_t stride,
                                                              int64_t padding, double eps, bool relu, bool with_x) {
  const Geometry g = geometry(x, weight, stride, padding, true);
  const ScalarType type = x.scalar_type();
  check_dense(norm_weight, {g.outputs}, type, "norm_weight");
  check_dense(norm_bias, {g.outputs}, type, "norm_bias");
  check_dense(mean, {g.outputs}, type, "mean");
  check_dense(variance, {g.outputs}, type, "variance");
  check_dense(grad_y, {g.batch, g.outputs, g.out_height, g.out_width}, type, "grad_y");
  check_dense(u, {g.batch, g.outputs, g.out_height, g.out_width}, type, "u");
  Tensor grad_x = with_x ? large_images(g, type) : allocate({0}, type);
  Tensor grad_weight = allocate({g.outputs, g.inputs, g.kernel, g.kernel}, type);
  Tensor grad_norm_weight = allocate({g.outputs}, type), grad_norm_bias = allocate({g.outputs}, type);
  with_arithmetic(x, [&](auto* of) {
    using C = std::remove_pointer_t<decltype(of)>;
    const Kernels<C>& kernel = kernels<C>();
    const int64_t samples = kernel.samples, pixels = g.out_height * g.out_width, size = g.outputs * pixels;
    const Constants<C> k(g, const_data<C>(mean), const_data<C>(variance), const_data<C>(norm_weight),
                         const_data<C>(norm_bias), eps);
    NormaliseBackward<C> args{size, k.mean.data(), k.scale.data(), k.shift.data(),
                              relu, const_data<C>(u), const_data<C>(grad_y), nullptr, nullptr};
    const int64_t parts = std::min(kParts, (g.batch + samples - 1) / samples);
    std::vector<C> sums(static_cast<size_t>(parts * 2 * size), C(0));
    torch::stable::parallel_for(0, parts, 1, [&](int64_t first, int64_t last) {
      for (int64_t i = first; i < last; ++i) {
        kernel.normalise_sums(args, i * g.batch / parts, (i + 1) * g.batch / parts, sums.data() + i * 2 * size);
      }
    });
    std::vector<double> constant, slope;
    for (int64_t c = 0; c < g.outputs; ++c) {
      double total[2] = {0, 0};
      for (int64_t i = 0; i < 2 * parts; ++i) {
        const C* const part = sums.data() + i * size + c * pixels;
        for (int64_t j = 0; j < pixels; ++j) total[i % 2] += part[j];
      }
      const double inverse = 1 / (const_data<C>(variance)[c] + eps), count = static_cast<double>(g.batch * pixels);
      data<C>(grad_norm_bias)[c] = static_cast<C>(total[0]);
      data<C>(grad_norm_weight)[c] = static_cast<C>(total[1] * std::sqrt(inverse));
      constant.push_back(total[0] / count);
      slope.push_back(total[1] * inverse / count);
    }
    const auto constants = Constants<C>::spread(g, [&](int64_t c) { return constant[static_cast<size_t>(c)]; });
    const auto slopes = Constants<C>::spread(g, [&](int64_t c) { return slope[static_cast<size_t>(c)]; });
    args.constant = constants.data();
    args.slope = slopes.data();
    const Plan<C> plan = Plan<C>::up(g, const_data<C>(weight), nullptr);
    const Layout in = large_side(g);
    const std::vector<int32_t> rows = window(g, in.planes());
    const ConvolveBackward<C> convolution{plan.correlation(), in.planes(), const_data<C>(x),
                                          with_x ? data<C>(grad_x) : nullptr, false, stride, g.depth(), rows.data()};
    const auto found = run_backward<C>(convolution, g, size, [&](int64_t begin, int64_t end, C* room) {
      kernel.normalise_backward(args, begin, end, room);
      return room;
    });
    fill<C>(grad_weight, found.data());
  });
  return {grad_x, grad_weight, grad_norm_weight, grad_norm_bias};
}

Tensor conv_transpose(const Tensor& x, const Tensor& weight, const Tensor& bias, int64_t stride, int64_t padding) {
  const Geometry g = geometry(x, weight, stride, padding, false);
  check_dense(bias, {g.inputs}, x.scalar_type(), "bias");
  Tensor y = large_images(g, x.scalar_type());
  with_arithmetic(x, [&](auto* of) {
    using C = std::remove_pointer_t<decltype(of)>;
    const Plan<C> plan = Plan<C>::up(g, const_data<C>(weight), const_data<C>(bias));
    run<C>({plan.correlation(), const_data<C>(x), data<C>(y), nullptr}, g.batch);
  });
  return y;
}

std::tuple<Tensor, Tensor, Tensor> conv_transpose_backward(const Tensor& grad_y, const Tensor& x, const Tensor& weight,
                                                           int64_t stride, int64_t padding, bool with_x) {
  const Geometry g = geometry(x, weight, stride, padding, false);
  const ScalarType type = x.scalar_type();
  check_dense(grad_y, {g.batch, g.inputs, g.height, g.width}, type, "grad_y");
  Tensor grad_x = with_x ? small_images(g, type) : allocate({0}, type);
  Tensor grad_weight = allocate({g.outputs, g.inputs, g.kernel, g.kernel}, type), grad_bias = allocate({g.inputs}, type);
  with_arithmetic(x, [&](auto* of) {
    using C = std::remove_pointer_t<decltype(of)>;
    const Plan<C> plan = Plan<C>::down(g, const_data<C>(weight), nullptr);
    const Layout in(g.outputs, g.out_height, g.out_width, 0, g.out_height, g.out_width);
    const std::vector<int32_t> rows = window(g, plan.correlation().source);
    const C* const gradient = const_data<C>(grad_y);
    const int64_t size = g.inputs * g.height * g.width;
    const ConvolveBackward<C> convolution{plan.correlation(), in.planes(), const_data<C>(x),
                                          with_x ? data<C>(grad_x) : nullptr, true, stride, g.depth(), rows.data()};
    const auto found =
        run_backward<C>(convolution, g, 0, [&](int64_t begin, int64_t, C*) { return gradient + begin * size; });
    fill<C>(grad_weight, found.data());
    fill<C>(grad_bias, found.data() + g.outputs * g.depth());
  });
  return {grad_x, grad_weight, grad_bias};
}

}  // namespace manifold_core::cpu
