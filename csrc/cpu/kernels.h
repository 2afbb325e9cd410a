// What the operators (<op>.cpp) and the kernels (one copy per instruction set) say to each other.
#pragma once

#include "manifold_core/dtype.h"
#include "manifold_core/program.h"

#include <cstdint>

namespace manifold_core::cpu {

// A matrix in the caller's memory, of any stride (0 for an expanded gradient), in elements. data == nullptr: not given.
struct Matrix {
  void* data = nullptr;
  DType dtype = DType::f32;
  int64_t row_stride = 0;
  int64_t col_stride = 0;
};

// Rows are handed to the kernels in whole blocks of this many: enough work for a thread, whatever the number of threads.
constexpr int64_t block_rows(int64_t cols) {
  constexpr int64_t elements = 16384;
  return cols <= 1 ? elements : cols < elements ? elements / cols : 1;
}

// The same for samples that have a triangle each: its rows cost about as much as 8 elements, until they are long.
constexpr int64_t block_triangles(int64_t cols) { return block_rows(8 * cols); }

// Where a result [rows, cols] goes: to a matrix, or, for what is one row to the caller, to the sums of its columns.
// Sums are taken block by block, then added up in order.
struct Result {
  Matrix matrix;
  double* sums = nullptr;  // [blocks, cols], begun as zeros
  int64_t cols = 0;
  int64_t block = 1;       // rows in one

  explicit operator bool() const { return matrix.data != nullptr || sums != nullptr; }
};

struct Prior {
  Matrix mu, log_var;  // [rows, cols], both or neither; a row stride of 0 is one row for all
};

struct RsampleKl {
  int64_t cols;
  uint64_t seed;
  uint64_t first_row;
  Matrix mu, log_var;         // [rows, cols]
  Prior prior;                // may be absent
  Matrix gate_logits;         // [rows, cols], may be absent
  Matrix z;                   // [rows, cols]
  Matrix kl;                  // [rows, cols], or [rows, 1] summed over the columns
  bool kl_per_dimension;
  Result variance_ratio;      // may be absent
};

struct RsampleKlBackward {
  int64_t cols;
  uint64_t seed;
  uint64_t first_row;
  Matrix mu, log_var;
  Prior prior;
  Matrix gate_logits;
  Matrix grad_z;              // [rows, cols], may be absent
  Matrix grad_kl;             // [rows, cols] of any stride, may be absent
  Matrix grad_mu, grad_log_var;
  Result grad_prior_mu, grad_prior_log_var, grad_gate_logits;  // may be absent
};

struct RsampleKlCholesky {
  int64_t cols;
  uint64_t seed;
  uint64_t first_row;
  Matrix mu;                  // [rows, cols]
  Matrix tril;                // [rows, cols (cols + 1) / 2]
  Prior prior;                // may be absent
  Matrix z;                   // [rows, cols]
  Matrix kl;                  // [rows, cols], or [rows, 1] summed over the columns
  bool kl_per_dimension;
  Result variance_ratio;      // may be absent
};

struct RsampleKlCholeskyBackward {
  int64_t cols;
  uint64_t seed;
  uint64_t first_row;
  Matrix mu, tril;
  Prior prior;
  Matrix grad_z;              // [rows, cols], may be absent
  Matrix grad_kl;             // [rows, cols] of any stride, may be absent
  Matrix grad_mu, grad_tril;
  Result grad_prior_mu, grad_prior_log_var;  // may be absent
};

struct GaussianNll {
  int64_t cols;
  double log_gamma;
  Matrix x_hat, x;            // [rows, cols]
  Matrix nll, squared_error;  // [rows, 1]
  // (x_hat - x) * difference_scale, if it will be wanted: a gradient written while both are at hand.
  Matrix difference;          // [rows, cols], may be absent
  double difference_scale = 1;
};

struct GaussianNllBackward {
  int64_t cols;
  double log_gamma;
  Matrix x_hat, x;
  Matrix grad_nll, grad_squared_error;  // [rows, 1], may be absent
  Matrix grad_x_hat;
};

// The images of a sample, [channels, height, width], and a tile with a border around them: its rows are pixels, its
// columns samples (cpu/convolution.h).
struct Planes {
  int64_t channels, height, width;
  int64_t tile_height, tile_width, top, left;
  const int32_t* rows;    // [size()], of the tile
  const int32_t* border;  // the rows of the tile that are none of these
  int64_t border_size;

  int64_t size() const { return channels * height * width; }
  int64_t tile_rows() const { return channels * tile_height * tile_width; }
};

// What an output pixel is made of.
template <class C>
struct Taps {
  int64_t depth;
  const int32_t* rows;  // [depth], of the tile, from where the output pixel stands
  const C* weights;     // [depth, channels of the output]
};

// A convolution, or its transpose: pixel y of the output belongs to class (y + phase) % classes and stands at row
// (y + phase) / classes * step of the source; each pair of classes, of row and column, has taps of its own.
template <class C>
struct Correlation {
  Planes source;
  int64_t channels, height, width;  // of the output
  int64_t step, classes, phase;
  const Taps<C>* taps;  // [classes, classes]
  const C* bias;        // [channels], may be absent

  int64_t size() const { return channels * height * width; }
};

template <class C>
struct Convolve {
  Correlation<C> correlation;
  const C* in;
  C* out;
  double* moments;  // [blocks, 2, channels]: means, sums of squared deviations from them; may be absent
};

template <class C>
struct ConvolveBackward {
  Correlation<C> correlation;  // from the gradient of the output to that of the input
  Planes in;
  const C* in_data;
  C* grad_in;                  // may be absent
  bool transposed;             // the convolution itself: its output is then the large side, and it has a bias
  int64_t stride, depth;
  const int32_t* rows;         // [depth], of the large side's tile
};

// Batch normalisation, and a ReLU. Constants of a channel are repeated for each of its pixels: one loop then goes over
// all.
template <class C>
struct Normalise {
  int64_t size;                   // elements of a sample
  const C *mean, *scale, *shift;  // [size]
  bool relu;
  const C* u;
  const C* residual;  // may be absent
  C* y;
};

template <class C>
struct NormaliseBackward {
  int64_t size;
  const C *mean, *scale, *shift;
  bool relu;
  const C *u, *grad_y;
  const C *constant, *slope;  // [size]
};

// Every kernel works on rows [begin, end), whole blocks. C is the type the arithmetic is done in, float or double.
template <class C>
struct Kernels {
  void (*rsample_kl)(const RsampleKl&, int64_t begin, int64_t end);
  void (*rsample_kl_backward)(const RsampleKlBackward&, int64_t begin, int64_t end);
  void (*rsample_kl_cholesky)(const RsampleKlCholesky&, int64_t begin, int64_t end);
  void (*rsample_kl_cholesky_backward)(const RsampleKlCholeskyBackward&, int64_t begin, int64_t end);
  void (*gaussian_nll)(const GaussianNll&, int64_t begin, int64_t end);
  void (*gaussian_nll_backward)(const GaussianNllBackward&, int64_t begin, int64_t end);
  int64_t samples;  // of a block of these:
  void (*convolve)(const Convolve<C>&, int64_t block, int64_t begin, int64_t end, C* scratch);
  void (*convolve_backward)(const ConvolveBackward<C>&, const C* gradient, int64_t begin, int64_t end, double* sums,
                            C* scratch);
  void (*normalise)(const Normalise<C>&, int64_t begin, int64_t end);
  void (*normalise_sums)(const NormaliseBackward<C>&, int64_t begin, int64_t end, C* sums);
  void (*normalise_backward)(const NormaliseBackward<C>&, int64_t begin, int64_t end, C* to);
};

// An LSTM of sequences [batch, length, inputs], tile by tile of samples (cpu/lstm.h).
struct Lstm {
  int64_t length, inputs, hidden;
  const float* parameters;  // [4 hidden, inputs + hidden], of the inputs and of the state; [4 hidden] of both biases
  const float* x;
  float* y;     // [batch, length, hidden]
  float* kept;  // [tiles, steps_kept, kLstmKept, hidden, kLstmColumns]
  int64_t steps_kept;  // all of them, or one, if nobody asks for gradients
};

constexpr int64_t kLstmColumns = 64;
constexpr int64_t kLstmPitch = kLstmColumns + 16;  // rows a power of two apart would compete for the same sets of the cache
constexpr int64_t kLstmKept = 5;                   // of each step, for the backward pass: four gates, and the cell

// Scratch is of lstm_rows rows of kLstmPitch floats.
constexpr int64_t lstm_rows(int64_t inputs, int64_t hidden) { return inputs + 6 * hidden; }

struct LstmKernels {
  void (*forward)(const Lstm&, int64_t tile, int64_t begin, int64_t end, float* scratch);
  // Adds to the gradient of the parameters, which stands as these do.
  void (*backward)(const Lstm&, const float* grad_y, float* grad_x, int64_t tile, int64_t begin, int64_t end,
                   float* gradient, float* scratch);
};

// One training step of one model of an ensemble (cpu/ensemble.cpp). Its batch is cut into groups, the same whatever the
// number of threads; each group leaves the gradient of the mean loss, as far as its samples make it, and sums over
// them.
struct EnsembleStep {
  const Model* model;
  int64_t step;      // from 0
  double log_gamma;
  bool recorded;
};

struct EnsembleGroup {
  int64_t begin, end;  // samples of the batch
  float* gradient;     // [parameter_count]
  double* sums;        // [kSums + latents]: squared error, KL, and if recorded the variance ratios
  float* tile;         // a thread's own, [rows, kPitch]
};

constexpr int kSums = 2;
constexpr int64_t kColumns = 512;           // of a tile: samples worked on together
constexpr int64_t kRoundedTo = 64;          // columns, with some that only fill
constexpr int64_t kPitch = kColumns + 16;   // rows a power of two apart would compete for the same sets of the cache

struct EnsembleKernels {
  void (*squared_error)(const EnsembleStep&, const EnsembleGroup&);  // that alone
  void (*gradient)(const EnsembleStep&, const EnsembleGroup&);
  // Adam for parameters [begin, end), from the sum of the gradients [groups, parameter_count], and of log gamma, if it
  // is a parameter, from its own.
  void (*update)(const EnsembleStep&, const float* gradients, int64_t groups, float grad_log_gamma, int64_t begin,
                 int64_t end);
};

struct InstructionSet {
  const char* name;
  Kernels<float> f32;
  Kernels<double> f64;
  LstmKernels lstm;
  EnsembleKernels ensemble;
};

// The widest set this processor has, or the one chosen by use_instruction_set.
const InstructionSet& instruction_set();

// The names of those this processor can run, widest last.
int supported_instruction_sets(const char* names[3]);

// For tests. False when this processor cannot run it or the name is unknown.
bool use_instruction_set(const char* name);

}  // namespace manifold_core::cpu

// Of isa_<name>.cpp.
namespace manifold_core::portable { extern const cpu::InstructionSet instruction_set; }
namespace manifold_core::avx2 { extern const cpu::InstructionSet instruction_set; }
namespace manifold_core::avx512 { extern const cpu::InstructionSet instruction_set; }
