// What the kernels in csrc/cuda use of CUDA, for a C++ compiler and a processor without a GPU. This folder stands
// before CUDA's own in the search path; the sources of the kernels are compiled as they are.
//
// Every thread of a block is a fibre of its own stack. It runs until it comes to a barrier or a shuffle and goes on
// when all it waits for have come there, too; who ends or waits elsewhere is reported. Blocks, and threads between
// barriers, take turns in an order that is shuffled anew each time: a result that depends on it does not stay the same.
// Blocks that are launched together, to wait for each other, have a thread of this processor each.
#pragma once

#include <cmath>
#include <cstdint>
#include <cstring>
#include <functional>

#define __global__
#define __device__
#define __host__
#define __forceinline__ inline __attribute__((always_inline))
#define __launch_bounds__(...)
#define __shared__ static thread_local  // a thread runs one block at a time

struct dim3 {
  unsigned x = 1, y = 1, z = 1;
};

inline thread_local dim3 threadIdx, blockIdx, blockDim, gridDim;

struct alignas(16) float4 {
  float x, y, z, w;
};
inline float4 make_float4(float x, float y, float z, float w) { return {x, y, z, w}; }

namespace cuda_on_host {

// Runs the body once for each thread of each block. Throws std::runtime_error where threads part at a barrier, or the
// kernel wants more shared memory than it may have.
void launch(unsigned blocks, unsigned threads, size_t shared, const char* kernel, const std::function<void()>& body);

// The same, all blocks at once. False, and nothing is run: the device does not have room for so many.
bool launch_together(unsigned blocks, unsigned threads, size_t shared, const char* kernel,
                     const std::function<void()>& body);

// What the launch asked for, full of NaN when a block begins.
unsigned char* dynamic_shared();

inline int shared_limit = 227 << 10;  // bytes of a block
inline int multiprocessors = 3;       // each has room for one block
inline int taken = 0;                 // of these, by others
inline int capability = 9;

void wait_for_block(const char* file, int line);

// Lets other blocks go on. Does not return if one of them has failed.
void wait_for_others(const char* file, int line);

// The value that each lane of the warp brought, once all in the mask are here.
const uint64_t* exchange_in_warp(unsigned mask, uint64_t value, const char* file, int line);

}  // namespace cuda_on_host

#define MC_LAUNCH_SHARED(kernel, grid, block, shared, stream, ...) \
  ::cuda_on_host::launch(grid, block, shared, #kernel, [&] { kernel(__VA_ARGS__); })
#define MC_LAUNCH(kernel, grid, block, stream, ...) MC_LAUNCH_SHARED(kernel, grid, block, 0, stream, __VA_ARGS__)
#define MC_LAUNCH_TOGETHER(kernel, grid, block, shared, stream, argument) \
  (::cuda_on_host::launch_together(grid, block, shared, #kernel, [&] { kernel(argument); }) \
       ? cudaSuccess                                                                        \
       : cudaErrorCooperativeLaunchTooLarge)
#define MC_DYNAMIC_SHARED(name) unsigned char* const name = ::cuda_on_host::dynamic_shared()

inline void __syncthreads(const char* file = __builtin_FILE(), int line = __builtin_LINE()) {
  cuda_on_host::wait_for_block(file, line);
}

inline void __syncwarp(const char* file = __builtin_FILE(), int line = __builtin_LINE()) {
  cuda_on_host::exchange_in_warp(0xffffffffu, 0, file, line);
}

template <class T>
T __shfl_sync(unsigned mask, T value, int from, int width = 32, const char* file = __builtin_FILE(),
              int line = __builtin_LINE()) {
  static_assert(sizeof(T) <= sizeof(uint64_t), "as of CUDA");
  uint64_t bits = 0;
  memcpy(&bits, &value, sizeof(T));
  const uint64_t* const brought = cuda_on_host::exchange_in_warp(mask, bits, file, line);
  memcpy(&value, brought + (threadIdx.x % 32 / width * width + from % width), sizeof(T));
  return value;
}

template <class T>
T __shfl_xor_sync(unsigned mask, T value, int flip, const char* file = __builtin_FILE(), int line = __builtin_LINE()) {
  return __shfl_sync(mask, value, threadIdx.x % 32 ^ flip, 32, file, line);
}

inline void __threadfence() { __atomic_thread_fence(__ATOMIC_SEQ_CST); }

inline void __nanosleep(unsigned, const char* file = __builtin_FILE(), int line = __builtin_LINE()) {
  cuda_on_host::wait_for_others(file, line);
}

inline unsigned atomicAdd(unsigned* address, unsigned value) {
  return __atomic_fetch_add(address, value, __ATOMIC_SEQ_CST);
}

template <class T>
T __ldcg(const T* address) {
  return *address;
}

using cudaStream_t = void*;
enum cudaError_t { cudaSuccess, cudaErrorCooperativeLaunchTooLarge };

inline cudaError_t cudaMemsetAsync(void* to, int byte, size_t count, cudaStream_t) {
  memset(to, byte, count);
  return cudaSuccess;
}

enum cudaMemcpyKind { cudaMemcpyDeviceToHost, cudaMemcpyHostToDevice };
inline cudaError_t cudaMemcpyAsync(void* to, const void* from, size_t count, cudaMemcpyKind, cudaStream_t) {
  memcpy(to, from, count);
  return cudaSuccess;
}
inline cudaError_t cudaStreamSynchronize(cudaStream_t) { return cudaSuccess; }

inline cudaError_t cudaGetDevice(int* device) {
  *device = 0;
  return cudaSuccess;
}
enum cudaDeviceAttr {
  cudaDevAttrMaxSharedMemoryPerBlockOptin,
  cudaDevAttrMultiProcessorCount,
  cudaDevAttrCooperativeLaunch,
  cudaDevAttrComputeCapabilityMajor
};
inline cudaError_t cudaDeviceGetAttribute(int* value, cudaDeviceAttr which, int) {
  switch (which) {
    case cudaDevAttrMaxSharedMemoryPerBlockOptin: *value = cuda_on_host::shared_limit; break;
    case cudaDevAttrMultiProcessorCount: *value = cuda_on_host::multiprocessors; break;
    case cudaDevAttrCooperativeLaunch: *value = 1; break;
    case cudaDevAttrComputeCapabilityMajor: *value = cuda_on_host::capability; break;
  }
  return cudaSuccess;
}
enum cudaFuncAttribute { cudaFuncAttributeMaxDynamicSharedMemorySize };
template <class F>
cudaError_t cudaFuncSetAttribute(F, cudaFuncAttribute, int) {
  return cudaSuccess;
}

template <class F>
cudaError_t cudaOccupancyMaxActiveBlocksPerMultiprocessor(int* blocks, F, int, size_t) {
  *blocks = 1;
  return cudaSuccess;
}

inline cudaError_t cudaGetLastError() { return cudaSuccess; }
inline const char* cudaGetErrorString(cudaError_t) { return "no error"; }
