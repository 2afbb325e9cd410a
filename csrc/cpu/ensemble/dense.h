// A dense layer on a tile: rows are features, columns are samples, which are the lanes of vectors. Weights are numbers
// that all lanes share, so no size of a layer leaves a lane idle.
#pragma once

#include "cpu/vectors.h"
#include "manifold_core/program.h"

namespace manifold_core::MC_ISA {

// A block of rows times a panel of columns is kept in registers: 24 of AVX-512's 32, 12 of the 16 elsewhere.
using Floats = Vector<float>;
constexpr int kFloats = kWidth<float>;  // lanes
constexpr int kPanel = MC_VECTOR_BYTES == 64 ? 4 : 2;  // vectors
constexpr int64_t kPanelColumns = kPanel * kFloats;

// One thread's tile of a model, and the sums of the gradient that it adds to. Columns are whole panels.
struct ModelTile {
  float* rows;
  int64_t pitch, columns;
  const float* parameters;
  float* gradient;

  MC_INLINE float* row(int64_t i) const { return rows + i * pitch; }
};

// Calls f(row, vector) for a block on a panel. Unrolled by force, here and below: only then do blocks stay in registers.
template <int R, class F>
MC_INLINE void for_each_vector(const F& f) {
#pragma GCC unroll 8
  for (int r = 0; r < R; ++r) {
#pragma GCC unroll 8
    for (int v = 0; v < kPanel; ++v) f(r, v);
  }
}

// sum[r] += sum_k a[r row_step + k depth_step] * (row k of b), on one panel.
template <int R>
MC_INLINE void multiply_add(Floats (&sum)[R][kPanel], const float* a, int64_t row_step, int64_t depth_step,
                            int64_t depth, const float* b, int64_t pitch) {
  for (int64_t k = 0; k < depth; ++k, a += depth_step, b += pitch) {
    Floats x[kPanel];
#pragma GCC unroll 8
    for (int v = 0; v < kPanel; ++v) x[v] = load(b + v * kFloats);
#pragma GCC unroll 8
    for (int r = 0; r < R; ++r) {
      const Floats w = all(a[r * row_step]);
#pragma GCC unroll 8
      for (int v = 0; v < kPanel; ++v) sum[r][v] += w * x[v];
    }
  }
}

inline void forward(const Dense& layer, const ModelTile& tile) {
  const float* const weight = tile.parameters + layer.weight;
  const float* const bias = tile.parameters + layer.bias;
  const Floats slope = all(layer.activation == kPrelu ? tile.parameters[layer.slope] : 0.0f);
  for (int64_t column = 0; column < tile.columns; column += kPanelColumns) {
    for_each_block(layer.outputs, [&](auto size, int64_t first) {
      constexpr int R = size();
      Floats sum[R][kPanel];
#pragma GCC unroll 8
      for (int r = 0; r < R; ++r) {
#pragma GCC unroll 8
        for (int v = 0; v < kPanel; ++v) sum[r][v] = all(bias[first + r]);
      }
      multiply_add<R>(sum, weight + first * layer.inputs, layer.inputs, 1, layer.inputs, tile.row(layer.in) + column,
                      tile.pitch);
      float* const out = tile.row(layer.out + first) + column;
      float* const before = layer.activation == kPrelu ? tile.row(layer.before + first) + column : nullptr;
      // One loop for each activation: a branch for each vector costs more than the activation does.
      if (layer.activation == kNone) {
        for_each_vector<R>([&](int r, int v) { store(out + r * tile.pitch + v * kFloats, sum[r][v]); });
      } else if (layer.activation == kRelu) {
        for_each_vector<R>([&](int r, int v) {
          const Floats y = sum[r][v];
          store(out + r * tile.pitch + v * kFloats, y < 0 ? Floats{} : y);  // NaN stays
        });
      } else {
        for_each_vector<R>([&](int r, int v) {
          const Floats y = sum[r][v];
          store(before + r * tile.pitch + v * kFloats, y);
          store(out + r * tile.pitch + v * kFloats, y > 0 ? y : slope * y);
        });
      }
    });
  }
}

// The gradient of the inputs takes their place, that of what their layer's activation was applied to.
inline void backward_inputs(const Dense& layer, const Dense* producer, const ModelTile& tile) {
  const float* const weight = tile.parameters + layer.weight + layer.wanted_from;
  const int64_t activation = producer ? producer->activation : int64_t{kNone};
  const Floats slope = all(activation == kPrelu ? tile.parameters[producer->slope] : 0.0f);
  Floats grad_slope = {};
  for (int64_t column = 0; column < tile.columns; column += kPanelColumns) {
    for_each_block(layer.inputs - layer.wanted_from, [&](auto size, int64_t first) {
      constexpr int R = size();
      Floats sum[R][kPanel] = {};
      multiply_add<R>(sum, weight + first, 1, layer.inputs, layer.outputs, tile.row(layer.out) + column, tile.pitch);
      float* const in = tile.row(layer.in + layer.wanted_from + first) + column;
      const float* const before = activation == kPrelu ? tile.row(producer->before + first) + column : nullptr;
      if (activation == kNone) {
        for_each_vector<R>([&](int r, int v) { store(in + r * tile.pitch + v * kFloats, sum[r][v]); });
      } else if (activation == kRelu) {
        for_each_vector<R>([&](int r, int v) {
          float* const at = in + r * tile.pitch + v * kFloats;
          store(at, load(at) > 0 ? sum[r][v] : Floats{});
        });
      } else {
        for_each_vector<R>([&](int r, int v) {
          const Floats g = sum[r][v], x = load(before + r * tile.pitch + v * kFloats);
          grad_slope += x > 0 ? Floats{} : g * x;
          store(in + r * tile.pitch + v * kFloats, x > 0 ? g : slope * g);
        });
      }
    });
  }
  if (activation == kPrelu) {
    float sum = 0;
    for (int l = 0; l < kFloats; ++l) sum += grad_slope[l];
    tile.gradient[producer->slope] += sum;
  }
}

// A block of outputs times inputs is kept in registers, one vector each: 16 of AVX-512's, 12 of AVX2's, so that none is
// waited for. Their lanes are added up at the end, as many vectors at a time as a vector has lanes.
constexpr int kSide = kFloats == 16 ? 4 : kFloats == 8 ? 3 : 2;  // outputs of a block
constexpr int kAcross = kFloats == 4 ? 2 : 4;                    // inputs
constexpr int kProducts = (kSide * kAcross + kFloats - 1) / kFloats * kFloats;

using Across = float __attribute__((vector_size(4 * kAcross)));

template <int O, int I>
MC_INLINE void add_products(const Dense& layer, const ModelTile& tile, int64_t output, int64_t input) {
  const float* const g = tile.row(layer.out + output);
  const float* const x = tile.row(layer.in + input);
  Floats sum[kProducts] = {};
  for (int64_t column = 0; column < tile.columns; column += kFloats) {
    Floats b[I];
#pragma GCC unroll 8
    for (int i = 0; i < I; ++i) b[i] = load(x + i * tile.pitch + column);
#pragma GCC unroll 8
    for (int o = 0; o < O; ++o) {
      const Floats a = load(g + o * tile.pitch + column);
#pragma GCC unroll 8
      for (int i = 0; i < I; ++i) sum[o * kAcross + i] += a * b[i];
    }
  }
  alignas(64) float sums[kProducts];
#pragma GCC unroll 8
  for (int from = 0; from < O * kAcross; from += kFloats) store(sums + from, sum_each<float>(sum + from));
#pragma GCC unroll 8
  for (int o = 0; o < O; ++o) {
    float* const gradient = tile.gradient + layer.weight + (output + o) * layer.inputs + input;
    if constexpr (I == kAcross) {
      Across v, w;
      memcpy(&v, gradient, sizeof(v));
      memcpy(&w, sums + o * kAcross, sizeof(w));
      v += w;
      memcpy(gradient, &v, sizeof(v));
    } else {
#pragma GCC unroll 8
      for (int i = 0; i < I; ++i) gradient[i] += sums[o * kAcross + i];
    }
  }
}

template <int O>
MC_INLINE void add_products(const Dense& layer, const ModelTile& tile, int64_t output) {
  int64_t input = 0;
  for (; input + kAcross <= layer.inputs; input += kAcross) add_products<O, kAcross>(layer, tile, output, input);
  for (; input < layer.inputs; ++input) add_products<O, 1>(layer, tile, output, input);
}

inline void backward_parameters(const Dense& layer, const ModelTile& tile) {
  for_each_block<kSide>(layer.outputs, [&](auto size, int64_t output) { add_products<size()>(layer, tile, output); });
  for (int64_t first = 0; first < layer.outputs; first += kFloats) {
    const int64_t count = layer.outputs - first < kFloats ? layer.outputs - first : kFloats;
    Floats sum[kFloats] = {};
    for (int64_t o = 0; o < count; ++o) {
      const float* const g = tile.row(layer.out + first + o);
      Floats part[2] = {};
      for (int64_t column = 0; column < tile.columns; column += 2 * kFloats) {
        part[0] += load(g + column);
        part[1] += load(g + column + kFloats);
      }
      sum[o] = part[0] + part[1];
    }
    const Floats sums = sum_each<float>(sum);
    for (int64_t o = 0; o < count; ++o) tile.gradient[layer.bias + first + o] += sums[o];
  }
}

}  // namespace manifold_core::MC_ISA
