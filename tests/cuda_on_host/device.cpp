// What the device has: shared memory of a block, multiprocessors, some of which others may have taken, and the first
// number of its compute capability.
#include "../../csrc/torch_target.h"
#include "cuda_runtime.h"

#include <torch/csrc/stable/library.h>

namespace {

void set_device(int64_t shared_limit, int64_t multiprocessors, int64_t taken, int64_t capability) {
  cuda_on_host::shared_limit = static_cast<int>(shared_limit);
  cuda_on_host::multiprocessors = static_cast<int>(multiprocessors);
  cuda_on_host::taken = static_cast<int>(taken);
  cuda_on_host::capability = static_cast<int>(capability);
}

}  // namespace

STABLE_TORCH_LIBRARY_FRAGMENT(manifold_core_cuda_on_host, m) {
  m.def("set_device(int shared_limit, int multiprocessors, int taken, int capability=9) -> ()");
}

STABLE_TORCH_LIBRARY_IMPL(manifold_core_cuda_on_host, CompositeExplicitAutograd, m) {
  m.impl("set_device", TORCH_BOX(&set_device));
}
