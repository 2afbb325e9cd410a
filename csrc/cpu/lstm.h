// An LSTM over the steps of sequences, a tile at a time: its rows are features, its columns samples. The steps are
// dense layers of the ensemble engine, from the step's inputs and the state before it to the four gates.
#pragma once

#include "cpu/kernels.h"
#include "ensemble/dense.h"
#include "manifold_core/gaussian.h"

#include <initializer_list>

namespace manifold_core::MC_ISA {

// Relatively exact on either side of zero.
MC_INLINE float tanh_of(float x) {
  const float e = exponential(x < 0 ? 2 * x : -2 * x).exp_minus_1;
  return (x < 0 ? e : -e) / (e + 2);
}

// Rows of a tile from [count, features] elements, each sample's `stride` behind those of the one before, put there or
// added to what is there. Columns that only fill get zeros.
template <bool kAdd>
inline void to_rows(const float* from, int64_t stride, int64_t count, int64_t features, float* rows, int64_t pitch,
                    int64_t columns) {
  for (int64_t first = 0; first < columns; first += kFloats) {
    const int64_t here = count - first < kFloats ? count - first : kFloats;
    int64_t i = 0;
    for (; here == kFloats && i + kFloats <= features; i += kFloats) {
      Floats v[kFloats];
      for (int s = 0; s < kFloats; ++s) v[s] = load(from + (first + s) * stride + i);
      transpose<float>(v);
      for (int j = 0; j < kFloats; ++j) {
        float* const to = rows + (i + j) * pitch + first;
        store(to, kAdd ? load(to) + v[j] : v[j]);
      }
    }
    for (; i < features; ++i) {
      float* const to = rows + i * pitch + first;
      for (int64_t s = 0; s < kFloats; ++s) {
        const float value = s < here ? from[(first + s) * stride + i] : 0.0f;
        to[s] = kAdd ? to[s] + value : value;
      }
    }
  }
}

// And back, without the columns that only fill.
inline void from_rows(const float* rows, int64_t pitch, int64_t count, int64_t features, float* to, int64_t stride) {
  for (int64_t first = 0; first < count; first += kFloats) {
    const int64_t here = count - first < kFloats ? count - first : kFloats;
    int64_t i = 0;
    for (; here == kFloats && i + kFloats <= features; i += kFloats) {
      Floats v[kFloats];
      for (int j = 0; j < kFloats; ++j) v[j] = load(rows + (i + j) * pitch + first);
      transpose<float>(v);
      for (int s = 0; s < kFloats; ++s) store(to + (first + s) * stride + i, v[s]);
    }
    for (; i < features; ++i) {
      for (int64_t s = 0; s < here; ++s) to[(first + s) * stride + i] = rows[i * pitch + first + s];
    }
  }
}

// Columns are whole panels of the layer, and pairs of vectors for its sums.
constexpr int64_t kLstmPanel = kPanelColumns > 2 * kFloats ? kPanelColumns : 2 * kFloats;
static_assert(cpu::kLstmColumns % kLstmPanel == 0);

// The rows of a step: its inputs, the state, the gates that a layer makes of both, and the gradient of the cell.
class LstmTile {
 public:
  LstmTile(const cpu::Lstm& args, int64_t tile, int64_t begin, int64_t end, float* scratch, float* gradient, bool with_x)
      : args_(args),
        begin_(begin),
        count_(end - begin),
        columns_((count_ + kLstmPanel - 1) / kLstmPanel * kLstmPanel),
        kept_(args.kept + tile * args.steps_kept * cpu::kLstmKept * args.hidden * cpu::kLstmColumns),
        tile_{scratch, cpu::kLstmPitch, columns_, args.parameters, gradient} {
    layer_.inputs = layer_.out = args.inputs + args.hidden;
    layer_.outputs = 4 * args.hidden;
    layer_.bias = layer_.outputs * layer_.inputs;
    layer_.activation = kNone;
    layer_.wanted_from = with_x ? 0 : args.inputs;
    layer_.producer = -1;
  }

  float* state(int64_t j) const { return tile_.row(args_.inputs + j); }
  float* gate(int64_t g, int64_t j) const { return tile_.row(layer_.out + g * args_.hidden + j); }
  float* cell_gradient(int64_t j) const { return gate(4, j); }
  // Of each step: the gates i, f, g, o, then c. If one step is kept, each overwrites the one before.
  float* kept(int64_t step, int64_t which, int64_t j) const {
    const int64_t place = args_.steps_kept == 1 ? 0 : step;
    return kept_ + ((place * cpu::kLstmKept + which) * args_.hidden + j) * cpu::kLstmColumns;
  }

  void forward() {
    clear_state();
    for (int64_t step = 0; step < args_.length; ++step) {
      read_inputs(step);
      MC_ISA::forward(layer_, tile_);
      for (int64_t j = 0; j < args_.hidden; ++j) {
        const float* const before = step > 0 ? kept(step - 1, 4, j) : zeros_;
        float* const h = state(j);
        const float *const to_i = gate(0, j), *const to_f = gate(1, j), *const to_g = gate(2, j), *const to_o = gate(3, j);
        float *const i = kept(step, 0, j), *const f = kept(step, 1, j), *const g = kept(step, 2, j);
        float *const o = kept(step, 3, j), *const cell = kept(step, 4, j);
#pragma GCC ivdep
        for (int64_t s = 0; s < columns_; ++s) {
          i[s] = sigmoid(to_i[s]).weight;
          f[s] = sigmoid(to_f[s]).weight;
          g[s] = tanh_of(to_g[s]);
          o[s] = sigmoid(to_o[s]).weight;
          cell[s] = f[s] * before[s] + i[s] * g[s];
          h[s] = o[s] * tanh_of(cell[s]);
        }
        for (float* const row : {i, f, g, o, cell}) {  // what is handed out is written as a whole
          for (int64_t s = columns_; s < cpu::kLstmColumns; ++s) row[s] = 0;
        }
      }
      from_rows(state(0), cpu::kLstmPitch, count_, args_.hidden, of_step(args_.y, step, args_.hidden),
                args_.length * args_.hidden);
    }
  }

  void backward(const float* grad_y, float* grad_x) {
    clear_state();  // from here on its gradient
    for (int64_t j = 0; j < args_.hidden; ++j) fill(cell_gradient(j));
    for (int64_t step = args_.length - 1; step >= 0; --step) {
      to_rows<true>(of_step(grad_y, step, args_.hidden), args_.length * args_.hidden, count_, args_.hidden, state(0),
                    cpu::kLstmPitch, columns_);
      for (int64_t j = 0; j < args_.hidden; ++j) gates_backward(step, j);
      read_inputs(step);
      backward_parameters(layer_, tile_);
      if (step > 0 || grad_x != nullptr) backward_inputs(layer_, nullptr, tile_);
      if (grad_x != nullptr) {
        from_rows(tile_.row(0), cpu::kLstmPitch, count_, args_.inputs, of_step(grad_x, step, args_.inputs),
                  args_.length * args_.inputs);
      }
    }
  }

 private:
  // Leaves the gradients of what the gates' activations were applied to, and in the place of that of h the h before.
  void gates_backward(int64_t step, int64_t j) {
    const float *const i = kept(step, 0, j), *const f = kept(step, 1, j), *const g = kept(step, 2, j);
    const float *const o = kept(step, 3, j), *const cell = kept(step, 4, j);
    const float* const before = step > 0 ? kept(step - 1, 4, j) : zeros_;
    const float* const o_before = step > 0 ? kept(step - 1, 3, j) : zeros_;
    float *const h = state(j), *const grad_cell = cell_gradient(j);
    float *const to_i = gate(0, j), *const to_f = gate(1, j), *const to_g = gate(2, j), *const to_o = gate(3, j);
#pragma GCC ivdep
    for (int64_t s = 0; s < columns_; ++s) {
      const float squashed = tanh_of(cell[s]);
      const float grad = grad_cell[s] + h[s] * o[s] * (1 - squashed * squashed);
      to_i[s] = grad * g[s] * i[s] * (1 - i[s]);
      to_f[s] = grad * before[s] * f[s] * (1 - f[s]);
      to_g[s] = grad * i[s] * (1 - g[s] * g[s]);
      to_o[s] = h[s] * squashed * o[s] * (1 - o[s]);
      grad_cell[s] = grad * f[s];
      h[s] = o_before[s] * tanh_of(before[s]);
    }
  }

  void clear_state() {
    for (int64_t j = 0; j < args_.hidden; ++j) fill(state(j));
  }

  void read_inputs(int64_t step) {
    to_rows<false>(of_step(args_.x, step, args_.inputs), args_.length * args_.inputs, count_, args_.inputs, tile_.row(0),
                   cpu::kLstmPitch, columns_);
  }

  void fill(float* row) const {
    for (int64_t s = 0; s < columns_; ++s) row[s] = 0;
  }

  // The first sample's elements of a step.
  template <class T>
  T* of_step(T* data, int64_t step, int64_t features) const {
    return data + (begin_ * args_.length + step) * features;
  }

  const cpu::Lstm& args_;
  const int64_t begin_, count_, columns_;
  float* const kept_;
  const ModelTile tile_;
  Dense layer_{};
  alignas(64) float zeros_[cpu::kLstmColumns] = {};
};

inline void lstm(const cpu::Lstm& args, int64_t tile, int64_t begin, int64_t end, float* scratch) {
  LstmTile(args, tile, begin, end, scratch, nullptr, false).forward();
}

inline void lstm_backward(const cpu::Lstm& args, const float* grad_y, float* grad_x, int64_t tile, int64_t begin,
                          int64_t end, float* gradient, float* scratch) {
  LstmTile(args, tile, begin, end, scratch, gradient, grad_x != nullptr).backward(grad_y, grad_x);
}

}  // namespace manifold_core::MC_ISA
