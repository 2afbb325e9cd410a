// z = mu + L * noise and KL[N(mu, L L^T) || prior], and their gradients. L is read once, in its packed rows, where it
// lies; the noise is made again for the gradient.
#pragma once

#include "manifold_core/gaussian.h"
#include "noise.h"
#include "rsample_kl.h"
#include "tile.h"
#include "vectors.h"

#include <new>

namespace manifold_core::MC_ISA {

// Arrays of zeros that no stack could hold for any number of latents; each is aligned to a cache line.
template <class C>
class Arrays {
 public:
  Arrays(int64_t count, int64_t length)
      : length_((length + 63) / 64 * 64), data_(static_cast<C*>(::operator new(bytes(count), kAlignment))) {
    memset(data_, 0, bytes(count));
  }
  ~Arrays() { ::operator delete(data_, kAlignment); }
  Arrays(const Arrays&) = delete;
  Arrays& operator=(const Arrays&) = delete;

  C* operator[](int64_t i) const { return data_ + i * length_; }

 private:
  static constexpr std::align_val_t kAlignment{64};

  size_t bytes(int64_t count) const { return sizeof(C) * static_cast<size_t>(count * length_); }

  int64_t length_;
  C* data_;
};

// Samples are worked on in groups of so many elements, at least one sample: with fewer the noise takes longer, with more
// the first triangles have left the L1 cache before the last are read.
constexpr int64_t kGroup = 256;

// Arrays of one element for each latent of a group: rows of `pitch`, whole blocks of noise, with room behind them for a
// last vector and the last of the noise.
template <class C>
class GroupArrays {
 public:
  GroupArrays(int64_t count, int64_t cols)
      : pitch((cols + 3) / 4 * 4), rows(pitch < kGroup ? kGroup / pitch : 1), memory_(count, rows * pitch + 64) {}

  C* operator[](int64_t i) const { return memory_[i]; }

  const int64_t pitch, rows;

 private:
  Arrays<C> memory_;
};

// Calls f(rectangle) for groups of samples that cover rows [begin, end), their noise made.
template <class C, class F>
MC_INLINE void for_each_group(const GroupArrays<C>& arrays, uint64_t seed, uint64_t first_row, int64_t begin,
                              int64_t end, int64_t cols, C* noise, const F& f) {
  const int64_t blocks = arrays.pitch / 4, fit = kTile / 4;
  NoiseTile<C> tile(seed, blocks);
  for (int64_t row = begin; row < end; row += arrays.rows) {
    const int64_t height = end - row < arrays.rows ? end - row : arrays.rows;
    // Either some whole rows or parts of a single one.
    const int64_t all = height * blocks;
    for (int64_t block = 0; block < all; block += fit) {
      const int64_t some = all - block < fit ? all - block : fit;
      tile.fill(first_row + static_cast<uint64_t>(row), block, some, noise + 4 * block);
    }
    f(Rectangle{row, height, 0, cols, arrays.pitch});
  }
}

// As many rows of L as a vector has lanes, from a multiple of that on: below the diagonal, each of them has the same
// number of whole vectors, and then as many elements as it has rows before it.
template <class C>
struct RowBlock {
  int64_t row, rows;

  RowBlock(int64_t from, int64_t cols) : row(from), rows(cols - from < kWidth<C> ? cols - from : kWidth<C>) {}

  static int64_t capacity(int64_t cols) { return kWidth<C> * (cols + 1); }

  // Its packed elements, of one sample.
  Rectangle of(int64_t sample) const {
    const int64_t size = rows * row + rows * (rows + 1) / 2;
    return {sample, 1, row * (row + 1) / 2, size, size};
  }
};

// Calls f(r) for the rows of a block. In a whole block each r is a constant, and with it where the row ends.
template <class C, class F>
MC_INLINE void for_each_row(const RowBlock<C>& block, const F& f) {
  if (block.rows == kWidth<C>) {
#pragma GCC unroll 16
    for (int64_t r = 0; r < kWidth<C>; ++r) f(r);
  } else {
    for (int64_t r = 0; r < block.rows; ++r) f(r);
  }
}

// Calls f(elements, j) for a row of L below the diagonal: whole vectors, then the rest, with zeros behind it.
template <class C, class F>
MC_INLINE void for_each_vector(const C* l, int64_t whole, int64_t rest, const F& f) {
  for (int64_t j = 0; j < whole; j += kWidth<C>) f(load(l + j), j);
  f(load_head(l + whole, rest), whole);
}

template <class C, bool has_prior>
void rsample_kl_cholesky_groups(const cpu::RsampleKlCholesky& a, int64_t begin, int64_t end) {
  const GroupArrays<C> arrays(11, a.cols);
  const Arrays<C> block_array(1, RowBlock<C>::capacity(a.cols));
  C* const noise = arrays[0];
  C* const diagonal = arrays[1];  // log L_jj
  C* const products = arrays[2];
  C* const squares = arrays[3];
  C* const scale = arrays[4];  // 1 / the prior's standard deviation
  C* const root = arrays[5];  // of the part of the variance ratio that is not in squares
  Vector<C> product_lanes[kWidth<C>] = {}, square_lanes[kWidth<C>] = {};
  for (int64_t i = 0; i < arrays.rows * arrays.pitch; ++i) scale[i] = C(1);
  for_each_group(arrays, a.seed, a.first_row, begin, end, a.cols, noise, [&](const Rectangle& at) {
    const C* const mu = read<C>(a.mu, at, arrays[6]);
    const C* const prior_mu = has_prior ? read<C>(a.prior.mu, at, arrays[7]) : nullptr;
    const C* const prior_log_var = has_prior ? read<C>(a.prior.log_var, at, arrays[8]) : nullptr;
    C* const z = target<C>(a.z, at, arrays[9]);
    C* const kl = a.kl_per_dimension ? target<C>(a.kl, at, arrays[10]) : arrays[10];
    const int64_t size = at.size();
    if constexpr (has_prior) {
      for (int64_t i = 0; i < size; ++i) scale[i] = exponential(C(-0.5) * prior_log_var[i]).exp;
    }
    for (int64_t sample = 0; sample < at.rows; ++sample) {
      const C* const eps = noise + sample * at.pitch;
      for (int64_t row = 0; row < at.cols; row += kWidth<C>) {
        const RowBlock<C> block(row, at.cols);
        const C* l = read<C>(a.tril, block.of(at.row + sample), block_array[0]);
        const int64_t i = sample * at.pitch + row;
        for_each_row(block, [&](int64_t r) __attribute__((always_inline)) {
          Vector<C> p = {}, s = {};
          for_each_vector(l, row, r, [&](Vector<C> v, int64_t j) {
            p += v * load(eps + j);
            if constexpr (has_prior) v *= scale[i + r];
            s += v * v;
          });
          product_lanes[r] = p;
          square_lanes[r] = s;
          diagonal[i + r] = l[row + r];
          l += row + r + 1;
        });
        // What comes behind the last row is written again, or never read.
        store(products + i, sum_each<C>(product_lanes));
        // The KL of a sample has all its squares, whichever latent they are with.
        const bool by_row = a.kl_per_dimension || a.variance_ratio || block.rows < kWidth<C>;
        store(squares + i, by_row ? sum_each<C>(square_lanes) : sum_all<C>(square_lanes));
      }
    }
#pragma GCC ivdep
    for (int64_t i = 0; i < size; ++i) {
      C sigma, scaled;
      Ratio<C> v;
      if constexpr (has_prior) {
        sigma = exponential(diagonal[i]).exp;
        scaled = (mu[i] - prior_mu[i]) * scale[i];
        v = variance_ratio(C(2) * diagonal[i], prior_log_var[i]);
      } else {
        v = variance(C(2) * diagonal[i]);
        sigma = v.root;
        scaled = mu[i];
      }
      z[i] = (mu[i] + sigma * noise[i]) + products[i];
      kl[i] = kl_divergence(scaled, v) + C(0.5) * squares[i];
      root[i] = v.root;
    }
    finish(a.z, at, z);
    if (a.variance_ratio) add_to_sums(a.variance_ratio, at, [&](int64_t i) { return square(root[i]) + squares[i]; });
    if (a.kl_per_dimension) {
      finish(a.kl, at, kl);
      return;
    }
    for (int64_t i = 0; i < at.rows; ++i) *element<C>(a.kl, at.row + i, 0) = row_sum(kl + i * at.pitch, at.cols);
  });
}

template <class C>
void rsample_kl_cholesky(const cpu::RsampleKlCholesky& a, int64_t begin, int64_t end) {
  if (a.cols == 0) {
    if (!a.kl_per_dimension) {
      for (int64_t row = begin; row < end; ++row) *element<C>(a.kl, row, 0) = C(0);
    }
    return;
  }
  const auto run = a.prior.mu.data ? rsample_kl_cholesky_groups<C, true> : rsample_kl_cholesky_groups<C, false>;
  run(a, begin, end);
}

// log L_jj of a group.
template <class C>
MC_INLINE void read_diagonal(const Matrix& tril, const Rectangle& at, C* to) {
  with_type(tril.dtype, [&](auto* type) {
    using S = std::remove_pointer_t<decltype(type)>;
    for (int64_t i = 0; i < at.rows; ++i) {
      const S* const from = element<S>(tril, at.row + i, 0);
      for (int64_t j = 0; j < at.cols; ++j) {
        to[i * at.pitch + j] = static_cast<C>(from[j * (j + 3) / 2 * tril.col_stride]);
      }
    }
  });
}

template <class C, bool has_prior, bool has_both>
void rsample_kl_cholesky_backward_groups(const cpu::RsampleKlCholeskyBackward& a, int64_t begin, int64_t end) {
  const GroupArrays<C> arrays(14, a.cols);
  const Arrays<C> block_arrays(2, RowBlock<C>::capacity(a.cols));
  C* const noise = arrays[0];
  C* const diagonal = arrays[1];
  C* const grad_diagonal = arrays[2];
  C* const squares = arrays[3];
  C* const scale = arrays[4];
  C* const weight = arrays[5];  // of L_ij scale_i in its gradient
  const bool with_squares = has_prior && a.grad_prior_log_var;
  Vector<C> square_lanes[kWidth<C>] = {};
  for (int64_t i = 0; i < arrays.rows * arrays.pitch; ++i) scale[i] = C(1);
  for_each_group(arrays, a.seed, a.first_row, begin, end, a.cols, noise, [&](const Rectangle& at) {
    const C* const mu = read<C>(a.mu, at, arrays[6]);
    const C* const prior_mu = has_prior ? read<C>(a.prior.mu, at, arrays[7]) : nullptr;
    const C* const prior_log_var = has_prior ? read<C>(a.prior.log_var, at, arrays[8]) : nullptr;
    // An absent gradient is an array of zeros, and what it would be multiplied by is not looked at: it may be infinite.
    const bool with_z = has_both || a.grad_z.data, with_kl = has_both || a.grad_kl.data;
    const C* const grad_z = a.grad_z.data ? read<C>(a.grad_z, at, arrays[9]) : arrays[9];
    const C* const grad_kl = a.grad_kl.data ? read<C>(a.grad_kl, at, arrays[10]) : arrays[10];
    C* const grad_mu = target<C>(a.grad_mu, at, arrays[11]);
    C* const grad_prior_mu = has_prior ? target<C>(a.grad_prior_mu, at, arrays[12]) : nullptr;
    C* const grad_prior_log_var = has_prior ? target<C>(a.grad_prior_log_var, at, arrays[13]) : nullptr;
    const int64_t size = at.size();
    read_diagonal(a.tril, at, diagonal);
#pragma GCC ivdep
    for (int64_t i = 0; i < size; ++i) {
      C sigma, pull;  // what KL adds to the gradient of mu
      Ratio<C> v;
      if constexpr (has_prior) {
        const C inv_scale = with_kl ? exponential(C(-0.5) * prior_log_var[i]).exp : C(0);
        const C scaled = with_kl ? (mu[i] - prior_mu[i]) * inv_scale : C(0);
        sigma = exponential(diagonal[i]).exp;
        v = variance_ratio(C(2) * diagonal[i], prior_log_var[i]);
        v.root_minus_1 = with_kl ? v.root_minus_1 : C(0);
        pull = grad_kl[i] * scaled * inv_scale;
        scale[i] = inv_scale;
        grad_prior_mu[i] = -pull;
        const C k = C(-0.5) * grad_kl[i];
        grad_prior_log_var[i] = k * scaled * scaled + times_exp_minus_1(k, v);  // the squares are to come
      } else {
        v = variance(C(2) * diagonal[i]);
        v.root_minus_1 = with_kl ? v.root_minus_1 : C(0);
        sigma = v.root;
        pull = grad_kl[i] * mu[i];
      }
      weight[i] = grad_kl[i] * scale[i];
      grad_mu[i] = grad_z[i] + pull;
      grad_diagonal[i] = grad_z[i] * (with_z ? sigma * noise[i] : C(0)) + times_exp_minus_1(grad_kl[i], v);
    }
    for (int64_t sample = 0; sample < at.rows; ++sample) {
      const C* const eps = noise + sample * at.pitch;
      for (int64_t row = 0; row < at.cols; row += kWidth<C>) {
        const RowBlock<C> block(row, at.cols);
        const Rectangle elements = block.of(at.row + sample);
        const C* l = read<C>(a.tril, elements, block_arrays[0]);
        C* const grad_block = target<C>(a.grad_tril, elements, block_arrays[1]);
        C* grad_l = grad_block;
        const C* const behind = grad_block + elements.cols;
        const int64_t i = sample * at.pitch + row;
        const Vector<C> diagonal_lanes = load(grad_diagonal + i);
        for (int64_t r = 0; r < block.rows; ++r) {
          const C g = grad_z[i + r], w = weight[i + r], s = has_prior ? scale[i + r] : C(1);
          if (with_squares) {
            Vector<C> sum = {};
            for_each_vector(l, row, r, [&](Vector<C> v, int64_t) { sum += (v * s) * (v * s); });
            square_lanes[r] = sum;
          }
          const auto gradient = [&](Vector<C> v, int64_t j) { return g * load(eps + j) + (has_prior ? v * s : v) * w; };
          for (int64_t j = 0; j < row; j += kWidth<C>) store<C>(grad_l + j, gradient(load(l + j), j));
          // A whole vector runs over the end of the row: what comes there is written later.
          if (behind - (grad_l + row) >= kWidth<C>) {
            store<C>(grad_l + row, with_lane<C>(gradient(load(l + row), row), r, diagonal_lanes));
          } else {
            store_head(grad_l + row, r + 1, with_lane<C>(gradient(load_head(l + row, r), row), r, diagonal_lanes));
          }
          l += row + r + 1;
          grad_l += row + r + 1;
        }
        if (with_squares) store(squares + i, sum_each<C>(square_lanes));
        finish(a.grad_tril, elements, grad_block);
      }
    }
    finish(a.grad_mu, at, grad_mu);
    if constexpr (has_prior) {
      for (int64_t i = 0; i < size; ++i) {
        grad_prior_log_var[i] += grad_kl[i] == C(0) ? C(0) : C(-0.5) * grad_kl[i] * squares[i];  // these may be infinite
      }
      finish(a.grad_prior_mu, at, grad_prior_mu);
      finish(a.grad_prior_log_var, at, grad_prior_log_var);
    }
  });
}

template <class C>
void rsample_kl_cholesky_backward(const cpu::RsampleKlCholeskyBackward& a, int64_t begin, int64_t end) {
  if (a.cols == 0) return;
  const bool has_prior = a.prior.mu.data, has_both = a.grad_z.data && a.grad_kl.data;
  const auto run = has_prior ? (has_both ? rsample_kl_cholesky_backward_groups<C, true, true>
                                         : rsample_kl_cholesky_backward_groups<C, true, false>)
                             : (has_both ? rsample_kl_cholesky_backward_groups<C, false, true>
                                         : rsample_kl_cholesky_backward_groups<C, false, false>);
  run(a, begin, end);
}

}  // namespace manifold_core::MC_ISA
