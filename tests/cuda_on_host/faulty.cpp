// Kernels with the faults that running them on the host is there to find.
#include "../../csrc/torch_target.h"
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
  MC_DYNAMIC_SHARED(shared);
  if (fault == "writes behind" && threadIdx.x == 3) shared[64] = 0;
  last = threadIdx.x;
  if (fault == "race") *result = last;
}

struct Team {
  std::string fault;
  unsigned arrived = 0;
};

// Blocks that wait for each other.
__global__ void faulty_team(Team& team) {
  if (team.fault == "a block ends early" && blockIdx.x == 1 && threadIdx.x == 7) return;
  __syncthreads();
  if (threadIdx.x == 0) {
    atomicAdd(&team.arrived, 1u);
    while (*static_cast<volatile unsigned*>(&team.arrived) < gridDim.x) __nanosleep(20);
  }
  __syncthreads();
}

int64_t run_faulty(std::string fault) {
  int64_t result = 0;
  Team team{fault};
  const unsigned blocks = fault == "too many blocks" ? 4 : 3;
  if (MC_LAUNCH_TOGETHER(faulty_team, blocks, kThreads, 0, nullptr, team) != cudaSuccess) return -1;
  const int64_t shared = fault == "wants too much" ? int64_t{1} << 30 : 64;
  MC_LAUNCH_SHARED(faulty, 1, kThreads, shared, nullptr, fault, &result);
  return result;
}

}  // namespace

STABLE_TORCH_LIBRARY_FRAGMENT(manifold_core_cuda_on_host, m) { m.def("faulty(str fault) -> int"); }

STABLE_TORCH_LIBRARY_IMPL(manifold_core_cuda_on_host, CompositeExplicitAutograd, m) {
  m.impl("faulty", TORCH_BOX(&run_faulty));
}
