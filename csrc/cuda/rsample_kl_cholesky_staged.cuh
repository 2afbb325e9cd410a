// Full covariances of up to 128 dimensions whose rows are dense. A block copies the rows of its samples into shared
// memory as they are, where each thread reads its own line; asynchronous copies, from sm_80 on, bring the next samples
// while it works on these. No two lines i of a warp begin in the same bank, for i (i + 1) / 2 takes every value modulo
// a power of two once.
#pragma once

#include "rsample_kl_cholesky.cuh"

namespace manifold_core::cuda {

// What a thread copies at a time.
struct alignas(16) Piece {
  unsigned char bytes[16];
};

// Begins to copy from global to shared memory; done when the thread has waited for it.
__device__ __forceinline__ void begin_copy(void* to, const void* from) {
#if defined(__CUDA_ARCH__) && __CUDA_ARCH__ >= 800
  asm volatile("cp.async.cg.shared.global [%0], [%1], 16;"
               :
               : "r"(static_cast<unsigned>(__cvta_generic_to_shared(to))), "l"(from)
               : "memory");
#else
  *static_cast<Piece*>(to) = *static_cast<const Piece*>(from);
#endif
}

// Ends a group of copies, which may be empty.
__device__ __forceinline__ void end_group() {
#if defined(__CUDA_ARCH__) && __CUDA_ARCH__ >= 800
  asm volatile("cp.async.commit_group;" : : : "memory");
#endif
}

// Waits for all groups of this thread but the last `but`.
template <int but>
__device__ __forceinline__ void wait_for_groups() {
#if defined(__CUDA_ARCH__) && __CUDA_ARCH__ >= 800
  asm volatile("cp.async.wait_group %0;" : : "n"(but) : "memory");
#endif
}

// Space for a row in shared memory, aligned to its pieces as in global memory, wherever it begins there.
template <class S>
__host__ __device__ constexpr int64_t slot_bytes(int64_t packed) {
  constexpr int64_t piece = sizeof(Piece);
  return (packed * int64_t{sizeof(S)} + 2 * piece - 2) / piece * piece;
}

template <class S>
__device__ __forceinline__ int offset_in_piece(const S* address) {
  return static_cast<int>(reinterpret_cast<uintptr_t>(address) % sizeof(Piece) / sizeof(S));
}

// The rows of the samples that this block has at a time. Each is copied by the threads that share the sample.
template <class S>
class StagedRows {
 public:
  __device__ __forceinline__ StagedRows(const Matrix& from, const SampleGroup& group, int64_t rows, int packed,
                                        unsigned char* shared)
      : from_(from), group_(group), rows_(rows), packed_(packed),
        slot_(shared + group.sample * static_cast<int>(slot_bytes<S>(packed))),
        buffer_(group.samples * static_cast<int>(slot_bytes<S>(packed))) {}

  // The elements of this thread's sample, which is row `row` of the batch.
  __device__ __forceinline__ S* elements(int buffer, int64_t row) const {
    return reinterpret_cast<S*>(slot_ + buffer * buffer_) + offset_in_piece(element<S>(from_, row, 0));
  }

  // Begins to fill a buffer.
  __device__ __forceinline__ void fetch(int buffer, int64_t row) const {
    if (group_.sample < group_.samples && row < rows_) {
      copy(elements(buffer, row), element<S>(from_, row, 0), [](S* to, const S* from) { begin_copy(to, from); });
    }
    end_group();
  }

  // Copies what took the place of the elements to a matrix whose rows are dense.
  __device__ __forceinline__ void send(const S* from, int64_t row, const Matrix& m) const {
    if (group_.sample >= group_.samples || row >= rows_) return;
    S* const to = element<S>(m, row, 0);
    if (offset_in_piece(to) == offset_in_piece(from)) {
      copy(to, from, [](S* to, const S* from) {
        *reinterpret_cast<Piece*>(to) = *reinterpret_cast<const Piece*>(from);
      });
    } else {
      for (int i = group_.rank; i < packed_; i += group_.threads) to[i] = from[i];
    }
  }

 private:
  // Both have the same offset in a piece.
  template <class F>
  __device__ __forceinline__ void copy(S* to, const S* from, const F& copy_piece) const {
    constexpr int each = sizeof(Piece) / sizeof(S);
    const int before = (each - offset_in_piece(from)) % each, first = before < packed_ ? before : packed_;
    const int pieces = (packed_ - first) / each, alone = packed_ - pieces * each;
    for (int k = group_.rank; k < pieces; k += group_.threads) {
      copy_piece(to + first + k * each, from + first + k * each);
    }
    for (int k = group_.rank; k < alone; k += group_.threads) {
      const int i = k < first ? k : k + pieces * each;
      to[i] = from[i];
    }
  }

  const Matrix& from_;
  const SampleGroup& group_;
  int64_t rows_;
  int packed_;
  unsigned char* slot_;  // of this thread's sample in the first buffer
  int buffer_;           // bytes
};

// Calls work(elements, row) for all samples of the block in turn, of which `row` is this thread's, once its elements
// are in shared memory; prepare(first row of the block) a little before. With a barrier before work and after it.
template <class S, class Prepare, class Work>
__device__ __forceinline__ void for_staged_rows(const StagedRows<S>& staged, const SampleGroup& group, int64_t rows,
                                                int buffers, const Prepare& prepare, const Work& work) {
  const int64_t step = int64_t{gridDim.x} * group.samples;
  int buffer = 0;
  if (buffers > 1) staged.fetch(buffer, int64_t{blockIdx.x} * group.samples + group.sample);
  for (int64_t first = int64_t{blockIdx.x} * group.samples; first < rows; first += step) {
    const int64_t row = first + group.sample;
    if (buffers > 1) {
      staged.fetch(1 - buffer, row + step);
      prepare(first);
      wait_for_groups<1>();
    } else {
      staged.fetch(buffer, row);
      prepare(first);
      wait_for_groups<0>();
    }
    __syncthreads();
    work(staged.elements(buffer, row), row);
    __syncthreads();
    if (buffers > 1) buffer = 1 - buffer;
  }
}

// The noise of all samples of the block.
template <class C>
__device__ __forceinline__ void fill_noise_of_block(const SampleGroup& group, uint64_t seed, uint64_t first_row,
                                                    int cols, C* to) {
  const int fours = (cols + 3) / 4, sample = threadIdx.x / fours, col = 4 * (threadIdx.x % fours);
  if (sample >= group.samples) return;
  const Vec4<C> eps = noise<C>(seed, first_row + sample, col);
  *reinterpret_cast<AlignedVec4<C>*>(to + sample * group.threads + col) = {{eps[0], eps[1], eps[2], eps[3]}};
}

// Calls each(j, count, l, e) with the elements and the noise of columns [j, j + count) of line i, left of its diagonal.
// All lines of a warp take the same steps, of four columns; beyond its diagonal, a line has zeros.
template <class C, class S, class F>
__device__ __forceinline__ void for_columns(const S* line, const C* eps, int i, int cols, const F& each) {
  const int full = i / kWarp * kWarp;  // columns that all lines of the warp have
  const int end = full + kWarp < cols ? full + kWarp : cols;
  const auto four = [&](int j, int count) {
    const AlignedVec4<C> e = *reinterpret_cast<const AlignedVec4<C>*>(eps + j);
    C l[4];
#pragma unroll
    for (int k = 0; k < 4; ++k) l[k] = k < count ? widen<C>(line[j + k]) : C(0);
    each(j, count, l, e.at);
  };
#pragma unroll 2
  for (int j = 0; j < full; j += 4) four(j, 4);
#pragma unroll 2
  for (int j = full; j < end; j += 4) four(j, i - j);
}

template <class C, class S>
__global__ void __launch_bounds__(kThreads, 4) rsample_kl_cholesky_staged(const Cholesky a) {
  MC_DYNAMIC_SHARED(shared);
  __shared__ AlignedVec4<C> noise_of_block[kThreads / 4];
  __shared__ double ratios_of_block[kThreads];
  const SampleGroup group(a.split);
  const int cols = static_cast<int>(a.cols), i = group.rank;
  const bool busy = group.sample < group.samples && i < cols;
  const StagedRows<S> staged(a.tril, group, a.rows, cols * (cols + 1) / 2, shared);
  C* const noise = &noise_of_block[0].at[0];
  const C* const eps = noise + group.sample * group.threads;
  const uint64_t seed = static_cast<uint64_t>(*a.seed);
  LineSums<1> ratios(a.sum, group, a.cols, ratios_of_block, kThreads);
  const auto prepare = [&](int64_t first) { fill_noise_of_block(group, seed, a.first_row + first, cols, noise); };
  for_staged_rows(staged, group, a.rows, a.split.buffers, prepare, [&](const S* elements, int64_t row) {
    double kl = 0;
    if (busy && row < a.rows) {
      const S* const line = elements + i * (i + 1) / 2;
      const C factor = prior_factor<C>(a.prior_log_var, row, i);
      C product = 0, squares = 0;
      for_columns(line, eps, i, cols, [&](int, int, const C(&l)[4], const C(&e)[4]) {
#pragma unroll
        for (int k = 0; k < 4; ++k) {
          const C scaled = l[k] * factor;
          product += l[k] * e[k];
          squares += scaled * scaled;
        }
      });
      kl = static_cast<double>(finish_line(a, row, i, widen<C>(line[i]), factor, product, squares, eps[i], ratios));
    }
    finish_kl<C>(a, group, row, kl);
  });
  finish_ratios<C>(a, ratios);
}

// The gradients take the place of the elements.
template <class C, class S>
__global__ void __launch_bounds__(kThreads, 4) rsample_kl_cholesky_staged_backward(const CholeskyBackward a) {
  MC_DYNAMIC_SHARED(shared);
  __shared__ AlignedVec4<C> noise_of_block[kThreads / 4];
  __shared__ double sums_of_block[2 * kThreads];
  const SampleGroup group(a.split);
  const int cols = static_cast<int>(a.cols), i = group.rank;
  const bool busy = group.sample < group.samples && i < cols, with_z = a.grad_z.data != nullptr;
  const StagedRows<S> staged(a.tril, group, a.rows, cols * (cols + 1) / 2, shared);
  C* const noise = &noise_of_block[0].at[0];
  const C* const eps = noise + group.sample * group.threads;
  const uint64_t seed = static_cast<uint64_t>(*a.seed);
  LineSums<2> summed(a.sum, group, a.cols, sums_of_block, kThreads);
  if (!with_z) noise[threadIdx.x] = 0;
  const auto prepare = [&](int64_t first) {
    if (with_z) fill_noise_of_block(group, seed, a.first_row + first, cols, noise);
  };
  for_staged_rows(staged, group, a.rows, a.split.buffers, prepare, [&](S* elements, int64_t row) {
    if (busy && row < a.rows) {
      S* const line = elements + i * (i + 1) / 2;
      const LineGradient<C> gradient = start_line(a, row, i, widen<C>(line[i]), summed);
      const C k_factor = gradient.k * gradient.factor;
      C squares = 0;
      for_columns(line, eps, i, cols, [&](int j, int count, const C(&l)[4], const C(&e)[4]) {
#pragma unroll
        for (int k = 0; k < 4; ++k) {
          const C scaled = l[k] * gradient.factor;
          squares += scaled * scaled;
          if (k < count) line[j + k] = Narrow<S>::from(k_factor * scaled + gradient.g * e[k]);
        }
      });
      line[i] = Narrow<S>::from(gradient.diagonal + gradient.g * (gradient.root * eps[i]));
      finish_line(a, row, i, gradient, squares, summed);
    }
    __syncthreads();
    staged.send(elements, row, a.grad_tril);
  });
  finish_prior<C>(a, summed);
}

}  // namespace manifold_core::cuda
