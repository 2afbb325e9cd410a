// A dense layer on a tile: forwards, and the gradients of its inputs and of its parameters.
//
// A warp works on 32 columns: eight threads side by side have four columns each, and four of them different rows. All
// that is read from the tile or from W is read by four. How many rows a thread has, and of how many threads each sums a
// part of the columns for a gradient of W, is chosen for each layer so that few threads have nothing to do.
#pragma once

#include "layout.cuh"
#include "../sums.cuh"

namespace manifold_core::cuda {

constexpr int kWarps = kThreads / kWarp;
constexpr int kAcross = 8, kDown = 4;  // threads of a warp along a row and along a column
constexpr int kWide = 4 * kAcross;     // columns of a warp

// A layer as a thread wants it: in 32 bits, with the places of its numbers in the layout.
struct Layer {
  int in, inputs, out, outputs;
  int weights, pitch, bias, slope, end;  // places in the layout
  int activation, before, wanted_from, producer;
  int rows_forward, rows_backward, slices;
};

// The block's memory.
struct Memory {
  float* parameters;
  float* staging;  // room in shared memory for those of a layer
  float* tile;
  int pitch;    // of a row of the tile
  int columns;  // of the tile
  int ones;     // the row of ones
};

// The chunk of the mini-batch at hand, in shared memory: there it takes no registers.
struct Chunk {
  float* gradients;
  double* ratios;  // sums of the variance ratios; nullptr: none are wanted
  bool first;      // of its tiles

  // What a sum over the chunk is once this tile's share is in it.
  template <class T>
  __device__ __forceinline__ void add(T& sum, T share) const {
    sum = first ? share : sum + share;
  }
};

template <int count>
struct alignas(count * sizeof(float)) Aligned {
  float at[count];
};

using Quad = Aligned<4>;

__device__ __forceinline__ Quad read_quad(const float* from) { return *reinterpret_cast<const Quad*>(from); }

// As CUDA's own type, which nvcc writes in one instruction: of a Quad it makes four, and threads side by side would then
// write to few banks.
__device__ __forceinline__ void write_quad(float* to, const Quad& v) {
  *reinterpret_cast<float4*>(to) = make_float4(v.at[0], v.at[1], v.at[2], v.at[3]);
}

// The sum over all threads, for thread 0. In float: some processors have few units for double.
__device__ __forceinline__ float sum_over_block(float v) {
  __shared__ float of_warp[kWarps];
  v = sum_over_warp(v);
  __syncthreads();  // the numbers of the call before have been read
  if (threadIdx.x % kWarp == 0) of_warp[threadIdx.x / kWarp] = v;
  __syncthreads();
  if (threadIdx.x == 0) {
    for (int warp = 1; warp < kWarps; ++warp) v += of_warp[warp];
  }
  return v;
}

// Where the threads of a warp stand in rows and columns of a tile: `rows` rows each.
struct Share {
  int row, column;

  __device__ __forceinline__ Share(int task, int tile_columns, int rows) {
    const int lane = threadIdx.x % kWarp, across = tile_columns / kWide;
    column = task % across * kWide + lane % kAcross * 4;
    row = task / across * (kDown * rows) + lane / kAcross;
  }
};

__device__ __forceinline__ int warp_tasks(int rows_of_layer, int rows_of_thread, int columns) {
  const int high = kDown * rows_of_thread;
  return (rows_of_layer + high - 1) / high * (columns / kWide);
}

// The rows of a thread that take least time: 1, 2, 3, ... or only powers of two, up to the most.
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

// An activation and its derivative without branches, so that four numbers are written at once.
struct Bend {
  bool is_relu;
  float slope;  // below 0, but for ReLU

  __device__ __forceinline__ Bend(int activation, const float* slope_of_prelu)
      : is_relu(activation == kRelu), slope(activation == kPrelu ? *slope_of_prelu : 1.0f) {}

  __device__ __forceinline__ float of(float v) const {
    const float bent = v > 0 ? v : slope * v;
    return is_relu && v < 0 ? 0.0f : bent;  // NaN stays NaN
  }

  // What comes back through it, given the number it made or, of PReLU, was made of.
  __device__ __forceinline__ float back(float number, float gradient) const {
    const float bent = number > 0 ? gradient : slope * gradient;
    return is_relu && !(number > 0) ? 0.0f : bent;
  }
};

template <int rows>
__device__ __forceinline__ void dense_forward_rows(const Layer& l, const float* numbers, const Memory& m) {
  const int tasks = warp_tasks(l.outputs, rows, m.columns), last = l.outputs - 1;
  for (int task = threadIdx.x / kWarp; task < tasks; task += kWarps) {
    const Share at(task, m.columns, rows);
    int w[rows];  // where lines of W begin; of rows behind the last, that of the last
    float sum[rows][4];
#pragma unroll
    for (int r = 0; r < rows; ++r) {
      const int row = at.row + kDown * r < last ? at.row + kDown * r : last;
      w[r] = row * l.pitch;
      const float bias = numbers[l.bias - l.weights + row];
#pragma unroll
      for (int c = 0; c < 4; ++c) sum[r][c] = bias;
    }
    const float* x = m.tile + l.in * m.pitch + at.column;
    int i = 0;
#pragma unroll 1
    for (; i + 4 <= l.inputs; i += 4, x += 4 * m.pitch) {
      Quad from[4];
#pragma unroll
      for (int k = 0; k < 4; ++k) from[k] = read_quad(x + k * m.pitch);
#pragma unroll
      for (int r = 0; r < rows; ++r) {
        const Quad by = read_quad(numbers + w[r] + i);
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
        const float by = numbers[w[r] + i];
#pragma unroll
        for (int c = 0; c < 4; ++c) sum[r][c] += by * from.at[c];
      }
    }
    const Bend bend(l.activation, numbers + l.slope - l.weights);
#pragma unroll
    for (int r = 0; r < rows; ++r) {
      const int row = at.row + kDown * r;
      if (row > last) break;
      Quad out;
#pragma unroll
      for (int c = 0; c < 4; ++c) out.at[c] = sum[r][c];
      if (l.activation == kPrelu) write_quad(m.tile + (l.before + row) * m.pitch + at.column, out);
#pragma unroll
      for (int c = 0; c < 4; ++c) out.at[c] = bend.of(out.at[c]);
      write_quad(m.tile + (l.out + row) * m.pitch + at.column, out);
    }
  }
}

// numbers: the parameters of the layer, from its W on. Called by all threads; a barrier has to follow.
__device__ __forceinline__ void dense_forward(const Layer& l, const float* numbers, const Memory& m) {
  switch (l.rows_forward) {
    case 1: return dense_forward_rows<1>(l, numbers, m);
    case 2: return dense_forward_rows<2>(l, numbers, m);
    case 3: return dense_forward_rows<3>(l, numbers, m);
    case 4: return dense_forward_rows<4>(l, numbers, m);
    default: return dense_forward_rows<5>(l, numbers, m);
  }
}

// Where a thread's rows of inputs begin: they lie side by side, so that a line of W is read by as many.
template <int rows>
__device__ __forceinline__ int first_input(const Layer& l) {
  return l.wanted_from / rows * rows;
}

// Returns this thread's share in the gradient of the producer's slope.
template <int rows>
__device__ __forceinline__ float dense_backward_rows(const Layer& l, const Layer* producer, const float* numbers, const Memory& m) {
  const int begin = first_input<rows>(l);
  const int tasks = warp_tasks(l.inputs - begin, rows, m.columns);
  const int activation = producer == nullptr ? int{kNone} : producer->activation;
  const Bend bend(activation, m.parameters + (activation == kPrelu ? producer->slope : 0));
  float of_slope = 0;
  for (int task = threadIdx.x / kWarp; task < tasks; task += kWarps) {
    Share at(task, m.columns, rows);
    const int down = threadIdx.x % kWarp / kAcross;
    const int first = begin + at.row - down + down * rows;
    if (first >= l.inputs) continue;
    const float* w = numbers + first;  // aligned: `rows` divides it
    const float* gradient = m.tile + l.out * m.pitch + at.column;
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
      float* const to = m.tile + (l.in + i) * m.pitch + at.column;
      Quad out;
#pragma unroll
      for (int c = 0; c < 4; ++c) out.at[c] = sum[r][c];
      if (activation != kNone) {
        const int before = activation == kPrelu ? producer->before + l.in + i - producer->out : l.in + i;
        const Quad number = read_quad(m.tile + before * m.pitch + at.column);
#pragma unroll
        for (int c = 0; c < 4; ++c) {
          of_slope += number.at[c] > 0 ? 0.0f : out.at[c] * number.at[c];  // of PReLU
          out.at[c] = bend.back(number.at[c], out.at[c]);
        }
      }
      write_quad(to, out);
    }
  }
  return of_slope;
}

// The gradient of the inputs takes their place. Called by all threads, when the gradients of the parameters have been
// taken; a barrier has to follow.
__device__ __forceinline__ void dense_backward(const Layer& l, const Layer* producer, const float* numbers, const Chunk& chunk,
                                               const Memory& m) {
  float of_slope = 0;
  switch (l.rows_backward) {
    case 1: of_slope = dense_backward_rows<1>(l, producer, numbers, m); break;
    case 2: of_slope = dense_backward_rows<2>(l, producer, numbers, m); break;
    default: of_slope = dense_backward_rows<4>(l, producer, numbers, m);
  }
  if (producer != nullptr && producer->activation == kPrelu) {
    const float sum = sum_over_block(of_slope);
    if (threadIdx.x == 0) chunk.add(chunk.gradients[producer->slope], sum);
  }
}

// Blocks of four outputs by four inputs, the one of the bias among the inputs; rows of a block lie apart, so that
// threads side by side read rows side by side.
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

// One of two threads, `bit` apart, takes the first `half` numbers of both, the other the rest; each keeps their sums.
// Returns which was its first.
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

// Adds up 16 numbers over neighbouring threads, `slices` of them: each ends with the sums of 16 / slices, from the
// number returned on.
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
  // Of every eight quads of a row a slice has some side by side: rows start one quad of banks further each, so that
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
    constexpr int kNumbers = 16 / slices;
    int to[kNumbers];  // negative: nowhere
#pragma unroll
    for (int k = 0; k < kNumbers; ++k) {
      const int o = output + (begin + k) / 4 * blocks.outputs, i = input + (begin + k) % 4 * blocks.inputs;
      to[k] = o >= outputs || i > inputs ? -1 : i < inputs ? weights + o * line + i : bias + o;
    }
    float* const gradients = chunk.gradients;
    if (!chunk.first) {
#pragma unroll
      for (int k = 0; k < kNumbers; ++k) sum[k] += to[k] < 0 ? 0.0f : gradients[to[k]];
    }
#pragma unroll
    for (int k = 0; k < kNumbers; ++k) {
      if (to[k] >= 0) gradients[to[k]] = sum[k];
    }
  }
}

// Called by all threads: the rows of the layer's outputs hold their gradient, those of its inputs the numbers.
__device__ __forceinline__ void dense_gradients(const Layer& l, const Chunk& chunk, const Memory& m) {
  switch (l.slices) {
    case 1: return add_weight_gradients<1>(l, chunk, m);
    case 2: return add_weight_gradients<2>(l, chunk, m);
    case 4: return add_weight_gradients<4>(l, chunk, m);
    default: return add_weight_gradients<8>(l, chunk, m);
  }
}

}  // namespace manifold_core::cuda
