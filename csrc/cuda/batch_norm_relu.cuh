// y = max(0, (u - E[u]) / sqrt(Var[u] + eps) norm_weight + norm_bias) + residual over images, and its gradients. First
// comes a kernel for the sums over the batch, then one that works on each number by itself, in the order of memory.
#pragma once

#include "memory.cuh"
#include "sums.cuh"

#include <cmath>

namespace manifold_core::cuda {

// How often four numbers, for the sums over the batch, are on the way to a thread at a time. Three blocks then have
// room on a multiprocessor, and ask for more at once than comes while they wait.
constexpr int kOnTheWay = 4;

// What the numbers of a channel have in common, a row of what the forward pass leaves for the backward pass.
template <class C>
struct alignas(4 * sizeof(C)) Channel {
  C mean, scale, bias, inverse_std;

  __device__ __forceinline__ C normalised(C u) const { return (u - mean) * scale + bias; }
  // What comes through the ReLU. A number that is none lets it pass, as PyTorch's does.
  __device__ __forceinline__ C passed(C grad_y, C u, bool relu) const {
    return relu && normalised(u) <= 0 ? C(0) : grad_y;
  }
};

template <class C>
struct alignas(2 * sizeof(C)) ChannelGradient {
  C mean, slope;  // E[g], and E[g (u - E[u])] / (Var[u] + eps), of the gradients g that come through the ReLU
};

// Of 32 bits where they are enough: that takes fewer instructions.
__device__ __forceinline__ int64_t quotient(int64_t a, int64_t b) {
  if ((a | b) >> 32) return a / b;
  return static_cast<uint32_t>(a) / static_cast<uint32_t>(b);
}

struct Place {
  int64_t sample, channel, pixel;
};

// Four elements that follow each other in memory.
struct Places {
  __device__ __forceinline__ Places(const ImagesShape& s, int64_t first)
      : first(first), count(s.samples * s.channels * s.pixels - first) {
    const int64_t width = s.channels_last ? s.channels : s.pixels, height = s.channels_last ? s.pixels : s.channels;
    int64_t line = quotient(first, width), sample = quotient(line, height), in_line = first - line * width;
    line -= sample * height;
#pragma unroll
    for (int k = 0; k < 4; ++k) {
      at[k] = s.channels_last ? Place{sample, in_line, line} : Place{sample, line, in_line};
      if (++in_line < width) continue;
      in_line = 0;
      if (++line < height) continue;
      line = 0;
      ++sample;
    }
  }

  int64_t first, count;  // those behind the last image are not there, but have a channel
  Place at[4];
};

template <class T>
__device__ __forceinline__ T* element(const Images& m, const Place& p) {
  return static_cast<T*>(m.data) + p.sample * m.sample_stride + p.channel * m.channel_stride + p.pixel * m.pixel_stride;
}

template <class C, class S>
__device__ __forceinline__ C load_one(const Images& m, const Place& p) {
  if constexpr (std::is_same_v<S, Any>) {
    C out = 0;
    with_type(m.dtype, [&](auto* type) { out = widen<C>(*element<std::remove_pointer_t<decltype(type)>>(m, p)); });
    return out;
  } else {
    return widen<C>(*element<S>(m, p));
  }
}

template <class C, class S>
__device__ __forceinline__ Numbers<C> load_four(const Images& m, int64_t first) {
  const Four<S> four = *reinterpret_cast<const Four<S>*>(static_cast<const S*>(m.data) + first);
  Numbers<C> out;
#pragma unroll
  for (int k = 0; k < 4; ++k) out[k] = widen<C>(four.at[k]);
  return out;
}

template <class C, class S>
__device__ __forceinline__ Numbers<C> load(const Images& m, const Places& p) {
  if constexpr (std::is_same_v<S, Any>) {
    Numbers<C> out;
#pragma unroll
    for (int k = 0; k < 4; ++k) out[k] = k < p.count ? load_one<C, S>(m, p.at[k]) : C(0);
    return out;
  } else {
    return load_four<C, S>(m, p.first);
  }
}

template <class C, class S>
__device__ __forceinline__ void store(const Images& m, const Places& p, const Numbers<C>& v) {
  if constexpr (std::is_same_v<S, Any>) {
    with_type(m.dtype, [&](auto* type) {
      using T = std::remove_pointer_t<decltype(type)>;
#pragma unroll
      for (int k = 0; k < 4; ++k) {
        if (k < p.count) *element<T>(m, p.at[k]) = Narrow<T>::from(v[k]);
      }
    });
  } else {
    Four<S> four;
#pragma unroll
    for (int k = 0; k < 4; ++k) four.at[k] = Narrow<S>::from(v[k]);
    *reinterpret_cast<Four<S>*>(static_cast<S*>(m.data) + p.first) = four;
  }
}

// Four channels at a position, which counts the pixels of all images; 0 for those behind the last channel. by_four:
// they are one access.
template <class C, class S, bool by_four>
__device__ __forceinline__ Numbers<C> load_channels(const ImagesShape& s, const Images& m, int64_t position,
                                                    int64_t channel) {
  if constexpr (by_four) {
    return load_four<C, S>(m, position * s.channels + channel);
  } else {
    const int64_t sample = quotient(position, s.pixels), pixel = position - sample * s.pixels;
    Numbers<C> out = {};
#pragma unroll
    for (int k = 0; k < 4; ++k) {
      if (channel + k < s.channels) out[k] = load_one<C, S>(m, {sample, channel + k, pixel});
    }
    return out;
  }
}

// Leaves the block's part of two sums for each channel in memory. `prepare(channel)` is what they take of a channel as
// a whole, `add(of channel, numbers, k, sums)` adds what they take of number k of each tensor. Those sums are of C and
// of a few numbers only, then it goes on in double: to convert a number takes longer than to add it.
template <class C, class S, bool by_four, class Prepare, class Add, class... Tensors>
__device__ __forceinline__ void add_up_channels(const ImagesShape& s, const BatchSum& sum, const Prepare& prepare,
                                                const Add& add, const Tensors&... tensors) {
  constexpr int count = sizeof...(Tensors), many = std::is_same_v<S, Any> ? 1 : kOnTheWay / count;
  struct Read {
    Numbers<C> of[count];
  };
  const int threads = kThreads / s.groups;  // of a group of channels
  const int group = s.channels_last ? threadIdx.x % s.groups : threadIdx.x / threads;
  const int thread = s.channels_last ? threadIdx.x / s.groups : threadIdx.x % threads;
  const int64_t positions = s.samples * s.pixels, step = int64_t{gridDim.x} * threads;
  for (int64_t first = 0; first < s.channels; first += 4 * s.groups) {
    const int64_t channel = first + 4 * group, end = channel < s.channels ? positions : 0;
    decltype(prepare(0)) of_channel[4] = {};
#pragma unroll
    for (int k = 0; k < 4; ++k) {
      if (channel + k < s.channels) of_channel[k] = prepare(channel + k);
    }
    double sums[8] = {};
    for (int64_t at = int64_t{blockIdx.x} * threads + thread; at < end; at += many * step) {
      Read read[many] = {};
      C few[8] = {};
#pragma unroll
      for (int i = 0; i < many; ++i) {
        if (at + i * step < end) read[i] = {{load_channels<C, S, by_four>(s, tensors, at + i * step, channel)...}};
      }
#pragma unroll
      for (int i = 0; i < many; ++i) {
        if (at + i * step >= end) continue;
#pragma unroll
        for (int k = 0; k < 4; ++k) add(of_channel[k], read[i].of, k, few + 2 * k);
      }
#pragma unroll
      for (int k = 0; k < 8; ++k) sums[k] += few[k];
    }
    leave_parts(sum, 2 * first, sums, s.groups, group, thread);
  }
}

template <class C, class S, class Prepare, class Add, class... Tensors>
__device__ __forceinline__ void leave_channel_sums(const ImagesShape& s, const BatchSum& sum, const Prepare& prepare,
                                                   const Add& add, const Tensors&... tensors) {
  if constexpr (!std::is_same_v<S, Any>) {
    if (s.channels_last && s.channels % 4 == 0) {
      add_up_channels<C, S, true>(s, sum, prepare, add, tensors...);
      return;
    }
  }
  add_up_channels<C, S, false>(s, sum, prepare, add, tensors...);
}

template <class C, class S>
__global__ void __launch_bounds__(kThreads, sizeof(C) == 4 ? 3 : 1) batch_norm_relu_sums(const BatchNormRelu a) {
  // Of what differs from the first number, and of its square: nothing cancels, wherever the mean is.
  const auto first = [&](int64_t channel) { return load_one<C, S>(a.u, {0, channel, 0}); };
  const auto add = [](C shift, const Numbers<C>(&read)[1], int k, C* sums) {
    const C difference = read[0][k] - shift;
    sums[0] += difference;
    sums[1] += difference * difference;
  };
  leave_channel_sums<C, S>(a.shape, a.sum, first, add, a.u);
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
  const Places places(a.shape, 4 * (int64_t{blockIdx.x} * kThreads + threadIdx.x));
  if (places.count <= 0) return;
  const Numbers<C> u = load<C, S>(a.u, places);
  Numbers<C> y = {};
  if (a.residual.data != nullptr) y = load<C, S>(a.residual, places);
#pragma unroll
  for (int k = 0; k < 4; ++k) {
    const C v = static_cast<const Channel<C>*>(a.of_channels)[places.at[k].channel].normalised(u[k]);
    y[k] += a.relu && v < 0 ? C(0) : v;
  }
  store<C, S>(a.y, places, y);
}

template <class C, class S>
__global__ void __launch_bounds__(kThreads, sizeof(C) == 4 ? 3 : 1)
    batch_norm_relu_backward_sums(const BatchNormReluBackward a) {
  const auto channel = [&](int64_t c) { return static_cast<const Channel<C>*>(a.of_channels)[c]; };
  const auto add = [&](const Channel<C>& of, const Numbers<C>(&read)[2], int k, C* sums) {
    const C u = read[0][k], grad = of.passed(read[1][k], u, a.relu);
    sums[0] += grad;
    sums[1] += grad * (u - of.mean);
  };
  leave_channel_sums<C, S>(a.shape, a.sum, channel, add, a.u, a.grad_y);
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
  const Places places(a.shape, 4 * (int64_t{blockIdx.x} * kThreads + threadIdx.x));
  if (places.count <= 0) return;
  const Numbers<C> u = load<C, S>(a.u, places), grad_y = load<C, S>(a.grad_y, places);
  Numbers<C> grad_u = {};
#pragma unroll
  for (int k = 0; k < 4; ++k) {
    const int64_t c = places.at[k].channel;
    const Channel<C> of = static_cast<const Channel<C>*>(a.of_channels)[c];
    const ChannelGradient<C> gradient = static_cast<const ChannelGradient<C>*>(a.of_gradients)[c];
    const C grad = of.passed(grad_y[k], u[k], a.relu) - gradient.mean;
    grad_u[k] = of.scale * (grad - (u[k] - of.mean) * gradient.slope);
  }
  store<C, S>(a.grad_u, places, grad_u);
}

}  // namespace manifold_core::cuda
