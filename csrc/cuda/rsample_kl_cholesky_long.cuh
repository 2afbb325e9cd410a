// Full covariances of many dimensions, or of any type and stride. The warps that share a sample take 32 lines at a
// time. The lanes of a warp read a line side by side, and several lines before the first is used; the sums over the
// lines are then exchanged between lanes until each has those of its own line.
#pragma once

#include "rsample_kl_cholesky.cuh"

namespace manifold_core::cuda {

// The warps of such a group.
struct SampleWarps : SampleGroup {
  int warp, warps, lane;

  __device__ __forceinline__ explicit SampleWarps(const Split& split)
      : SampleGroup(split), warp(rank / kWarp), warps(threads / kWarp), lane(rank % kWarp) {}
};

// Generates columns [first, first + count) of the noise of the sample, and perhaps some more to a multiple of four, by
// the threads that share it.
template <class C>
__device__ __forceinline__ void fill_noise(const SampleGroup& group, uint64_t seed, uint64_t row, int first, int count,
                                           C* to) {
  for (int col = 4 * group.rank; col < count; col += 4 * group.threads) {
    const Vec4<C> eps = noise<C>(seed, row, first + col);
    *reinterpret_cast<AlignedVec4<C>*>(to + col) = {{eps[0], eps[1], eps[2], eps[3]}};
  }
}

// `count` sums over `width` lanes: a lane gets sum lane / (width / count). In each round a lane sends half of its
// values to the lane across and keeps the other half.
template <int width, int count, class C>
__device__ __forceinline__ C sums_over_lanes(const C (&v)[count], int lane) {
  if constexpr (count > 1) {
    const bool upper = (lane & (width / 2)) != 0;
    C half[count / 2];
#pragma unroll
    for (int k = 0; k < count / 2; ++k) {
      const C keep = upper ? v[k + count / 2] : v[k], give = upper ? v[k] : v[k + count / 2];
      half[k] = keep + __shfl_xor_sync(kAllLanes, give, width / 2);
    }
    return sums_over_lanes<width / 2>(half, lane);
  } else {
    C sum = v[0];
#pragma unroll
    for (int across = width / 2; across > 0; across /= 2) sum += __shfl_xor_sync(kAllLanes, sum, across);
    return sum;
  }
}

// Calls f with a null pointer of the type in which a packed matrix is stored.
template <class S, class F>
__device__ __forceinline__ void with_storage(const Matrix& m, const F& f) {
  if constexpr (std::is_same_v<S, Any>) {
    with_type(m.dtype, f);
  } else {
    f(static_cast<S*>(nullptr));
  }
}

// Where line top + r begins, seen from line top.
__device__ __forceinline__ int ahead(int top, int r) { return r * top + r * (r + 1) / 2; }

// Columns j < top + r of the lines top + r, r < count; 0 for others, and for lines that are not there. whole: all are.
template <int count, class C, class T>
__device__ __forceinline__ void load_lines(const T* start, int64_t step, int top, int lines, int j, bool whole,
                                           C (&l)[count]) {
  if (whole) {
#pragma unroll
    for (int r = 0; r < count; ++r) l[r] = widen<C>(start[(ahead(top, r) + j) * step]);
  } else {
#pragma unroll
    for (int r = 0; r < count; ++r) {
      l[r] = r < lines && j < top + r ? widen<C>(start[(ahead(top, r) + j) * step]) : C(0);
    }
  }
}

constexpr int kLines = 8;  // that are read before the first is used

// For the lines [top, top + kLines) the sums of L_ij eps_j over the columns j < i of [left, right), and behind them
// those of (L_ij factor)^2, each in the lanes that sums_over_lanes says. `left` is a multiple of 32. lines: how many
// there are, all others count as 0. factors: of these lines, read again for every column, since they do not fit into
// registers.
template <class C, class S>
__device__ __forceinline__ C sums_of_lines(const Matrix& tril, int64_t row, int top, int lines, int left, int right,
                                           const C* eps, const volatile C* factors, int lane) {
  constexpr int count = kLines;
  C v[2 * count] = {};
  with_storage<S>(tril, [&](auto* type) {
    using T = std::remove_pointer_t<decltype(type)>;
    const T* const start = element<T>(tril, row, int64_t{top} * (top + 1) / 2);
    const int64_t step = std::is_same_v<S, Any> ? tril.col_stride : 1;
    for (int first = left; first < right; first += kWarp) {
      const int j = first + lane;
      const C e = j < right ? eps[j - left] : C(0);
      C l[count];
      load_lines(start, step, top, lines, j, first + kWarp <= top && lines >= count, l);
#pragma unroll
      for (int r = 0; r < count; ++r) {
        const C scaled = l[r] * factors[r];
        v[r] += l[r] * e;
        v[r + count] += scaled * scaled;
      }
    }
  });
  return sums_over_lanes<kWarp>(v, lane);
}

template <class C, class S>
__global__ void __launch_bounds__(kThreads, sizeof(C) == 8 ? 1 : std::is_same_v<S, Any> ? 2 : 3)
    rsample_kl_cholesky_long(const Cholesky a) {
  __shared__ AlignedVec4<C> noise_of_block[kNoiseColumns / 4];
  __shared__ C factors_of_block[kThreads];  // of the lines of each warp
  __shared__ double ratios_of_block[kNoiseColumns];
  const SampleWarps group(a.split);
  const int cols = static_cast<int>(a.cols);
  const int capacity = kNoiseColumns / group.samples;  // columns of noise that a sample has at a time
  C* const eps = &noise_of_block[group.sample * capacity / 4].at[0];
  C* const factors = factors_of_block + threadIdx.x / kWarp * kWarp;
  const uint64_t seed = static_cast<uint64_t>(*a.seed);
  LineSums<1> ratios(a.sum, group, a.cols, ratios_of_block, kNoiseColumns);
  const int64_t step = int64_t{gridDim.x} * group.samples;
  for (int64_t first = int64_t{blockIdx.x} * group.samples; first < a.rows; first += step) {
    const int64_t row = first + group.sample;
    double kl = 0;
    for (int first_line = 0; first_line < cols; first_line += kWarp * group.warps) {
      const int top = first_line + kWarp * group.warp, i = top + group.lane;
      const int lines = row < a.rows ? cols - top : 0;
      const C factor = group.lane < lines ? prior_factor<C>(a.prior_log_var, row, i) : C(1);
      __syncwarp();  // those of the lines before have been used
      factors[group.lane] = factor;
      __syncwarp();
      C product = 0, squares = 0, mine = 0;
      for (int left = 0; left < cols && left < first_line + kWarp * group.warps; left += capacity) {
        if (cols > capacity || first_line == 0) {
          __syncthreads();  // the noise of before has been used
          fill_noise(group, seed, a.first_row + row, left, cols - left < capacity ? cols - left : capacity, eps);
          __syncthreads();
        }
        if (lines <= 0) continue;
        const int right = left + capacity < cols ? left + capacity : cols;
#pragma unroll 1
        for (int from = 0; from < kWarp && from < lines; from += kLines) {
          const int end = top + from + kLines;
          const C sum = sums_of_lines<C, S>(a.tril, row, top + from, lines - from, left, right < end ? right : end, eps,
                                            factors + from, group.lane);
          constexpr int each = kWarp / (2 * kLines);  // lanes that are left with the same sum
          const C first_sum = __shfl_sync(kAllLanes, sum, group.lane % kLines * each);
          const C second_sum = __shfl_sync(kAllLanes, sum, (kLines + group.lane % kLines) * each);
          if (group.lane / kLines != from / kLines) continue;
          product += first_sum;
          squares += second_sum;
        }
        if (i >= left && i < right) mine = eps[i - left];
      }
      if (group.lane >= lines) continue;
      const C t = load_one<C, S>(a.tril, row, int64_t{i} * (i + 3) / 2);
      kl += static_cast<double>(finish_line(a, row, i, t, factor, product, squares, mine, ratios));
    }
    finish_kl<C>(a, group, row, kl);
  }
  finish_ratios<C>(a, ratios);
}

// What all lanes need of a line: g, k factor, factor.
template <class C>
using LineCoefficients = AlignedVec4<C>;

// The gradients of the lines [top, top + kLines) in the columns [left, right), and if they are wanted for each the
// sum of (L_ij factor)^2, in the lanes that sums_over_lanes says. left, right and lines as above. coefficients: of
// these lines; diagonal: the gradient of log L_ii of the line that is this lane's own.
template <bool with_squares, class C, class S>
__device__ __forceinline__ C gradients_of_lines(const CholeskyBackward& a, int64_t row, int top, int lines, int left,
                                                int right, const C* eps, const LineCoefficients<C>* coefficients,
                                                C diagonal, int lane) {
  constexpr int count = kLines;
  C v[count] = {};
  with_storage<S>(a.tril, [&](auto* type) {
    using T = std::remove_pointer_t<decltype(type)>;
    const int64_t begin = int64_t{top} * (top + 1) / 2, step = std::is_same_v<S, Any> ? a.tril.col_stride : 1;
    const T* const start = element<T>(a.tril, row, begin);
    T* const to = element<T>(a.grad_tril, row, begin);  // dense
    for (int first = left; first < right; first += kWarp) {
      const int j = first + lane;
      const bool whole = first + kWarp <= top && lines >= count;
      const C e = a.grad_z.data != nullptr && j < right ? eps[j - left] : C(0);
      C l[count] = {};
      if (a.grad_kl.data != nullptr) load_lines(start, step, top, lines, j, whole, l);
#pragma unroll
      for (int r = 0; r < count; ++r) {
        const LineCoefficients<C> line = coefficients[r];
        const C scaled = l[r] * line.at[2];
        if constexpr (with_squares) v[r] += scaled * scaled;
        l[r] = line.at[1] * scaled + line.at[0] * e;
      }
      if (whole) {
#pragma unroll
        for (int r = 0; r < count; ++r) to[ahead(top, r) + j] = Narrow<T>::from(l[r]);
      } else {
#pragma unroll
        for (int r = 0; r < count; ++r) {  // in the column of its diagonal, a line is this lane's own
          if (r < lines && j <= top + r) {
            to[ahead(top, r) + j] = Narrow<T>::from(j == top + r ? diagonal : l[r]);
          }
        }
      }
    }
  });
  if constexpr (with_squares) return sums_over_lanes<kWarp>(v, lane);
  return 0;
}

// sums: 2 if the prior has gradients, which may have to be summed over the batch; else 0.
template <class C, class S, int sums>
__global__ void __launch_bounds__(kThreads, sizeof(C) == 8 ? 1 : std::is_same_v<S, Any> || sums > 0 ? 2 : 3)
    rsample_kl_cholesky_long_backward(const CholeskyBackward a) {
  constexpr bool with_squares = sums > 0;
  __shared__ AlignedVec4<C> noise_of_block[kNoiseColumns / 4];
  __shared__ LineCoefficients<C> coefficients_of_block[kThreads];
  __shared__ double sums_of_block[sums > 0 ? sums * kNoiseColumns : 1];
  const SampleWarps group(a.split);
  const int cols = static_cast<int>(a.cols), capacity = kNoiseColumns / group.samples;
  C* const eps = &noise_of_block[group.sample * capacity / 4].at[0];
  LineCoefficients<C>* const coefficients = coefficients_of_block + threadIdx.x / kWarp * kWarp;
  const uint64_t seed = static_cast<uint64_t>(*a.seed);
  LineSums<sums> summed(a.sum, group, a.cols, sums_of_block, kNoiseColumns);
  const int64_t step = int64_t{gridDim.x} * group.samples;
  for (int64_t first = int64_t{blockIdx.x} * group.samples; first < a.rows; first += step) {
    const int64_t row = first + group.sample;
    for (int first_line = 0; first_line < cols; first_line += kWarp * group.warps) {
      const int top = first_line + kWarp * group.warp, i = top + group.lane;
      const int lines = row < a.rows ? cols - top : 0;
      LineGradient<C> gradient;
      if (group.lane < lines) {
        gradient = start_line(a, row, i, load_one<C, S>(a.tril, row, int64_t{i} * (i + 3) / 2), summed);
      }
      __syncwarp();  // those of the lines before have been used
      coefficients[group.lane] = {{gradient.g, gradient.k * gradient.factor, gradient.factor, C(0)}};
      __syncwarp();
      C squares = 0;
      for (int left = 0; left < cols && left < first_line + kWarp * group.warps; left += capacity) {
        if (cols > capacity || first_line == 0) {
          __syncthreads();
          if (a.grad_z.data != nullptr) {
            fill_noise(group, seed, a.first_row + row, left, cols - left < capacity ? cols - left : capacity, eps);
          }
          __syncthreads();
        }
        if (lines <= 0) continue;
        const int right = left + capacity < cols ? left + capacity : cols;
        if (a.grad_z.data != nullptr && i >= left && i < right) {
          gradient.diagonal += gradient.g * (gradient.root * eps[i - left]);
        }
#pragma unroll 1
        for (int from = 0; from < kWarp && from < lines; from += kLines) {
          const int end = top + from + kLines;
          const C sum = gradients_of_lines<with_squares, C, S>(a, row, top + from, lines - from, left,
                                                               right < end ? right : end, eps, coefficients + from,
                                                               gradient.diagonal, group.lane);
          if constexpr (with_squares) {
            constexpr int each = kWarp / kLines;  // lanes that are left with the same sum
            const C line_sum = __shfl_sync(kAllLanes, sum, group.lane % kLines * each);
            if (group.lane / kLines == from / kLines) squares += line_sum;
          }
        }
      }
      if constexpr (with_squares) {
        if (group.lane < lines) finish_line(a, row, i, gradient, squares, summed);
      }
    }
  }
  if constexpr (with_squares) finish_prior<C>(a, summed);
}

}  // namespace manifold_core::cuda
