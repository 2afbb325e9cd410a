// y = max(0, (u - E[u]) / sqrt(Var[u] + eps) norm_weight + norm_bias) + residual over images, and its gradients: a
// kernel for the sums over the batch, then one that is elementwise, in the order of memory.
#pragma once

#include "memory.cuh"
#include "sums.cuh"

#include <cmath>

namespace manifold_core::cuda {

// B images of C channels, and how the first tensor of a call has them in memory: pixel after pixel of a channel, or the
// channels of a pixel side by side. Kernels that have no other order to keep follow it.
struct ImagesShape {
  int64_t samples, channels, pixels;
  bool channels_last;
  int groups;  // of four channels that a block takes at a time, for sums over the batch
};

// Images of that shape, in the caller's memory, of any stride. data == nullptr: not given.
struct Images {
  void* data = nullptr;
  DType dtype = DType::f32;
  bool by_four = false;  // dense and in the order of the shape, every fourth element aligned: four are one access
  int64_t sample_stride = 0;
  int64_t channel_stride = 0;
  int64_t pixel_stride = 0;
};

struct BatchNormRelu {
  ImagesShape shape;
  double eps;
  bool relu;
  Images u, residual, y;          // residual may be absent
  Matrix norm_weight, norm_bias;  // [1, channels]
  Matrix mean, variance;          // [1, channels]
  BatchSum sum;                   // [channels, 2]
  double* totals;                 // the same, added up
  void* of_channels;              // Channel [channels], in the type of the arithmetic
};

struct BatchNormReluBackward {
  ImagesShape shape;
  bool relu;
  Images grad_y, u, grad_u;
  Matrix grad_norm_weight, grad_norm_bias;  // [1, channels]
  BatchSum sum;                             // [channels, 2]
  double* totals;
  const void* of_channels;
  void* of_gradients;  // ChannelGradient [channels]
};

// Groups of four channels among which a block divides its threads, to sum over the batch. If channels lie side by
// side, so do the threads of one group and the next; else those of the same group, a warp of them at least.
inline int groups_of_channels(int64_t channels, bool channels_last) {
  const int most = channels_last ? 32 : kThreads / 32;
  int groups = 1;
  while (groups < most && 4 * groups < channels) groups *= 2;
  return groups;
}

// Loads of four elements that a thread has in flight, for the sums over the batch. Three blocks then fit on a
// multiprocessor, and their loads together cover the latency of memory.
constexpr int kInFlight = 4;

// What is the same for all elements of a channel: a row of what the forward pass saves for the backward pass.
template <class C>
struct alignas(4 * sizeof(C)) Channel {
  C mean, scale, bias, inverse_std;

  __device__ __forceinline__ C normalised(C u) const { return (u - mean) * scale + bias; }
  // The gradient behind the ReLU. NaN lets it pass, as in PyTorch.
  __device__ __forceinline__ C before_relu(C grad_y, C u, bool relu) const {
    return relu && normalised(u) <= 0 ? C(0) : grad_y;
  }
};

template <class C>
struct alignas(2 * sizeof(C)) ChannelGradient {
  C mean, slope;  // E[g], and E[g (u - E[u])] / (Var[u] + eps), of the gradients g behind the ReLU
};

// In 32 bits if they are enough: that takes fewer instructions.
__device__ __forceinline__ int64_t quotient(int64_t a, int64_t b) {
  if ((a | b) >> 32) return a / b;
  return static_cast<uint32_t>(a) / static_cast<uint32_t>(b);
}

struct ElementIndex {
  int64_t sample, channel, pixel;
};

// Four elements that follow each other in memory, the work of a thread.
struct FourElements {
  __device__ __forceinline__ FourElements(const ImagesShape& s, int64_t first)
      : first(first), count(s.samples * s.channels * s.pixels - first) {
    const int64_t width = s.channels_last ? s.channels : s.pixels, height = s.channels_last ? s.pixels : s.channels;
    int64_t line = quotient(first, width), sample = quotient(line, height), in_line = first - line * width;
    line -= sample * height;
#pragma unroll
    for (int k = 0; k < 4; ++k) {
      index[k] = s.channels_last ? ElementIndex{sample, in_line, line} : ElementIndex{sample, line, in_line};
      if (++in_line < width) continue;
      in_line = 0;
      if (++line < height) continue;
      line = 0;
      ++sample;
    }
  }

  int64_t first, count;  // elements behind the last image do not exist, but have a channel
  ElementIndex index[4];
};

template <class T>
__device__ __forceinline__ T* element(const Images& m, const ElementIndex& i) {
  return static_cast<T*>(m.data) + i.sample * m.sample_stride + i.channel * m.channel_stride + i.pixel * m.pixel_stride;
}

template <class C, class S>
__device__ __forceinline__ C load_one(const Images& m, const ElementIndex& i) {
  if constexpr (std::is_same_v<S, Any>) {
    C out = 0;
    with_type(m.dtype, [&](auto* type) { out = widen<C>(*element<std::remove_pointer_t<decltype(type)>>(m, i)); });
    return out;
  } else {
    return widen<C>(*element<S>(m, i));
  }
}

template <class C, class S>
__device__ __forceinline__ Vec4<C> load_four(const Images& m, int64_t first) {
  const AlignedVec4<S> four = *reinterpret_cast<const AlignedVec4<S>*>(static_cast<const S*>(m.data) + first);
  Vec4<C> out;
#pragma unroll
  for (int k = 0; k < 4; ++k) out[k] = widen<C>(four.at[k]);
  return out;
}

template <class C, class S>
__device__ __forceinline__ Vec4<C> load(const Images& m, const FourElements& e) {
  if constexpr (std::is_same_v<S, Any>) {
    Vec4<C> out;
#pragma unroll
    for (int k = 0; k < 4; ++k) out[k] = k < e.count ? load_one<C, S>(m, e.index[k]) : C(0);
    return out;
  } else {
    return load_four<C, S>(m, e.first);
  }
}

template <class C, class S>
__device__ __forceinline__ void store(const Images& m, const FourElements& e, const Vec4<C>& v) {
  if constexpr (std::is_same_v<S, Any>) {
    with_type(m.dtype, [&](auto* type) {
      using T = std::remove_pointer_t<decltype(type)>;
#pragma unroll
      for (int k = 0; k < 4; ++k) {
        if (k < e.count) *element<T>(m, e.index[k]) = Narrow<T>::from(v[k]);
      }
    });
  } else {
    AlignedVec4<S> four;
#pragma unroll
    for (int k = 0; k < 4; ++k) four.at[k] = Narrow<S>::from(v[k]);
    *reinterpret_cast<AlignedVec4<S>*>(static_cast<S*>(m.data) + e.first) = four;
  }
}

// Four channels at a position, which counts the pixels of all images; 0 for those behind the last channel. by_four:
// they are one access.
template <class C, class S, bool by_four>
__device__ __forceinline__ Vec4<C> load_channels(const ImagesShape& s, const Images& m, int64_t position,
                                                 int64_t channel) {
  if constexpr (by_four) {
    return load_four<C, S>(m, position * s.channels + channel);
  } else {
    const int64_t sample = quotient(position, s.pixels), pixel = position - sample * s.pixels;
    Vec4<C> out = {};
#pragma unroll
    for (int k = 0; k < 4; ++k) {
      if (channel + k < s.channels) out[k] = load_one<C, S>(m, {sample, channel + k, pixel});
    }
    return out;
  }
}

// Writes this block's two partial sums per channel to global memory. `prepare(channel)` returns what they need of the
// channel, `add(prepared, elements, k, sums)` adds element k of each tensor. A few elements are added up in C, then
// those sums in double: converting an element takes longer than adding it.
template <class C, class S, bool by_four, class Prepare, class Add, class... Tensors>
__device__ __forceinline__ void sum_channels(const ImagesShape& s, const BatchSum& sum, const Prepare& prepare,
                                             const Add& add, const Tensors&... tensors) {
  constexpr int count = sizeof...(Tensors), many = std::is_same_v<S, Any> ? 1 : kInFlight / count;
  struct Read {
    Vec4<C> tensor[count];
  };
  const int threads = kThreads / s.groups;  // of a group of channels
  const int group = s.channels_last ? threadIdx.x % s.groups : threadIdx.x / threads;
  const int thread = s.channels_last ? threadIdx.x / s.groups : threadIdx.x % threads;
  const int64_t positions = s.samples * s.pixels, step = int64_t{gridDim.x} * threads;
  for (int64_t first = 0; first < s.channels; first += 4 * s.groups) {
    const int64_t channel = first + 4 * group, end = channel < s.channels ? positions : 0;
    decltype(prepare(0)) prepared[4] = {};
#pragma unroll
    for (int k = 0; k < 4; ++k) {
      if (channel + k < s.channels) prepared[k] = prepare(channel + k);
    }
    double sums[8] = {};
    for (int64_t position = int64_t{blockIdx.x} * threads + thread; position < end; position += many * step) {
      Read read[many] = {};
      C few[8] = {};
#pragma unroll
      for (int i = 0; i < many; ++i) {
        const int64_t own = position + i * step;
        if (own < end) read[i] = {{load_channels<C, S, by_four>(s, tensors, own, channel)...}};
      }
#pragma unroll
      for (int i = 0; i < many; ++i) {
        if (position + i * step >= end) continue;
#pragma unroll
        for (int k = 0; k < 4; ++k) add(prepared[k], read[i].tensor, k, few + 2 * k);
      }
#pragma unroll
      for (int k = 0; k < 8; ++k) sums[k] += few[k];
    }
    write_partials(sum, 2 * first, sums, s.groups, group, thread);
  }
}

template <class C, class S, class Prepare, class Add, class... Tensors>
__device__ __forceinline__ void sum_channels_over_block(const ImagesShape& s, const BatchSum& sum,
                                                        const Prepare& prepare, const Add& add,
                                                        const Tensors&... tensors) {
  if constexpr (!std::is_same_v<S, Any>) {
    if (s.channels_last && s.channels % 4 == 0) {
      sum_channels<C, S, true>(s, sum, prepare, add, tensors...);
      return;
    }
  }
  sum_channels<C, S, false>(s, sum, prepare, add, tensors...);
}

template <class C, class S>
__global__ void __launch_bounds__(kThreads, sizeof(C) == 4 ? 3 : 1) batch_norm_relu_sums(const BatchNormRelu a) {
  // Sums of the difference from the first element, and of its square: nothing cancels, wherever the mean is.
  const auto first = [&](int64_t channel) { return load_one<C, S>(a.u, {0, channel, 0}); };
  const auto add = [](C shift, const Vec4<C>(&read)[1], int k, C* sums) {
    const C difference = read[0][k] - shift;
    sums[0] += difference;
    sums[1] += difference * difference;
  };
  sum_channels_over_block<C, S>(a.shape, a.sum, first, add, a.u);
  if (!sum_over_blocks(a.sum, [&](int64_t i, double sum) { a.totals[i] = sum; })) return;
  __syncthreads();
  const double count = static_cast<double>(a.shape.samples * a.shape.pixels);
  for (int64_t c = threadIdx.x; c < a.shape.channels; c += kThreads) {
    const double offset = a.totals[2 * c] / count, spread = a.totals[2 * c + 1] / count - offset * offset;
    const double mean = double{first(c)} + offset, variance = spread < 0 ? 0 : spread;
    const double inverse_std = 1 / sqrt(variance + a.eps);
    store_one<double>(a.mean, 0, c, mean);
    store_one<double>(a.variance, 0, c, variance);
    const double scale = load_one<double>(a.norm_weight, 0, c) * inverse_std;
    static_cast<Channel<C>*>(a.of_channels)[c] = {static_cast<C>(mean), static_cast<C>(scale),
                                                  load_one<C>(a.norm_bias, 0, c), static_cast<C>(inverse_std)};
  }
}

template <class C, class S>
__global__ void __launch_bounds__(kThreads) batch_norm_relu(const BatchNormRelu a) {
  const FourElements elements(a.shape, 4 * (int64_t{blockIdx.x} * kThreads + threadIdx.x));
  if (elements.count <= 0) return;
  const Vec4<C> u = load<C, S>(a.u, elements);
  Vec4<C> y = {};
  if (a.residual.data != nullptr) y = load<C, S>(a.residual, elements);
#pragma unroll
  for (int k = 0; k < 4; ++k) {
    const C v = static_cast<const Channel<C>*>(a.of_channels)[elements.index[k].channel].normalised(u[k]);
    y[k] += a.relu && v < 0 ? C(0) : v;
  }
  store<C, S>(a.y, elements, y);
}

template <class C, class S>
__global__ void __launch_bounds__(kThreads, sizeof(C) == 4 ? 3 : 1)
    batch_norm_relu_backward_sums(const BatchNormReluBackward a) {
  const auto channel = [&](int64_t c) { return static_cast<const Channel<C>*>(a.of_channels)[c]; };
  const auto add = [&](const Channel<C>& of, const Vec4<C>(&read)[2], int k, C* sums) {
    const C u = read[0][k], grad = of.before_relu(read[1][k], u, a.relu);
    sums[0] += grad;
    sums[1] += grad * (u - of.mean);
  };
  sum_channels_over_block<C, S>(a.shape, a.sum, channel, add, a.u, a.grad_y);
  if (!sum_over_blocks(a.sum, [&](int64_t i, double sum) { a.totals[i] = sum; })) return;
  __syncthreads();
  const double count = static_cast<double>(a.shape.samples * a.shape.pixels);
  for (int64_t c = threadIdx.x; c < a.shape.channels; c += kThreads) {
    const double inverse_std = channel(c).inverse_std, scaled = a.totals[2 * c + 1] * inverse_std;
    store_one<double>(a.grad_norm_bias, 0, c, a.totals[2 * c]);
    store_one<double>(a.grad_norm_weight, 0, c, scaled);
    static_cast<ChannelGradient<C>*>(a.of_gradients)[c] = {static_cast<C>(a.totals[2 * c] / count),
                                                           static_cast<C>(scaled * inverse_std / count)};
  }
}

template <class C, class S>
__global__ void __launch_bounds__(kThreads) batch_norm_relu_backward(const BatchNormReluBackward a) {
  const FourElements elements(a.shape, 4 * (int64_t{blockIdx.x} * kThreads + threadIdx.x));
  if (elements.count <= 0) return;
  const Vec4<C> u = load<C, S>(a.u, elements), grad_y = load<C, S>(a.grad_y, elements);
  Vec4<C> grad_u = {};
#pragma unroll
  for (int k = 0; k < 4; ++k) {
    const int64_t c = elements.index[k].channel;
    const Channel<C> of = static_cast<const Channel<C>*>(a.of_channels)[c];
    const ChannelGradient<C> gradient = static_cast<const ChannelGradient<C>*>(a.of_gradients)[c];
    const C grad = of.before_relu(grad_y[k], u[k], a.relu) - gradient.mean;
    grad_u[k] = of.scale * (grad - (u[k] - of.mean) * gradient.slope);
  }
  store<C, S>(a.grad_u, elements, grad_u);
}

}  // namespace manifold_core::cuda
