// Convolutions of images with few channels. The lanes of vectors are samples, so that no width of an image and no number
// of channels leaves one idle: a tile has a pixel of a channel in each row and samples in its columns. Around the pixels
// stands a border of zeros, so that no output needs a special case.
#pragma once

#include "kernels.h"
#include "vectors.h"

namespace manifold_core::MC_ISA {

using cpu::Convolve;
using cpu::ConvolveBackward;
using cpu::Correlation;
using cpu::Normalise;
using cpu::NormaliseBackward;
using cpu::Planes;
using cpu::Taps;

constexpr int kSpan = 2;  // vectors of samples in a tile
template <class C>
constexpr int64_t kSamples = kSpan * kWidth<C>;
// Vectors of sums in registers: 24 of AVX-512's 32, 12 of the 16 elsewhere.
constexpr int kSumsAtOnce = MC_VECTOR_BYTES == 64 ? 24 : 12;

// The images of up to kSamples samples, one after the other at `from`, to a tile. Columns without a sample are zeros.
template <class C>
inline void pack(const Planes& planes, const C* from, int64_t samples, C* tile) {
  constexpr int W = kWidth<C>;
  const int64_t size = planes.size();
  for (int64_t i = 0; i < planes.border_size; ++i) {
    for (int v = 0; v < kSpan; ++v) store(tile + planes.border[i] * kSamples<C> + v * W, Vector<C>{});
  }
  for (int64_t first = 0; first < kSamples<C>; first += W) {
    const int64_t here = samples - first < W ? samples - first : W;
    for (int64_t i = 0; i < size; i += W) {
      const int64_t count = size - i < W ? size - i : W;
      Vector<C> v[W];
      for (int64_t n = 0; n < W; ++n) {
        const C* const at = from + (first + n) * size + i;
        v[n] = n >= here ? Vector<C>{} : count == W ? load(at) : load_head(at, count);
      }
      transpose<C>(v);
      for (int64_t r = 0; r < count; ++r) store(tile + planes.rows[i + r] * kSamples<C> + first, v[r]);
    }
  }
}

// The opposite, from a tile without a border.
template <class C>
inline void unpack(const C* tile, int64_t size, int64_t samples, C* to) {
  constexpr int W = kWidth<C>;
  for (int64_t first = 0; first < samples; first += W) {
    const int64_t here = samples - first < W ? samples - first : W;
    for (int64_t i = 0; i < size; i += W) {
      const int64_t count = size - i < W ? size - i : W;
      Vector<C> v[W];
      for (int64_t r = 0; r < W; ++r) v[r] = r < count ? load(tile + (i + r) * kSamples<C> + first) : Vector<C>{};
      transpose<C>(v);
      for (int64_t n = 0; n < here; ++n) {
        C* const at = to + (first + n) * size + i;
        if (count == W) {
          store(at, v[n]);
        } else {
          store_head(at, count, v[n]);
        }
      }
    }
  }
}

// out[r][p] = bias[r] + sum_k weights[k][r] * in[rows[k] + p step], of R channels and P pixels.
template <class C, int R, int P>
MC_INLINE void correlate_block(const Taps<C>& taps, const C* bias, int64_t channels, int64_t first, const C* in,
                               int64_t step, C* out, int64_t plane, int64_t out_step) {
  constexpr int W = kWidth<C>;
  Vector<C> sum[R][P][kSpan];
#pragma GCC unroll 8
  for (int r = 0; r < R; ++r) {
#pragma GCC unroll 8
    for (int p = 0; p < P; ++p) {
#pragma GCC unroll 8
      for (int v = 0; v < kSpan; ++v) sum[r][p][v] = all(bias ? bias[first + r] : C(0));
    }
  }
  const C* weights = taps.weights + first;
  for (int64_t k = 0; k < taps.depth; ++k, weights += channels) {
    const C* const x = in + taps.rows[k] * kSamples<C>;
    Vector<C> w[R];
#pragma GCC unroll 8
    for (int r = 0; r < R; ++r) w[r] = all(weights[r]);
#pragma GCC unroll 8
    for (int p = 0; p < P; ++p) {
#pragma GCC unroll 8
      for (int v = 0; v < kSpan; ++v) {
        const Vector<C> pixel = load(x + p * step + v * W);
#pragma GCC unroll 8
        for (int r = 0; r < R; ++r) sum[r][p][v] += w[r] * pixel;
      }
    }
  }
#pragma GCC unroll 8
  for (int r = 0; r < R; ++r) {
#pragma GCC unroll 8
    for (int p = 0; p < P; ++p) {
#pragma GCC unroll 8
      for (int v = 0; v < kSpan; ++v) store(out + r * plane + p * out_step + v * W, sum[r][p][v]);
    }
  }
}

// Those output pixels of row y whose column leaves this remainder.
template <class C>
inline void correlate_row(const Correlation<C>& c, const C* tile, int64_t y, int64_t remainder, C* out) {
  const int64_t row_class = (y + c.phase) % c.classes, row = (y + c.phase) / c.classes * c.step;
  const int64_t begin = (remainder - c.phase % c.classes + c.classes) % c.classes;
  const int64_t count = (c.width - begin + c.classes - 1) / c.classes;  // begin < classes: none below 0
  const int64_t column = (begin + c.phase) / c.classes * c.step;
  const Taps<C>& taps = c.taps[row_class * c.classes + remainder];
  const C* const in = tile + (row * c.source.tile_width + column) * kSamples<C>;
  const int64_t step = c.step * kSamples<C>, out_step = c.classes * kSamples<C>;
  const int64_t plane = c.height * c.width * kSamples<C>;
  for_each_block(c.channels, [&](auto size, int64_t first) {
    constexpr int R = size();
    constexpr int P = R * 4 * kSpan <= kSumsAtOnce ? 4 : R * 2 * kSpan <= kSumsAtOnce ? 2 : 1;
    C* const to = out + first * plane + (y * c.width + begin) * kSamples<C>;
    int64_t x = 0;
    for (; x + P <= count; x += P) {
      correlate_block<C, R, P>(taps, c.bias, c.channels, first, in + x * step, step, to + x * out_step, plane, out_step);
    }
    for (; x < count; ++x) {
      correlate_block<C, R, 1>(taps, c.bias, c.channels, first, in + x * step, step, to + x * out_step, plane, out_step);
    }
  });
}

template <class C>
inline void correlate(const Correlation<C>& c, const C* tile, C* out) {
  for (int64_t y = 0; y < c.height; ++y) {
    for (int64_t remainder = 0; remainder < c.classes; ++remainder) correlate_row(c, tile, y, remainder, out);
  }
}

// For one channel, in columns with a sample: the sum of its elements less the center, and of their squares. In
// double after every few hundred pixels: rounding does not grow with the size of the image.
template <class C>
inline void centered_sums(const C* tile, int64_t pixels, C center, const C* counted, double* sum, double* squares) {
  constexpr int W = kWidth<C>;
  constexpr int64_t kAtOnce = 256;
  *sum = *squares = 0;
  for (int64_t begin = 0; begin < pixels; begin += kAtOnce) {
    const int64_t end = pixels - begin < kAtOnce ? pixels : begin + kAtOnce;
    Vector<C> part[kSpan] = {}, square[kSpan] = {};
    for (int64_t i = begin; i < end; ++i) {
      for (int v = 0; v < kSpan; ++v) {
        const Vector<C> d = (load(tile + i * kSamples<C> + v * W) - all(center)) * load(counted + v * W);
        part[v] += d;
        square[v] += d * d;
      }
    }
    for (int v = 0; v < kSpan; ++v) {
      for (int l = 0; l < W; ++l) {
        *sum += part[v][l];
        *squares += square[v][l];
      }
    }
  }
}

// The mean of each channel over these samples, and the sum of the squared deviations from it.
template <class C>
inline void moments(const C* tile, int64_t channels, int64_t pixels, int64_t samples, double* mean, double* squares) {
  alignas(64) C counted[kSamples<C>];  // 1 where the column has a sample
  for (int64_t n = 0; n < kSamples<C>; ++n) counted[n] = n < samples ? C(1) : C(0);
  const double count = static_cast<double>(pixels * samples);
  for (int64_t c = 0; c < channels; ++c, tile += pixels * kSamples<C>) {
    double sum;
    centered_sums(tile, pixels, C(0), counted, &sum, squares + c);
    const C center = static_cast<C>(sum / count);  // nearly the mean
    centered_sums(tile, pixels, center, counted, &sum, squares + c);
    mean[c] = center + sum / count;
    squares[c] -= sum * sum / count;
  }
}

// One block of samples, at most kSamples of them.
template <class C>
void convolve(const Convolve<C>& a, int64_t block, int64_t begin, int64_t end, C* scratch) {
  const Correlation<C>& c = a.correlation;
  C* const tile = scratch;
  C* const out = tile + c.source.tile_rows() * kSamples<C>;
  pack(c.source, a.in + begin * c.source.size(), end - begin, tile);
  correlate(c, tile, out);
  if (a.moments) {
    double* const mean = a.moments + block * 2 * c.channels;
    moments(out, c.channels, c.height * c.width, end - begin, mean, mean + c.channels);
  }
  unpack(out, c.size(), end - begin, a.out + begin * c.size());
}

// sums[o][k] += the products of row o of the small tile with row k of the large one, on `count` pixels of a row of the
// image, of O times I of them.
template <class C, int O, int I>
MC_INLINE void add_products(const C* small, int64_t small_plane, const C* large, const int32_t* rows, int64_t step,
                            int64_t count, C* sums, int64_t depth) {
  constexpr int W = kWidth<C>;
  Vector<C> sum[O][I];
  const C* x[I];
#pragma GCC unroll 8
  for (int i = 0; i < I; ++i) x[i] = large + rows[i] * kSamples<C>;
#pragma GCC unroll 8
  for (int o = 0; o < O; ++o) {
#pragma GCC unroll 8
    for (int i = 0; i < I; ++i) sum[o][i] = load(sums + (o * depth + i) * W);
  }
  for (int64_t pixel = 0; pixel < count; ++pixel) {
#pragma GCC unroll 8
    for (int v = 0; v < kSpan; ++v) {
      Vector<C> b[I];
#pragma GCC unroll 8
      for (int i = 0; i < I; ++i) b[i] = load(x[i] + pixel * step + v * W);
#pragma GCC unroll 8
      for (int o = 0; o < O; ++o) {
        const Vector<C> g = load(small + o * small_plane + pixel * kSamples<C> + v * W);
#pragma GCC unroll 8
        for (int i = 0; i < I; ++i) sum[o][i] += g * b[i];
      }
    }
  }
#pragma GCC unroll 8
  for (int o = 0; o < O; ++o) {
#pragma GCC unroll 8
    for (int i = 0; i < I; ++i) store(sums + (o * depth + i) * W, sum[o][i]);
  }
}

// The gradient of the weights from one block: sums[o][k], begun as what they are.
template <class C>
inline void weight_gradient(const ConvolveBackward<C>& a, const Planes& small, const C* small_tile, const Planes& large,
                            const C* large_tile, C* sums, double* to) {
  constexpr int W = kWidth<C>;
  constexpr int I = kSumsAtOnce / kBlock;
  const int64_t depth = a.depth;
  for (int64_t i = 0; i < small.channels * depth; ++i) store(sums + i * W, Vector<C>{});
  const int64_t plane = small.tile_height * small.tile_width * kSamples<C>, step = a.stride * kSamples<C>;
  // So many of the sums at a time as stay in the L1 cache from one row of the image to the next.
  constexpr int64_t kNear = 32 * 1024 / (W * sizeof(C));
  const int64_t chunk = kNear / small.channels < I ? I : kNear / small.channels / I * I;
  for (int64_t begin = 0; begin < depth; begin += chunk) {
    const int64_t end = depth - begin < chunk ? depth : begin + chunk;
    for (int64_t y = 0; y < small.height; ++y) {
      const C* const from = small_tile + ((y + small.top) * small.tile_width + small.left) * kSamples<C>;
      const C* const under = large_tile + y * a.stride * large.tile_width * kSamples<C>;
      for_each_block(small.channels, [&](auto size, int64_t first) {
        constexpr int O = size();
        const C* const g = from + first * plane;
        C* const at = sums + first * depth * W;
        int64_t k = begin;
        for (; k + I <= end; k += I) {
          add_products<C, O, I>(g, plane, under, a.rows + k, step, small.width, at + k * W, depth);
        }
        for (; k < end; ++k) add_products<C, O, 1>(g, plane, under, a.rows + k, step, small.width, at + k * W, depth);
      });
    }
  }
  for (int64_t i = 0; i < small.channels * depth; ++i) {
    const Vector<C> v = load(sums + i * W);
    C sum = 0;
    for (int l = 0; l < W; ++l) sum += v[l];
    to[i] += sum;
  }
}

// to[c] += the sum of channel c.
template <class C>
inline void bias_gradient(const Planes& planes, const C* tile, double* to) {
  const int64_t size = planes.tile_height * planes.tile_width * kSamples<C>;
  for (int64_t c = 0; c < planes.channels; ++c, tile += size) {
    Vector<C> sum[kSpan] = {};
    for (int64_t i = 0; i < size; i += kSamples<C>) {
      for (int v = 0; v < kSpan; ++v) sum[v] += load(tile + i + v * kWidth<C>);
    }
    for (int v = 0; v < kSpan; ++v) {
      for (int l = 0; l < kWidth<C>; ++l) to[c] += sum[v][l];
    }
  }
}

// One block of samples: the gradients of the weights, and if they are wanted of the bias and the input. The gradient
// of the output of these samples stands at `gradient`. To sums: [weights, then biases].
template <class C>
void convolve_backward(const ConvolveBackward<C>& a, const C* gradient, int64_t begin, int64_t end, double* sums,
                       C* scratch) {
  const Correlation<C>& c = a.correlation;
  const int64_t samples = end - begin;
  C* const gradient_tile = scratch;
  C* const in_tile = gradient_tile + c.source.tile_rows() * kSamples<C>;
  C* const out = in_tile + a.in.tile_rows() * kSamples<C>;  // used for the sums first
  pack(c.source, gradient, samples, gradient_tile);
  pack(a.in, a.in_data + begin * a.in.size(), samples, in_tile);
  if (a.transposed) {
    weight_gradient(a, a.in, in_tile, c.source, gradient_tile, out, sums);
    bias_gradient(c.source, gradient_tile, sums + a.in.channels * a.depth);
  } else {
    weight_gradient(a, c.source, gradient_tile, a.in, in_tile, out, sums);
  }
  if (a.grad_in) {
    correlate(c, gradient_tile, out);
    unpack(out, c.size(), samples, a.grad_in + begin * c.size());
  }
}

// f(i) for all elements of a sample, plus the residual if there is one.
template <class C, class F>
MC_INLINE void for_each_output(const Normalise<C>& a, int64_t n, const F& f) {
  C* const y = a.y + n * a.size;
  if (a.residual) {
    const C* const residual = a.residual + n * a.size;
#pragma GCC ivdep
    for (int64_t i = 0; i < a.size; ++i) y[i] = f(i) + residual[i];
  } else {
#pragma GCC ivdep
    for (int64_t i = 0; i < a.size; ++i) y[i] = f(i);
  }
}

// y = scale (u - mean) + shift, through a ReLU if that is asked for, plus the residual.
template <class C>
void normalise(const Normalise<C>& a, int64_t begin, int64_t end) {
  for (int64_t n = begin; n < end; ++n) {
    const C* const u = a.u + n * a.size;
    const auto linear = [&](int64_t i) { return a.scale[i] * (u[i] - a.mean[i]) + a.shift[i]; };
    if (a.relu) {
      for_each_output(a, n, [&](int64_t i) {
        const C value = linear(i);
        return value < 0 ? C(0) : value;  // NaN stays
      });
    } else {
      for_each_output(a, n, linear);
    }
  }
}

// Calls f(i, g, u - mean) for all elements of a sample, where g is the gradient of y that the ReLU lets pass.
template <class C, class F>
MC_INLINE void for_each_gradient(const NormaliseBackward<C>& a, const C* grad_y, const C* u, const F& f) {
  if (a.relu) {
#pragma GCC ivdep
    for (int64_t i = 0; i < a.size; ++i) {
      const C d = u[i] - a.mean[i], g = grad_y[i];
      f(i, a.scale[i] * d + a.shift[i] <= 0 ? C(0) : g, d);  // NaN lets it pass, as everywhere
    }
  } else {
#pragma GCC ivdep
    for (int64_t i = 0; i < a.size; ++i) f(i, grad_y[i], u[i] - a.mean[i]);
  }
}

// Adds to sums [2, size], over the samples: the gradient g, and g (u - mean).
template <class C>
void normalise_sums(const NormaliseBackward<C>& a, int64_t begin, int64_t end, C* sums) {
  C* const with_u = sums + a.size;
  for (int64_t n = begin; n < end; ++n) {
    for_each_gradient(a, a.grad_y + n * a.size, a.u + n * a.size, [&](int64_t i, C g, C d) {
      sums[i] += g;
      with_u[i] += g * d;
    });
  }
}

// grad_u = scale (g - constant - slope (u - mean)), at `to`.
template <class C>
void normalise_backward(const NormaliseBackward<C>& a, int64_t begin, int64_t end, C* to) {
  for (int64_t n = begin; n < end; ++n, to += a.size) {
    for_each_gradient(a, a.grad_y + n * a.size, a.u + n * a.size, [&](int64_t i, C g, C d) {
      to[i] = a.scale[i] * (g - a.constant[i] - a.slope[i] * d);
    });
  }
}

}  // namespace manifold_core::MC_ISA
