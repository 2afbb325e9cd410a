// Full covariances of few dimensions. The packed rows of all samples of a block lie together in memory: they are copied
// into shared memory as they are, and there each thread reads its own line. No two lines i of a warp begin in the same
// bank, for i (i + 1) / 2 takes every value modulo a power of two once.
#pragma once

#include "rsample_kl_cholesky.cuh"

namespace manifold_core::cuda {

// Shared memory of a block: rows of at most width (width + 1) / 2 numbers, and a line that is read past the last of them.
template <int width>
constexpr int kFlat = kThreads * (width + 1) / 2 + width;

// Copies n rows of `packed` numbers from `first` on: to shared memory, or from there to a matrix whose rows are dense.
template <class C, class S>
__device__ __forceinline__ void copy_rows(const Matrix& m, int64_t first, int n, int packed, C* to) {
  const bool dense = m.col_stride == 1 && m.row_stride == packed;
  if (std::is_same_v<S, Any> || !dense) {
    for (int at = threadIdx.x; at < n * packed; at += kThreads) {
      to[at] = load_one<C, S>(m, first + at / packed, at % packed);
    }
    return;
  }
  if constexpr (!std::is_same_v<S, Any>) {
    const S* const from = element<S>(m, first, 0);
    const bool by_four = reinterpret_cast<uintptr_t>(from) % sizeof(Four<S>) == 0;
    const int whole = by_four ? n * packed / 4 : 0;
#pragma unroll 4
    for (int at = threadIdx.x; at < whole; at += kThreads) {
      const Four<S> four = reinterpret_cast<const Four<S>*>(from)[at];
      *reinterpret_cast<Four<C>*>(to + 4 * at) = {
          {widen<C>(four.at[0]), widen<C>(four.at[1]), widen<C>(four.at[2]), widen<C>(four.at[3])}};
    }
    for (int at = 4 * whole + threadIdx.x; at < n * packed; at += kThreads) to[at] = widen<C>(from[at]);
  }
}

template <class C, class S>
__device__ __forceinline__ void copy_rows_back(const Matrix& m, int64_t first, int n, int packed, const C* from) {
  if constexpr (std::is_same_v<S, Any>) {
    for (int at = threadIdx.x; at < n * packed; at += kThreads) {
      store_one<C>(m, first + at / packed, at % packed, from[at]);
    }
  } else {
    S* const to = element<S>(m, first, 0);
    const bool by_four = reinterpret_cast<uintptr_t>(to) % sizeof(Four<S>) == 0;
    const int whole = by_four ? n * packed / 4 : 0;
    for (int at = threadIdx.x; at < whole; at += kThreads) {
      const Four<C> four = *reinterpret_cast<const Four<C>*>(from + 4 * at);
      reinterpret_cast<Four<S>*>(to)[at] = {{Narrow<S>::from(four.at[0]), Narrow<S>::from(four.at[1]),
                                             Narrow<S>::from(four.at[2]), Narrow<S>::from(four.at[3])}};
    }
    for (int at = 4 * whole + threadIdx.x; at < n * packed; at += kThreads) to[at] = Narrow<S>::from(from[at]);
  }
}

// One team a sample.
template <class C, class S, int width>
__global__ void __launch_bounds__(kThreads, sizeof(C) == 4 ? 4 : 1) rsample_kl_cholesky_short(const Cholesky a) {
  __shared__ Four<C> flat_of_block[(kFlat<width> + 3) / 4];
  __shared__ Four<C> noise_of_block[kThreads / 4];
  __shared__ double ratios_of_block[kThreads];
  const Place<width> at(width);
  const int cols = static_cast<int>(a.cols), packed = cols * (cols + 1) / 2, i = at.lane;
  C* const flat = &flat_of_block[0].at[0];
  const C* const line = flat + at.sample * packed + i * (i + 1) / 2;
  C* const eps = &noise_of_block[at.sample * width / 4].at[0];
  const uint64_t seed = static_cast<uint64_t>(*a.seed);
  LineSums<1> ratios(a.sum, at, a.cols, ratios_of_block, kThreads);
  for (int64_t first = int64_t{blockIdx.x} * at.samples; first < a.rows; first += int64_t{gridDim.x} * at.samples) {
    const int64_t row = first + at.sample, left = a.rows - first;
    __syncthreads();  // the numbers of before have been used
    copy_rows<C, S>(a.tril, first, left < at.samples ? static_cast<int>(left) : at.samples, packed, flat);
    fill_noise(at, seed, a.first_row + row, 0, cols, eps);
    __syncthreads();
    double kl = 0;
    if (i < cols && row < a.rows) {
      C product = 0, squares = 0;
#pragma unroll 4
      for (int j = 0; j < cols - 1; ++j) {  // of all lines: there is no end of a line to wait for
        const C l = j < i ? line[j] : C(0);
        product += l * eps[j];
        squares += l * l;
      }
      kl = static_cast<double>(finish_line(a, row, i, line[i], product, squares, eps[i], ratios));
    }
    finish_kl<C>(a, at, row, kl);
  }
  finish_ratios<C>(a, ratios);
}

template <class C, class S, int width>
__global__ void __launch_bounds__(kThreads, sizeof(C) == 4 ? 4 : 1)
    rsample_kl_cholesky_short_backward(const CholeskyBackward a) {
  __shared__ Four<C> flat_of_block[(kFlat<width> + 3) / 4];
  __shared__ Four<C> noise_of_block[kThreads / 4];
  __shared__ double sums_of_block[2 * kThreads];
  const Place<width> at(width);
  const int cols = static_cast<int>(a.cols), packed = cols * (cols + 1) / 2, i = at.lane;
  C* const flat = &flat_of_block[0].at[0];
  C* const line = flat + at.sample * packed + i * (i + 1) / 2;
  C* const eps = &noise_of_block[at.sample * width / 4].at[0];
  const uint64_t seed = static_cast<uint64_t>(*a.seed);
  const bool with_z = a.grad_z.data != nullptr;
  LineSums<2> summed(a.sum, at, a.cols, sums_of_block, kThreads);
  for (int64_t first = int64_t{blockIdx.x} * at.samples; first < a.rows; first += int64_t{gridDim.x} * at.samples) {
    const int64_t row = first + at.sample, left = a.rows - first;
    const int n = left < at.samples ? static_cast<int>(left) : at.samples;
    __syncthreads();  // the numbers of before are in memory
    copy_rows<C, S>(a.tril, first, n, packed, flat);
    if (with_z) {
      fill_noise(at, seed, a.first_row + row, 0, cols, eps);
    } else {
      eps[i] = 0;
    }
    __syncthreads();
    if (i < cols && row < a.rows) {
      const OfLine<C> of = start_line(a, row, i, line[i], summed);
      C squares = 0;
#pragma unroll 4
      for (int j = 0; j < cols - 1; ++j) {
        if (j >= i) continue;
        const C scaled = line[j] * of.factor;
        squares += scaled * scaled;
        line[j] = of.k * scaled * of.factor + of.g * eps[j];
      }
      line[i] = of.diagonal + of.g * (of.root * eps[i]);
      finish_line(a, row, i, of, squares, summed);
    }
    __syncthreads();
    copy_rows_back<C, S>(a.grad_tril, first, n, packed, flat);
  }
  finish_prior<C>(a, summed);
}

}  // namespace manifold_core::cuda
