// How kernels are launched: on how many threads and blocks.
#pragma once

#include <cuda_runtime.h>

#include <cstdint>

// A launch, and shared memory of a size that is known when it happens, are all that the CUDA language adds to C++
// without a function or a word of its own: tests run the kernels without a GPU by others.
#if defined(__CUDACC__)
#define MC_LAUNCH_SHARED(kernel, grid, block, shared, stream, ...) kernel<<<grid, block, shared, stream>>>(__VA_ARGS__)
#define MC_LAUNCH(kernel, grid, block, stream, ...) kernel<<<grid, block, 0, stream>>>(__VA_ARGS__)
#define MC_LAUNCH_TOGETHER(kernel, grid, block, shared, stream, argument) \
  ::manifold_core::cuda::launch_together(kernel, grid, block, shared, stream, argument)
#define MC_DYNAMIC_SHARED(name) extern __shared__ __align__(16) unsigned char name[]
#endif

namespace manifold_core::cuda {

#if defined(__CUDACC__)
// All blocks are on the device at once and can wait for each other. Refused if it has no room for them.
template <class Argument>
cudaError_t launch_together(void (*kernel)(Argument), unsigned blocks, unsigned threads, size_t shared,
                            cudaStream_t stream, Argument argument) {
  void* arguments[] = {&argument};
  return cudaLaunchCooperativeKernel(reinterpret_cast<const void*>(kernel), blocks, threads, arguments, shared, stream);
}
#endif

constexpr int kThreads = 256;     // of every block
constexpr int kReduceWidth = 32;  // blocks whose partial sums one of them adds up, and then groups of blocks
constexpr int kMostSummedBlocks = kReduceWidth * kReduceWidth;  // blocks of a kernel that sums over the batch
constexpr int64_t kBusyThreads = 1 << 17;  // that keep any device busy

// How many threads share a row: as many as leave few of them without work, and no more than a warp, which needs no
// barrier for its sum, unless a row is long; but if there are few rows, enough to keep a device busy.
inline int threads_a_row(int64_t rows, int64_t cols) {
  constexpr int64_t kLongRow = 512;
  const int64_t groups = (cols + 3) / 4;  // of four columns
  int threads = groups > kLongRow ? kThreads : 32;
  while (threads > 1 && 4 * ((groups + threads - 1) / threads * threads) > 5 * groups) threads /= 2;
  while (threads < kThreads && threads < groups && rows * threads < kBusyThreads) threads *= 2;
  return threads;
}

// The same if columns are summed over the batch: a thread keeps to one group, and its sums stay in registers, if a
// block is wide enough.
inline int threads_a_row_for_sums(int64_t cols) {
  int threads = 1;
  while (threads < kThreads && 4 * int64_t{threads} < cols) threads *= 2;
  return threads;
}

// Blocks of a kernel that works on this many rows. A batch sum needs one in any case, and not too many; it must not
// depend on the device, or the order of its additions would.
inline int blocks_for(int64_t rows, int64_t rows_a_block, bool summed) {
  const int64_t needed = (rows + rows_a_block - 1) / rows_a_block;
  const int64_t most = summed ? kMostSummedBlocks : int64_t{1} << 30;
  return static_cast<int>(needed < 1 ? 1 : needed > most ? most : needed);
}

inline int blocks(int64_t rows, int threads_a_row, bool summed) {
  return blocks_for(rows, kThreads / threads_a_row, summed);
}

}  // namespace manifold_core::cuda
