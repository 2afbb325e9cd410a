// How much shared memory a block may have.
#include "cuda_runtime.h"

#include <torch/csrc/stable/library.h>

namespace {

void set_shared_limit(int64_t bytes) { cuda_on_host::shared_limit = static_cast<int>(bytes); }

}  // namespace

STABLE_TORCH_LIBRARY_FRAGMENT(manifold_core_cuda_on_host, m) { m.def("set_shared_limit(int bytes) -> ()"); }

STABLE_TORCH_LIBRARY_IMPL(manifold_core_cuda_on_host, CompositeExplicitAutograd, m) {
  m.impl("set_shared_limit", TORCH_BOX(&set_shared_limit));
}
