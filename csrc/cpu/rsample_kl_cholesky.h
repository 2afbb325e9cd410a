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

// Samples are worked on in groups that fill a tile, at least one. Here are arrays of one number for each latent of such a
// group: rows of `pitch`, whole blocks of noise, with room behind them for a last vector and the last of the noise.
template <class C, int count>
class GroupArrays {
 public:
  explicit GroupArrays(int64_t cols)
      : pitch((cols + 3) / 4 * 4),
        rows(pitch < kTile ? kTile / pitch : 1),
        length_((rows * pitch + 127) / 64 * 64),
        data_(static_cast<C*>(::operator new(sizeof(C) * static_cast<size_t>(count * length_), std::align_val_t{64}))) {
    memset(data_, 0, sizeof(C) * static_cast<size_t>(count * length_));
  }
  ~GroupArrays() { ::operator delete(data_, std::align_val_t{64}); }
  GroupArrays(const GroupArrays&) = delete;
  GroupArrays& operator=(const GroupArrays&) = delete;

  C* operator[](int i) const { return data_ + i * length_; }

  const int64_t pitch, rows;

 private:
  int64_t length_;
  C* data_;
};

// Calls f(rectangle) for groups of samples that cover rows [begin, end), their noise made.
template <class C, int count, class F>
MC_INLINE void for_each_group(const GroupArrays<C, count>& arrays, uint64_t seed, uint64_t first_row, int64_t begin,
                              int64_t end, int64_t cols, C* noise, const F& f) {
  const int64_t blocks = arrays.pitch / 4, fit = kTile / 4;
  const NoiseTile<C> tile(seed, arrays.rows, blocks < fit ? blocks : fit);
  for (int64_t row = begin; row < end; row += arrays.rows) {
    const int64_t height = end - row < arrays.rows ? end - row : arrays.rows;
    // Either some whole rows or parts of a single one.
    const int64_t all = height * blocks;
    for (int64_t block = 0; block < all; block += fit) {
      const int64_t some = all - block < fit ? all - block : fit;
      tile.fill(first_row + static_cast<uint64_t>(row), static_cast<uint64_t>(block), some, noise + 4 * block);
    }
    f(Rectangle{row, height, 0, cols, arrays.pitch});
  }
}

// The diagonals of a group: log L_jj.
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

// Packed elements that are worked on at a time: all of a triangle that can be read in place, else a tile.
template <class C>
MC_INLINE bool in_place(const Matrix& m) {
  return m.dtype == own_dtype<C> && m.col_stride == 1;
}

// Where in a triangle one is.
struct Corner {
  int64_t row = 0, col = 0;
};

// Calls f(row, col, n, at) for the pieces of the rows of L, without the diagonal, in the next `size` packed elements: n
// elements from (row, col) on, at index `at` among these. Where the diagonal is among these, f.diagonal(row, at) follows.
template <class Piece, class Diagonal>
MC_INLINE void for_each_piece(Corner& from, int64_t size, const Piece& piece, const Diagonal& diagonal) {
  for (int64_t at = 0; at < size;) {
    const int64_t left = from.row - from.col, n = left < size - at ? left : size - at;
    piece(from.row, from.col, n, at);
    at += n;
    from.col += n;
    if (at == size) return;
    diagonal(from.row, at);
    ++at;
    ++from.row;
    from.col = 0;
  }
}

// Sums over each row of L, below the diagonal: of L_ij noise_j, and of (L_ij scale_i)^2.
template <class C, bool with_products>
class RowSums {
 public:
  // Adds n elements of a row, from column col on.
  MC_INLINE void add(int64_t row, int64_t col, int64_t n, const C* l, const C* noise, C scale) {
    Vector<C>& product = product_[row % kWidth<C>];
    Vector<C>& square = square_[row % kWidth<C>];
    Vector<C> p = col == 0 ? Vector<C>{} : product, s = col == 0 ? Vector<C>{} : square;
    int64_t j = 0;
    const auto take = [&](Vector<C> v) {
      if constexpr (with_products) p += v * load(noise + j);
      v *= scale;
      s += v * v;
    };
    for (; j + kWidth<C> <= n; j += kWidth<C>) take(load(l + j));
    if (j < n) take(load_head(l + j, n - j));
    product = p;
    square = s;
  }

  // To be called at the end of each row: the sums go to products[row] and squares[row], with those of some rows before.
  MC_INLINE void finish(int64_t row, int64_t rows, C* products, C* squares) {
    if (row % kWidth<C> != kWidth<C> - 1 && row != rows - 1) return;
    const int64_t first = row / kWidth<C> * kWidth<C>;
    if constexpr (with_products) store(products + first, sum_each<C>(product_));
    store(squares + first, sum_each<C>(square_));
  }

 private:
  Vector<C> product_[kWidth<C>] = {}, square_[kWidth<C>] = {};
};

template <class C, bool has_prior>
void rsample_kl_cholesky_groups(const cpu::RsampleKlCholesky& a, int64_t begin, int64_t end) {
  const GroupArrays<C, 11> arrays(a.cols);
  C* const noise = arrays[0];
  C* const diagonal = arrays[1];
  C* const products = arrays[2];
  C* const squares = arrays[3];
  C* const scale = arrays[4];  // 1 / the prior's standard deviation
  C* const ratio = arrays[5];
  const int64_t packed = a.cols * (a.cols + 1) / 2, chunk = in_place<C>(a.tril) ? packed : kTile;
  Tile<C> tril_tile;
  RowSums<C, true> sums;
  for (int64_t i = 0; i < arrays.rows * arrays.pitch; ++i) scale[i] = C(1);
  for_each_group(arrays, a.seed, a.first_row, begin, end, a.cols, noise, [&](const Rectangle& at) {
    const C* const mu = read<C>(a.mu, at, arrays[6]);
    const C* const prior_mu = has_prior ? read<C>(a.prior.mu, at, arrays[7]) : nullptr;
    const C* const prior_log_var = has_prior ? read<C>(a.prior.log_var, at, arrays[8]) : nullptr;
    C* const z = target<C>(a.z, at, arrays[9]);
    C* const kl = a.kl_per_dimension ? target<C>(a.kl, at, arrays[10]) : arrays[10];
    const int64_t size = at.size();
    read_diagonal(a.tril, at, diagonal);
    if constexpr (has_prior) {
      for (int64_t i = 0; i < size; ++i) scale[i] = exponential(C(-0.5) * prior_log_var[i]).exp;
    }
    for (int64_t sample = 0; sample < at.rows; ++sample) {
      const int64_t begin_of_sample = sample * at.pitch;
      Corner corner;
      for (int64_t first = 0; first < packed; first += chunk) {
        const int64_t some = packed - first < chunk ? packed - first : chunk;
        const C* const l = read<C>(a.tril, Rectangle{at.row + sample, 1, first, some, some}, tril_tile);
        for_each_piece(
            corner, some,
            [&](int64_t row, int64_t col, int64_t n, int64_t where) {
              sums.add(row, col, n, l + where, noise + begin_of_sample + col, scale[begin_of_sample + row]);
            },
            [&](int64_t row, int64_t) {
              sums.finish(row, a.cols, products + begin_of_sample, squares + begin_of_sample);
            });
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
      ratio[i] = v.root * v.root + squares[i];
    }
    finish(a.z, at, z);
    if (a.variance_ratio) add_to_sums(a.variance_ratio, at, ratio);
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

template <class C, bool has_prior>
void rsample_kl_cholesky_backward_groups(const cpu::RsampleKlCholeskyBackward& a, int64_t begin, int64_t end) {
  const GroupArrays<C, 14> arrays(a.cols);
  C* const noise = arrays[0];
  C* const diagonal = arrays[1];
  C* const grad_diagonal = arrays[2];
  C* const squares = arrays[3];
  C* const scale = arrays[4];
  C* const weight = arrays[5];  // of L_ij scale_i in its gradient
  const int64_t packed = a.cols * (a.cols + 1) / 2;
  const int64_t chunk = in_place<C>(a.tril) && in_place<C>(a.grad_tril) ? packed : kTile;
  const bool with_squares = has_prior && a.grad_prior_log_var;
  Tile<C> tril_tile, grad_tril_tile;
  RowSums<C, false> sums;
  for (int64_t i = 0; i < arrays.rows * arrays.pitch; ++i) scale[i] = C(1);
  for_each_group(arrays, a.seed, a.first_row, begin, end, a.cols, noise, [&](const Rectangle& at) {
    const C* const mu = read<C>(a.mu, at, arrays[6]);
    const C* const prior_mu = has_prior ? read<C>(a.prior.mu, at, arrays[7]) : nullptr;
    const C* const prior_log_var = has_prior ? read<C>(a.prior.log_var, at, arrays[8]) : nullptr;
    // An absent gradient is an array of zeros.
    const C* const grad_z = a.grad_z.data ? read<C>(a.grad_z, at, arrays[9]) : arrays[9];
    const C* const grad_kl = a.grad_kl.data ? read<C>(a.grad_kl, at, arrays[10]) : arrays[10];
    C* const grad_mu = target<C>(a.grad_mu, at, arrays[11]);
    C* const grad_prior_mu = has_prior ? target<C>(a.grad_prior_mu, at, arrays[12]) : nullptr;
    C* const grad_prior_log_var = has_prior ? target<C>(a.grad_prior_log_var, at, arrays[13]) : nullptr;
    const int64_t size = at.size();
    read_diagonal(a.tril, at, diagonal);
#pragma GCC ivdep
    for (int64_t i = 0; i < size; ++i) {
      C sigma, d;
      Ratio<C> v;
      if constexpr (has_prior) {
        const C inv_scale = exponential(C(-0.5) * prior_log_var[i]).exp;
        const C scaled = (mu[i] - prior_mu[i]) * inv_scale;
        sigma = exponential(diagonal[i]).exp;
        v = variance_ratio(C(2) * diagonal[i], prior_log_var[i]);
        d = scaled * inv_scale;
        scale[i] = inv_scale;
        grad_prior_mu[i] = -(grad_kl[i] * d);
        grad_prior_log_var[i] = scaled * scaled + v.exp_minus_1;  // the squares are to come
      } else {
        v = variance(C(2) * diagonal[i]);
        sigma = v.root;
        d = mu[i];
      }
      weight[i] = grad_kl[i] * scale[i];
      grad_mu[i] = grad_z[i] + grad_kl[i] * d;
      grad_diagonal[i] = grad_z[i] * (sigma * noise[i]) + grad_kl[i] * v.exp_minus_1;
    }
    for (int64_t sample = 0; sample < at.rows; ++sample) {
      const int64_t begin_of_sample = sample * at.pitch;
      Corner corner;
      for (int64_t first = 0; first < packed; first += chunk) {
        const int64_t some = packed - first < chunk ? packed - first : chunk;
        const Rectangle here{at.row + sample, 1, first, some, some};
        const C* const l = read<C>(a.tril, here, tril_tile);
        C* const grad_l = target<C>(a.grad_tril, here, grad_tril_tile);
        for_each_piece(
            corner, some,
            [&](int64_t row, int64_t col, int64_t n, int64_t where) {
              const int64_t i = begin_of_sample + row;
              if (with_squares) sums.add(row, col, n, l + where, nullptr, scale[i]);
              const C g = grad_z[i], w = weight[i], s = scale[i];
              const C* const eps = noise + begin_of_sample + col;
              for (int64_t j = 0; j < n; j += kWidth<C>) {
                // A whole vector runs over the end of the row: what comes there is written later.
                const int64_t left = some - where - j;
                if (left >= kWidth<C>) {
                  store<C>(grad_l + where + j, g * load(eps + j) + load(l + where + j) * s * w);
                } else {
                  store_head(grad_l + where + j, left, g * load(eps + j) + load_head(l + where + j, left) * s * w);
                }
              }
            },
            [&](int64_t row, int64_t where) {
              grad_l[where] = grad_diagonal[begin_of_sample + row];
              if (with_squares) sums.finish(row, a.cols, nullptr, squares + begin_of_sample);
            });
        finish(a.grad_tril, here, grad_l);
      }
    }
    finish(a.grad_mu, at, grad_mu);
    if constexpr (has_prior) {
      for (int64_t i = 0; i < size; ++i) {
        grad_prior_log_var[i] = C(-0.5) * grad_kl[i] * (grad_prior_log_var[i] + squares[i]);
      }
      finish(a.grad_prior_mu, at, grad_prior_mu);
      finish(a.grad_prior_log_var, at, grad_prior_log_var);
    }
  });
}

template <class C>
void rsample_kl_cholesky_backward(const cpu::RsampleKlCholeskyBackward& a, int64_t begin, int64_t end) {
  if (a.cols == 0) return;
  const auto run = a.prior.mu.data ? rsample_kl_cholesky_backward_groups<C, true>
                                   : rsample_kl_cholesky_backward_groups<C, false>;
  run(a, begin, end);
}

}  // namespace manifold_core::MC_ISA
