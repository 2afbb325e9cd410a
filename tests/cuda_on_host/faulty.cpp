// Kernels with the faults that running them on the host is there to find.
#include "cuda_runtime.h"

#include <torch/csrc/stable/library.h>

#include <string>

namespace {

constexpr int kThreads = 64;

__global__ void faulty(const std::string& fault, int64_t* result) {
  __shared__ int64_t last;
  if (fault == "ends early" && threadIdx.x == 7) return;
  if (fault == "waits elsewhere" && threadIdx.x >= 32) {
    __syncthreads();
  } else {
    __syncthreads();
  }
  if (fault == "misses a shuffle" && threadIdx.x == 40) {
    __syncthreads();
  } else {
    *result = __shfl_xor_sync(0xffffffffu, int64_t{kThreads}, 1);
  }
  last = threadIdx.x;
  if (fault == "race") *result = last;
}

int64_t run_faulty(std::string fault) {
  int64_t result = 0;
  MC_LAUNCH(faulty, 1, kThreads, nullptr, fault, &result);
  return result;
}

}  // namespace

STABLE_TORCH_LIBRARY_FRAGMENT(manifold_core_cuda_on_host, m) { m.def("faulty(str fault) -> int"); }

STABLE_TORCH_LIBRARY_IMPL(manifold_core_cuda_on_host, CompositeExplicitAutograd, m) {
  m.impl("faulty", TORCH_BOX(&run_faulty));
}
