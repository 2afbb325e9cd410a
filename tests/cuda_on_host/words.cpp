// The device's random words, as they are before they become noise.
#include "../../csrc/cuda/noise.cuh"
#include "../../csrc/cuda/tensors.h"

#include <torch/csrc/stable/library.h>

namespace {

using namespace manifold_core;
using namespace manifold_core::cuda;

__global__ void write_blocks(const int64_t* inputs, int64_t* words, int64_t count) {
  const int64_t i = int64_t{blockIdx.x} * kThreads + threadIdx.x;
  if (i >= count) return;
  uint32_t in[6];
  for (int k = 0; k < 6; ++k) in[k] = static_cast<uint32_t>(inputs[6 * i + k]);
  const PhiloxBlock block = philox4x32_10(in[0], in[1], in[2], in[3], in[4], in[5]);
  for (int k = 0; k < 4; ++k) words[4 * i + k] = block.word[k];
}

__global__ void write_words(const int64_t* seed, uint64_t first_row, int64_t cols, int64_t* words) {
  const uint64_t row = blockIdx.x;
  for (int64_t col = 4 * threadIdx.x; col < cols; col += 4 * kThreads) {
    const PhiloxBlock block = noise_words(static_cast<uint64_t>(*seed), first_row + row, col);
    for (int k = 0; k < 4; ++k) words[row * cols + col + k] = block.word[k];
  }
}

const int64_t* numbers(const Tensor& t) { return static_cast<const int64_t*>(t.const_data_ptr()); }

// Words [n, 4] of n counters of four words, each with its key of two: inputs [n, 6], contiguous.
Tensor philox(const Tensor& inputs) {
  const int64_t count = inputs.size(0);
  const Tensor words = allocate(inputs, {count, 4}, ScalarType::Long);
  const int blocks = static_cast<int>((count + kThreads - 1) / kThreads);
  MC_LAUNCH(write_blocks, blocks, kThreads, nullptr, numbers(inputs), static_cast<int64_t*>(words.data_ptr()), count);
  return words;
}

// Words [rows, cols] of the noise; cols is a multiple of 4.
Tensor words_of(const Tensor& seed, int64_t first_row, int64_t rows, int64_t cols) {
  const Tensor words = allocate(seed, {rows, cols}, ScalarType::Long);
  MC_LAUNCH(write_words, static_cast<unsigned>(rows), kThreads, nullptr, numbers(seed),
            static_cast<uint64_t>(first_row), cols, static_cast<int64_t*>(words.data_ptr()));
  return words;
}

}  // namespace

STABLE_TORCH_LIBRARY_FRAGMENT(manifold_core_cuda_on_host, m) {
  m.def("philox(Tensor inputs) -> Tensor");
  m.def("noise_words(Tensor seed, int first_row, int rows, int cols) -> Tensor");
}

STABLE_TORCH_LIBRARY_IMPL(manifold_core_cuda_on_host, CPU, m) {
  m.impl("philox", TORCH_BOX(&philox));
  m.impl("noise_words", TORCH_BOX(&words_of));
}
