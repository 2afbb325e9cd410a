// z = (mu + sigma * noise) * w and KL[N(mu, sigma^2) || prior], and their gradients. The noise is made again for the
// gradient: storing it would cost more memory traffic than ten rounds of Philox.
#pragma once

#include "manifold_core/gaussian.h"
#include "noise.h"
#include "tile.h"

namespace manifold_core::MC_ISA {

// Calls f(rectangle, noise) for tiles that cover rows [begin, end): a few whole rows, or part of one long row. Each row
// is padded to whole blocks of four columns of noise; the padding is computed like the rest and thrown away.
template <class C, class F>
MC_INLINE void for_each_noise_tile(uint64_t seed, int64_t begin, int64_t end, int64_t cols, const F& f) {
  if (cols == 0) return;
  const int64_t fit = kTile / 4, row_blocks = (cols + 3) / 4;
  const int64_t blocks = row_blocks < fit ? row_blocks : fit;
  // Whole vectors: four rows of whole blocks are a multiple of 16 elements.
  const int64_t rows = fit / blocks >= 4 ? fit / blocks / 4 * 4 : fit / blocks;
  NoiseTile<C> noise(seed, row_blocks);
  for (int64_t row = begin; row < end; row += rows) {
    for (int64_t col = 0; col < cols; col += 4 * blocks) {
      const int64_t height = end - row < rows ? end - row : rows;
      const int64_t width = cols - col < 4 * blocks ? cols - col : 4 * blocks;
      f(Rectangle{row, height, col, width, (width + 3) / 4 * 4}, noise);
    }
  }
}

// The prior in one tile: its m and p are needed next to the mean and log variance of the posterior.
template <class C>
struct PriorTile {
  Tile<C> mu_tile = {}, log_var_tile = {};
  const C* mu = mu_tile.at;
  const C* log_var = log_var_tile.at;

  MC_INLINE void read(const cpu::Prior& prior, const Rectangle& at) {
    mu = MC_ISA::read<C>(prior.mu, at, mu_tile);
    log_var = MC_ISA::read<C>(prior.log_var, at, log_var_tile);
  }
};

template <class C, bool has_prior, bool has_gate>
void rsample_kl_tiles(const cpu::RsampleKl& a, int64_t begin, int64_t end) {
  Tile<C> mu_tile = {}, log_var_tile = {}, gate_tile = {}, z_tile, kl_tile, root, noise;
  PriorTile<C> prior;
  for_each_noise_tile<C>(a.seed, begin, end, a.cols, [&](const Rectangle& at, NoiseTile<C>& tile) {
    const C* const mu = read<C>(a.mu, at, mu_tile);
    const C* const log_var = read<C>(a.log_var, at, log_var_tile);
    if (has_prior) prior.read(a.prior, at);
    const C* const gate_logits = has_gate ? read<C>(a.gate_logits, at, gate_tile) : nullptr;
    C* const z = target<C>(a.z, at, z_tile);
    C* const kl = a.kl_per_dimension ? target<C>(a.kl, at, kl_tile) : kl_tile.at;
    const int64_t size = at.size();
    tile.fill(a.first_row + at.row, at.col / 4, size / 4, noise);
#pragma GCC ivdep
    for (int64_t i = 0; i < size; ++i) {
      C sigma, scaled;
      Ratio<C> v;
      if constexpr (has_prior) {
        sigma = exponential(C(0.5) * log_var[i]).exp;
        scaled = (mu[i] - prior.mu[i]) * exponential(C(-0.5) * prior.log_var[i]).exp;
        v = variance_ratio(log_var[i], prior.log_var[i]);
      } else {
        v = variance(log_var[i]);
        sigma = v.root;
        scaled = mu[i];
      }
      const C sample = mu[i] + sigma * noise[i];
      z[i] = has_gate ? sample * sigmoid(gate_logits[i]).weight : sample;
      kl[i] = kl_divergence(scaled, v);
      root[i] = v.root;
    }
    finish(a.z, at, z);
    if (a.variance_ratio) add_to_sums(a.variance_ratio, at, [&](int64_t i) { return square(root[i]); });
    if (a.kl_per_dimension) {
      finish(a.kl, at, kl);
      return;
    }
    for (int64_t i = 0; i < at.rows; ++i) {
      const C sum = row_sum(kl + i * at.pitch, at.cols);
      C* const out = element<C>(a.kl, at.row + i, 0);  // kl is always of the type of the arithmetic
      *out = at.col == 0 ? sum : *out + sum;
    }
  });
}

template <class C>
void rsample_kl(const cpu::RsampleKl& a, int64_t begin, int64_t end) {
  if (a.cols == 0 && !a.kl_per_dimension) {
    for (int64_t row = begin; row < end; ++row) *element<C>(a.kl, row, 0) = C(0);
  }
  const bool has_prior = a.prior.mu.data, has_gate = a.gate_logits.data;
  const auto run = has_prior ? (has_gate ? rsample_kl_tiles<C, true, true> : rsample_kl_tiles<C, true, false>)
                             : (has_gate ? rsample_kl_tiles<C, false, true> : rsample_kl_tiles<C, false, false>);
  run(a, begin, end);
}

template <class C, bool has_prior, bool has_gate, bool has_both>
void rsample_kl_backward_tiles(const cpu::RsampleKlBackward& a, int64_t begin, int64_t end) {
  Tile<C> mu_tile = {}, log_var_tile = {}, gate_tile = {}, grad_z_tile = {}, grad_kl_tile = {};
  Tile<C> grad_mu_tile, grad_log_var_tile, grad_prior_mu_tile, grad_prior_log_var_tile, grad_gate_tile, noise;
  PriorTile<C> prior;
  // The gradient of a mean is one value for all: read once.
  const bool uniform = a.grad_kl.data && a.grad_kl.row_stride == 0 && a.grad_kl.col_stride == 0;
  if (uniform && begin < end) read<C>(a.grad_kl, Rectangle{begin, 1, 0, kTile, kTile}, grad_kl_tile);
  for_each_noise_tile<C>(a.seed, begin, end, a.cols, [&](const Rectangle& at, NoiseTile<C>& tile) {
    const C* const mu = read<C>(a.mu, at, mu_tile);
    const C* const log_var = read<C>(a.log_var, at, log_var_tile);
    if (has_prior) prior.read(a.prior, at);
    const C* const gate_logits = has_gate ? read<C>(a.gate_logits, at, gate_tile) : nullptr;
    // An absent gradient is a tile of zeros, and what it would be multiplied by is not looked at: it may be infinite.
    const bool with_z = has_both || a.grad_z.data, with_kl = has_both || a.grad_kl.data;
    const C* const grad_z = a.grad_z.data ? read<C>(a.grad_z, at, grad_z_tile) : grad_z_tile.at;
    const C* const grad_kl = a.grad_kl.data && !uniform ? read<C>(a.grad_kl, at, grad_kl_tile) : grad_kl_tile.at;
    C* const grad_mu = target<C>(a.grad_mu, at, grad_mu_tile);
    C* const grad_log_var = target<C>(a.grad_log_var, at, grad_log_var_tile);
    C* const grad_prior_mu = has_prior ? target<C>(a.grad_prior_mu, at, grad_prior_mu_tile) : nullptr;
    C* const grad_prior_log_var = has_prior ? target<C>(a.grad_prior_log_var, at, grad_prior_log_var_tile) : nullptr;
    C* const grad_gate = has_gate ? target<C>(a.grad_gate_logits, at, grad_gate_tile) : nullptr;
    const int64_t size = at.size();
    tile.fill(a.first_row + at.row, at.col / 4, size / 4, noise);
#pragma GCC ivdep
    for (int64_t i = 0; i < size; ++i) {
      C sigma, pull;  // what KL adds to the gradient of mu
      Ratio<C> v;
      const C half = C(0.5) * grad_kl[i];  // first: the product must not overflow before it is halved
      if constexpr (has_prior) {
        const C inv_scale = with_kl ? exponential(C(-0.5) * prior.log_var[i]).exp : C(0);
        const C scaled = with_kl ? (mu[i] - prior.mu[i]) * inv_scale : C(0);
        sigma = exponential(C(0.5) * log_var[i]).exp;
        v = variance_ratio(log_var[i], prior.log_var[i]);
        v.root_minus_1 = with_kl ? v.root_minus_1 : C(0);
        pull = grad_kl[i] * scaled * inv_scale;
        grad_prior_mu[i] = -pull;
        grad_prior_log_var[i] = -(half * scaled * scaled + times_exp_minus_1(half, v));
      } else {
        v = variance(log_var[i]);
        v.root_minus_1 = with_kl ? v.root_minus_1 : C(0);
        sigma = v.root;
        pull = grad_kl[i] * mu[i];
      }
      const C spread = with_z ? sigma * noise[i] : C(0);
      C g = grad_z[i];
      if constexpr (has_gate) {
        const Gate<C> gate = sigmoid(gate_logits[i]);
        grad_gate[i] = g * (mu[i] + spread) * gate.slope;
        g *= gate.weight;
      }
      grad_mu[i] = g + pull;
      grad_log_var[i] = C(0.5) * g * spread + times_exp_minus_1(half, v);
    }
    finish(a.grad_mu, at, grad_mu);
    finish(a.grad_log_var, at, grad_log_var);
    if (has_prior) {
      finish(a.grad_prior_mu, at, grad_prior_mu);
      finish(a.grad_prior_log_var, at, grad_prior_log_var);
    }
    if (has_gate) finish(a.grad_gate_logits, at, grad_gate);
  });
}

template <class C, bool has_both>
void rsample_kl_backward_of(const cpu::RsampleKlBackward& a, int64_t begin, int64_t end) {
  const bool has_prior = a.prior.mu.data, has_gate = a.gate_logits.data;
  const auto run = has_prior ? (has_gate ? rsample_kl_backward_tiles<C, true, true, has_both>
                                         : rsample_kl_backward_tiles<C, true, false, has_both>)
                             : (has_gate ? rsample_kl_backward_tiles<C, false, true, has_both>
                                         : rsample_kl_backward_tiles<C, false, false, has_both>);
  run(a, begin, end);
}

template <class C>
void rsample_kl_backward(const cpu::RsampleKlBackward& a, int64_t begin, int64_t end) {
  const auto run = a.grad_z.data && a.grad_kl.data ? rsample_kl_backward_of<C, true> : rsample_kl_backward_of<C, false>;
  run(a, begin, end);
}

}  // namespace manifold_core::MC_ISA
