// Where a model has its memory.
#include "../../csrc/cuda/ensemble/layout.cuh"
#include "../../csrc/torch_target.h"

#include <torch/csrc/stable/library.h>
#include <torch/csrc/stable/tensor.h>

#include <cstring>
#include <vector>

namespace manifold_core::cuda {

namespace {

// Residency, columns of a tile, bytes of shared memory that a launch asks for, chunks, tiles a chunk, and floats of a layer
// that can be staged.
std::vector<int64_t> layout_of_words(torch::stable::Tensor words, int64_t limit) {
  Model model;
  memcpy(&model, words.const_data_ptr(), sizeof(Model));
  const Layout layout = layout_of(model, limit);
  return {static_cast<int64_t>(layout.residency), layout.columns, layout.shared, layout.chunks, layout.tiles_a_chunk,
          layout.staged};
}

}  // namespace

}  // namespace manifold_core::cuda

STABLE_TORCH_LIBRARY_FRAGMENT(manifold_core_cuda_on_host, m) { m.def("layout(Tensor words, int limit) -> int[]"); }

STABLE_TORCH_LIBRARY_IMPL(manifold_core_cuda_on_host, CPU, m) {
  m.impl("layout", TORCH_BOX(&manifold_core::cuda::layout_of_words));
}
