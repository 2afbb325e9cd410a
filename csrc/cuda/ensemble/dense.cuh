// A dense layer on a tile: forwards, and the gradients of its inputs and of its parameters.
//
// A warp works on 32 columns: eight threads across have four columns each, four threads down different rows. All reads
// from the tile and from W are of four floats. How many rows a thread has, and over how many threads the columns are
// split for a gradient of W, is chosen for each layer so that few threads are idle.
#pragma once

#include "layout.cuh"
#include "../sums.cuh"

namespace manifold_core::cuda {

constexpr int kWarps = kThreads / kWarp;
constexpr int kAcross = 8, kDown = 4;  // threads of a warp along a row and along a column
constexpr int kWide = 4 * kAcross;     // columns of a warp

// A layer in 32 bits, with the offsets of its parameters in the layout.
struct Layer {
  int in, inputs, out, outputs;
  int weights, pitch, bias, slope, end;  // offsets in the layout
  int activation, before, wanted_from, producer;
  int rows_forward, rows_backward, slices;
};

// The block's memory.
struct Memory {
  float* parameters;
  float* staging;  // shared memory for those of a layer
  float* tile;
  int pitch;    // of a row of the tile
  int columns;  // of the tile
  int ones;     // the row of ones
};

// The current chunk of the mini-batch, in shared memory: there it takes no registers.
struct Chunk {
  float* gradients;
  double* ratios;  // sums of the variance ratios; nullptr: none are wanted
  bool first;      // of its tiles

  // Adds a tile's value to a sum over the chunk.
  template <class T>
  __device__ __forceinline__ void add(T& sum, T value) const {
    sum = first ? value : sum + value;
  }
};

template <int count>
struct alignas(count * sizeof(float)) Aligned {
  float at[count];
};

using Quad = Aligned<4>;

__device__ __forceinline__ Quad read_quad(const float* from) { return *reinterpret_cast<const Quad*>(from); }

// As CUDA's own type, which nvcc writes in one instruction: a Quad would be written in four, in which neighbouring
// threads meet in few banks.
__device__ __forceinline__ void write_quad(float* to, const Quad& v) {
  *reinterpret_cast<float4*>(to) = make_float4(v.at[0], v.at[1], v.at[2], v.at[3]);
}

// The sum over all threads, for thread 0. In float: some processors have few units for double.
__device__ __forceinline__ float sum_over_block(float v) {
  __shared__ float warp_sums[kWarps];
  v = sum_over_warp(v);
  __syncthreads();  // those of the call before have been read
  if (threadIdx.x % kWarp == 0) warp_sums[threadIdx.x / kWarp] = v;
  __syncthreads();
  if (threadIdx.x == 0) {
    for (int warp = 1; warp < kWarps; ++warp) v += warp_sums[warp];
  }
  return v;
}

// The first row and column of this thread, in the tile of its warp: `rows` rows, kDown apart, and four columns.
struct ThreadOrigin {
  int row, column;

  __device__ __forceinline__ ThreadOrigin(int task, int tile_columns, int rows) {
    const int lane = threadIdx.x % kWarp, across = tile_columns / kWide;
    column = task % across * kWide + lane % kAcross * 4;
    row = task / across * (kDown * rows) + lane / kAcross;
  }
};

__device__ __forceinline__ int warp_tasks(int rows_of_layer, int rows_of_thread, int columns) {
  const int high = kDown * rows_of_thread;
  return (rows_of_layer + high - 1) / high * (columns / kWide);
}

// The number of rows per thread that takes least time: 1, 2, 3, ... or only powers of two, up to `most`.
__device__ inline int best_rows(int rows_of_layer, int columns, int most, bool powers) {
  constexpr int overhead = 4;  // of reading what all rows are multiplied by, in instructions
  int best = 1, least = 1 << 30;
  for (int rows = 1; rows <= most; rows = powers ? 2 * rows : rows + 1) {
    const int turns = (warp_tasks(rows_of_layer, rows, columns) + kWarps - 1) / kWarps;
    const int cost = turns * (4 * rows + overhead);
    if (cost <= least) {
      least = cost;
      best = rows;
    }
  }
  return best;
}

// An activation and its gradient without branches, so that four values are written at once.
struct Nonlinearity {
  bool is_relu;
  float slope;  // below 0, but for ReLU

  __device__ __forceinline__ Nonlinearity(int activation, const float* slope_of_prelu)
      : is_relu(activation == kRelu), slope(activation == kPrelu ? *slope_of_prelu : 1.0f) {}

  __device__ __forceinline__ float forward(float v) const {
    const float y = v > 0 ? v : slope * v;
    return is_relu && v < 0 ? 0.0f : y;  // NaN stays NaN
  }

  // The gradient of its input, given its output or, of PReLU, its input.
  __device__ __forceinline__ float backward(float value, float gradient) const {
    const float g = value > 0 ? gradient : slope * gradient;
    return is_relu && !(value > 0) ? 0.0f : g;
  }
};

template <int rows>
__device__ __forceinline__ void dense_forward_rows(const Layer& l, const float* parameters, const Memory& m) {
  const int tasks = warp_tasks(l.outputs, rows, m.columns), last = l.outputs - 1;
  for (int task = threadIdx.x / kWarp; task < tasks; task += kWarps) {
    const ThreadOrigin origin(task, m.columns, rows);
    int w[rows];  // where lines of W begin; for rows behind the last, that of the last
    float sum[rows][4];
#pragma unroll
    for (int r = 0; r < rows; ++r) {
      const int row = origin.row + kDown * r < last ? origin.row + kDown * r : last;
      w[r] = row * l.pitch;
      const float bias = parameters[l.bias - l.weights + row];
#pragma unroll
      for (int c = 0; c < 4; ++c) sum[r][c] = bias;
    }
    const float* x = m.tile + l.in * m.pitch + origin.column;
    int i = 0;
#pragma unroll 1
    for (; i + 4 <= l.inputs; i += 4, x += 4 * m.pitch) {
      Quad from[4];
#pragma unroll
      for (int k = 0; k < 4; ++k) from[k] = read_quad(x + k * m.pitch);
#pragma unroll
      for (int r = 0; r < rows; ++r) {
        const Quad by = read_quad(parameters + w[r] + i);
#pragma unroll
        for (int k = 0; k < 4; ++k) {
#pragma unroll
          for (int c = 0; c < 4; ++c) sum[r][c] += by.at[k] * from[k].at[c];
        }
      }
    }
#pragma unroll 1
    for (; i < l.inputs; ++i, x += m.pitch) {
      const Quad from = read_quad(x);
#pragma unroll
      for (int r = 0; r < rows; ++r) {
        const float by = parameters[w[r] + i];
#pragma unroll
        for (int c = 0; c < 4; ++c) sum[r][c] += by * from.at[c];
      }
    }
    const Nonlinearity nonlinearity(l.activation, parameters + l.slope - l.weights);
#pragma unroll
    for (int r = 0; r < rows; ++r) {
      const int row = origin.row + kDown * r;
      if (row > last) break;
      Quad out;
#pragma unroll
      for (int c = 0; c < 4; ++c) out.at[c] = sum[r][c];
      if (l.activation == kPrelu) write_quad(m.tile + (l.before + row) * m.pitch + origin.column, out);
#pragma unroll
      for (int c = 0; c < 4; ++c) out.at[c] = nonlinearity.forward(out.at[c]);
      write_quad(m.tile + (l.out + row) * m.pitch + origin.column, out);
    }
  }
}

// parameters: of the layer, from its W on. Called by all threads; a barrier has to follow.
__device__ __forceinline__ void dense_forward(const Layer& l, const float* parameters, const Memory& m) {
  switch (l.rows_forward) {
    case 1: return dense_forward_rows<1>(l, parameters, m);
    case 2: return dense_forward_rows<2>(l, parameters, m);
    case 3: return dense_forward_rows<3>(l, parameters, m);
    case 4: return dense_forward_rows<4>(l, parameters, m);
    default: return dense_forward_rows<5>(l, parameters, m);
  }
}

// Where the inputs of the threads begin: those of a thread are neighbours, so that it reads as many of a line of W at
// once.
template <int rows>
__device__ __forceinline__ int first_input(const Layer& l) {
  return l.wanted_from / rows * rows;
}

// Returns this thread's part of the gradient of the producer's slope.
template <int rows>
__device__ __forceinline__ float dense_backward_rows(const Layer& l, const Layer* producer, const float* parameters,
                                                     const Memory& m) {
  const int begin = first_input<rows>(l);
  const int tasks = warp_tasks(l.inputs - begin, rows, m.columns);
  const int activation = producer == nullptr ? int{kNone} : producer->activation;
  const Nonlinearity nonlinearity(activation, m.parameters + (activation == kPrelu ? producer->slope : 0));
  float slope_gradient = 0;
  for (int task = threadIdx.x / kWarp; task < tasks; task += kWarps) {
    ThreadOrigin origin(task, m.columns, rows);
    const int down = threadIdx.x % kWarp / kAcross;
    const int first = begin + origin.row - down + down * rows;
    if (first >= l.inputs) continue;
    const float* w = parameters + first;  // aligned: `rows` divides it
    const float* gradient = m.tile + l.out * m.pitch + origin.column;
    float sum[rows][4] = {};
#pragma unroll 4
    for (int o = 0; o < l.outputs; ++o, w += l.pitch, gradient += m.pitch) {
      const Quad from = read_quad(gradient);
      const Aligned<rows> by = *reinterpret_cast<const Aligned<rows>*>(w);
#pragma unroll
      for (int r = 0; r < rows; ++r) {
#pragma unroll
        for (int c = 0; c < 4; ++c) sum[r][c] += by.at[r] * from.at[c];
      }
    }
#pragma unroll
    for (int r = 0; r < rows; ++r) {
      const int i = first + r;
      if (i >= l.inputs || i < l.wanted_from) continue;
      float* const to = m.tile + (l.in + i) * m.pitch + origin.column;
      Quad out;
#pragma unroll
      for (int c = 0; c < 4; ++c) out.at[c] = sum[r][c];
      if (activation != kNone) {
        const int before = activation == kPrelu ? producer->before + l.in + i - producer->out : l.in + i;
        const Quad value = read_quad(m.tile + before * m.pitch + origin.column);
#pragma unroll
        for (int c = 0; c < 4; ++c) {
          slope_gradient += value.at[c] > 0 ? 0.0f : out.at[c] * value.at[c];  // of PReLU
          out.at[c] = nonlinearity.backward(value.at[c], out.at[c]);
        }
      }
      write_quad(to, out);
    }
  }
  return slope_gradient;
}

// The gradient of the inputs takes their place. Called by all threads, when the gradients of the parameters have been
// taken; a barrier has to follow.
__device__ __forceinline__ void dense_backward(const Layer& l, const Layer* producer, const float* parameters,
                                               const Chunk& chunk, const Memory& m) {
  float slope_gradient = 0;
  switch (l.rows_backward) {
    case 1: slope_gradient = dense_backward_rows<1>(l, producer, parameters, m); break;
    case 2: slope_gradient = dense_backward_rows<2>(l, producer, parameters, m); break;
    default: slope_gradient = dense_backward_rows<4>(l, producer, parameters, m);
  }
  if (producer != nullptr && producer->activation == kPrelu) {
    const float sum = sum_over_block(slope_gradient);
    if (threadIdx.x == 0) chunk.add(chunk.gradients[producer->slope], sum);
  }
}

// Blocks of four outputs by four inputs, the bias counted as an input; the rows of a block lie apart, so that
// neighbouring threads read neighbouring rows.
struct WeightBlocks {
  int outputs, inputs;  // groups of four

  __device__ __forceinline__ explicit WeightBlocks(const Layer& l)
      : outputs((l.outputs + 3) / 4), inputs((l.inputs + 1 + 3) / 4) {}
};

__device__ inline int best_slices(const Layer& l, int columns) {
  const WeightBlocks blocks(l);
  int best = 1, least = 1 << 30;
  for (int slices = 1; slices <= 8; slices *= 2) {
    const int turns = (blocks.outputs * blocks.inputs * slices + kThreads - 1) / kThreads;
    const int cost = turns * (columns / 4 / slices * 72 + (slices > 1 ? 100 : 60));  // instructions, about
    if (cost < least) {
      least = cost;
      best = slices;
    }
  }
  return best;
}

// Of two threads `bit` apart, one takes the sums of their first `half` values, the other those of the rest. Returns
// the index of its first.
template <int half, int bit>
__device__ __forceinline__ int fold(float (&sum)[16]) {
  const bool upper = threadIdx.x & bit;
#pragma unroll
  for (int k = 0; k < half; ++k) {
    const float kept = upper ? sum[k + half] : sum[k], sent = upper ? sum[k] : sum[k + half];
    sum[k] = kept + __shfl_xor_sync(kAllLanes, sent, bit);
  }
  return upper ? half : 0;
}

// Adds up 16 values over `slices` neighbouring threads: each gets 16 / slices of the sums, from the index returned on.
template <int slices>
__device__ __forceinline__ int scatter_sums(float (&sum)[16]) {
  int first = 0;
  if constexpr (slices > 1) first += fold<8, 1>(sum);
  if constexpr (slices > 2) first += fold<4, 2>(sum);
  if constexpr (slices > 4) first += fold<2, 4>(sum);
  return first;
}

template <int slices>
__device__ __forceinline__ void add_weight_gradients(const Layer& l, const Chunk& chunk, const Memory& m) {
  const WeightBlocks blocks(l);
  const int tasks = blocks.outputs * blocks.inputs * slices;
  const int side_by_side = blocks.outputs % 2 == 0 ? 2 : 1;  // outputs; then inputs follow
  // Of every eight quads of a row a slice has some neighbours: each row starts one quad of banks further, so that
  // threads which read other rows, or another slice of the same, read from other banks.
  constexpr int kQuads = 8 / slices;
  const int slice = threadIdx.x % slices;
  for (int first = 0; first < tasks; first += kThreads) {
    const int task = first + threadIdx.x;
    if (first + static_cast<int>(threadIdx.x / kWarp * kWarp) >= tasks) break;  // of the whole warp
    const int block = task < tasks ? task / slices : 0;
    const int pair = block / side_by_side;
    const int output = pair / blocks.inputs * side_by_side + block % side_by_side, input = pair % blocks.inputs;
    int gradient[4], x[4];  // where the rows begin
#pragma unroll
    for (int k = 0; k < 4; ++k) {
      const int o = output + k * blocks.outputs, i = input + k * blocks.inputs;
      gradient[k] = (l.out + (o < l.outputs ? o : l.outputs - 1)) * m.pitch;
      x[k] = (i < l.inputs ? l.in + i : m.ones) * m.pitch;
    }
    float sum[16] = {};
#pragma unroll 1
    for (int quad = 0; quad < m.columns / 4 / slices; ++quad) {
      const int column = 4 * (quad / kQuads * 8 + slice * kQuads + quad % kQuads);
      Quad from[4];
#pragma unroll
      for (int k = 0; k < 4; ++k) from[k] = read_quad(m.tile + x[k] + column);
#pragma unroll
      for (int r = 0; r < 4; ++r) {
        const Quad by = read_quad(m.tile + gradient[r] + column);
#pragma unroll
        for (int k = 0; k < 4; ++k) {
#pragma unroll
          for (int c = 0; c < 4; ++c) sum[4 * r + k] += by.at[c] * from[k].at[c];
        }
      }
    }
    const int begin = scatter_sums<slices>(sum);
    if (task >= tasks) continue;
    const int outputs = l.outputs, inputs = l.inputs, line = l.pitch, weights = l.weights, bias = l.bias;
    constexpr int kOwn = 16 / slices;
    int to[kOwn];  // negative: nowhere
#pragma unroll
    for (int k = 0; k < kOwn; ++k) {
      const int o = output + (begin + k) / 4 * blocks.outputs, i = input + (begin + k) % 4 * blocks.inputs;
      to[k] = o >= outputs || i > inputs ? -1 : i < inputs ? weights + o * line + i : bias + o;
    }
    float* const gradients = chunk.gradients;
    if (!chunk.first) {
#pragma unroll
      for (int k = 0; k < kOwn; ++k) sum[k] += to[k] < 0 ? 0.0f : gradients[to[k]];
    }
#pragma unroll
    for (int k = 0; k < kOwn; ++k) {
      if (to[k] >= 0) gradients[to[k]] = sum[k];
    }
  }
}

// Called by all threads: the rows of the layer's outputs hold their gradient, those of its inputs their values.
__device__ __forceinline__ void dense_gradients(const Layer& l, const Chunk& chunk, const Memory& m) {
  switch (l.slices) {
    case 1: return add_weight_gradients<1>(l, chunk, m);
    case 2: return add_weight_gradients<2>(l, chunk, m);
    case 4: return add_weight_gradients<4>(l, chunk, m);
    default: return add_weight_gradients<8>(l, chunk, m);
  }
}

}  // namespace manifold_core::cuda
