// z = (mu + sigma * noise) * w and KL[N(mu, sigma^2) || prior] on the rows of a tile, and their gradients. The math is
// that of rsample_kl.h; here the noise and what the gradient needs stay in the tile.
#pragma once

#include "cpu/kernels.h"
#include "cpu/noise.h"
#include "dense.h"
#include "manifold_core/gaussian.h"

namespace manifold_core::MC_ISA {

// Rows of noise of four latent dimensions; columns are the noise's rows from first_row on, places in a batch, whose high
// word is 0. Calls meanwhile(begin, end) for the columns between.
template <class F>
inline void fill_noise(const PhiloxKeys& keys, uint32_t first_row, uint32_t block, int64_t dimensions, int64_t columns,
                       float* rows, int64_t pitch, const F& meanwhile) {
  constexpr int64_t kStretch = cpu::kRoundedTo;
  const PhiloxStart of_block(keys, block, 0);
  uint32_t starts[4][kBlocksAtOnce], next[kBlocksAtOnce];
  for (int b = 0; b < kBlocksAtOnce; ++b) {
    for (int w = 0; w < 4; ++w) starts[w][b] = of_block.word[w];
    next[b] = static_cast<uint32_t>(b);
  }
  const uint32_t* const start[4] = {starts[0], starts[1], starts[2], starts[3]};
  for (int64_t column = 0; column < columns; column += kStretch) {
    alignas(64) uint32_t word[4][kStretch];
    for (int64_t s = 0; s < kStretch; s += kBlocksAtOnce) {
      meanwhile(column + s, column + s + kBlocksAtOnce);
      philox_words(keys, first_row + static_cast<uint32_t>(column + s), next, start,
                   [&](int64_t at, int w, Words words) { memcpy(word[w] + s + at, &words, sizeof(words)); });
    }
    for (int pair = 0; pair < 2 && 2 * pair < dimensions; ++pair) {
      alignas(64) float radius[kStretch];
      for (int64_t s = 0; s < kStretch; ++s) radius[s] = normal_radius<float>(word[2 * pair][s]);
      float* const first = rows + 2 * pair * pitch + column;
      float* const second = 2 * pair + 1 < dimensions ? first + pitch : radius;
      for (int64_t s = 0; s < kStretch; ++s) {
        float cosine, sine;
        cos_sin_uniform(word[2 * pair + 1][s], cosine, sine);
        const float r = radius[s];
        first[s] = r * cosine;
        second[s] = r * sine;
      }
    }
  }
}

// Row j of L, in units of its diagonal, against the noise, into `spread`; the sum of the squares left of the diagonal.
inline void standardised_row(const Model& m, const ModelTile& tile, int64_t j, float* spread, float* square) {
  const float* const own = tile.row(m.noise + j);
  for (int64_t s = 0; s < tile.columns; ++s) spread[s] = own[s];
  for (int64_t s = 0; s < tile.columns; ++s) square[s] = 0;
  for (int64_t k = 0; k < j; ++k) {
    const float* const below = tile.row(m.below + below_before(j) + k);
    const float* const noise = tile.row(m.noise + k);
#pragma GCC ivdep
    for (int64_t s = 0; s < tile.columns; ++s) {
      spread[s] += below[s] * noise[s];
      square[s] += below[s] * below[s];
    }
  }
}

// Writes z. In the place of mu, log_var (of a full covariance log L_jj and what stands left of it), and the prior's, the
// gradients of the mean KL; in the place of the noise, or in the room of a full covariance, d z / d log L_jj; of the
// gate's logits d z / d logit, and behind these w. Adds each column's KL to kl, and if ratio is given, the sums of
// sigma_q^2 / sigma_p^2 over the columns that count.
template <bool kFull>
inline void sample(const Model& m, const ModelTile& tile, const float* share, float* kl, double* ratio) {
  const int64_t room = kFull ? m.below + below_before(m.latents) : 0;
  for (int64_t j = 0; j < m.latents; ++j) {
    float* const mu = tile.row(m.mu + j);
    float* const log_var = tile.row(m.mu + m.latents + j);
    float* const spread = kFull ? tile.row(room + m.latents + j) : tile.row(m.noise + j);
    float* const scale = kFull ? tile.row(room + j) : nullptr;
    float* const z = tile.row(m.z + j);
    float* const prior_mu = m.prior < 0 ? nullptr : tile.row(m.prior + j);
    float* const prior_log_var = m.prior < 0 ? nullptr : tile.row(m.prior + m.latents + j);
    alignas(64) float variance_of[cpu::kColumns], square[cpu::kColumns];
    if constexpr (kFull) {
      standardised_row(m, tile, j, spread, square);
#pragma GCC ivdep
      for (int64_t s = 0; s < tile.columns; ++s) log_var[s] *= 2;
    }
    // k (sigma_q^2 / sigma_p^2 - 1), and the KL, of which a full covariance has more.
    const auto growth = [&](float k, const Ratio<float>& v, int64_t s) {
      return kFull ? times_exp_minus_1(k, v) + k * v.root * v.root * square[s] : times_exp_minus_1(k, v);
    };
    const auto divergence = [&](float scaled, const Ratio<float>& v, int64_t s) {
      return kFull ? kl_divergence(scaled, v) + 0.5f * (v.root * v.root * square[s]) : kl_divergence(scaled, v);
    };
    constexpr float kSlope = kFull ? 1.0f : 0.5f;  // by log L_jj, by log_var
    if (m.prior < 0) {
#pragma GCC ivdep
      for (int64_t s = 0; s < tile.columns; ++s) {
        const Ratio<float> v = variance(log_var[s]);
        if constexpr (kFull) scale[s] = v.root;
        spread[s] *= v.root;
        z[s] = mu[s] + spread[s];
        kl[s] += divergence(mu[s], v, s);
        variance_of[s] = v.root * v.root;
        mu[s] *= share[s];
        log_var[s] = growth(kSlope * share[s], v, s);
      }
    } else {
#pragma GCC ivdep
      for (int64_t s = 0; s < tile.columns; ++s) {
        const float inv_scale = exponential(-0.5f * prior_log_var[s]).exp;
        const float scaled = (mu[s] - prior_mu[s]) * inv_scale;
        const Ratio<float> v = variance_ratio(log_var[s], prior_log_var[s]);
        const float sigma = exponential(0.5f * log_var[s]).exp;
        if constexpr (kFull) scale[s] = sigma;
        spread[s] *= sigma;
        z[s] = mu[s] + spread[s];
        kl[s] += divergence(scaled, v, s);
        variance_of[s] = v.root * v.root;
        const float grad = share[s] * scaled * inv_scale, half = 0.5f * share[s];
        mu[s] = grad;
        prior_mu[s] = -grad;
        const float grown = growth(half, v, s);
        log_var[s] = 2 * kSlope * grown;
        prior_log_var[s] = -(half * scaled * scaled) - grown;
      }
    }
    if constexpr (kFull) {
      for (int64_t k = 0; k < j; ++k) {
        float* const below = tile.row(m.below + below_before(j) + k);
#pragma GCC ivdep
        for (int64_t s = 0; s < tile.columns; ++s) below[s] *= share[s] * variance_of[s];
      }
#pragma GCC ivdep
      for (int64_t s = 0; s < tile.columns; ++s) variance_of[s] += variance_of[s] * square[s];
    }
    if (m.gate >= 0) {
      float* const logit = tile.row(m.gate + j);
      float* const weight = tile.row(m.gate + m.latents + j);
#pragma GCC ivdep
      for (int64_t s = 0; s < tile.columns; ++s) {
        const Gate<float> gate = sigmoid(logit[s]);
        logit[s] = z[s] * gate.slope;
        weight[s] = gate.weight;
        z[s] *= gate.weight;
      }
    }
    if (ratio) {
      double sum = 0;
      for (int64_t s = 0; s < tile.columns; ++s) sum += share[s] != 0 ? variance_of[s] : 0.0f;
      ratio[j] += sum;
    }
  }
}

// The gradient of z has taken its place; those of mu, log_var, what stands in L left of the diagonal, and the gate's
// logits become whole.
template <bool kFull>
inline void sample_backward(const Model& m, const ModelTile& tile) {
  const int64_t room = kFull ? m.below + below_before(m.latents) : 0;
  for (int64_t j = 0; j < m.latents; ++j) {
    float* const grad_z = tile.row(m.z + j);
    const float* const spread = kFull ? tile.row(room + m.latents + j) : tile.row(m.noise + j);
    float* const mu = tile.row(m.mu + j);
    float* const log_var = tile.row(m.mu + m.latents + j);
    constexpr float kSlope = kFull ? 1.0f : 0.5f;
    if (m.gate >= 0) {
      float* const logit = tile.row(m.gate + j);
      const float* const weight = tile.row(m.gate + m.latents + j);
#pragma GCC ivdep
      for (int64_t s = 0; s < tile.columns; ++s) {
        logit[s] *= grad_z[s];
        grad_z[s] *= weight[s];
      }
    }
#pragma GCC ivdep
    for (int64_t s = 0; s < tile.columns; ++s) {
      mu[s] += grad_z[s];
      log_var[s] += kSlope * (grad_z[s] * spread[s]);
    }
    if constexpr (kFull) {
      const float* const scale = tile.row(room + j);
      alignas(64) float scaled[cpu::kColumns];
#pragma GCC ivdep
      for (int64_t s = 0; s < tile.columns; ++s) scaled[s] = grad_z[s] * scale[s];
      for (int64_t k = 0; k < j; ++k) {
        float* const below = tile.row(m.below + below_before(j) + k);
        const float* const noise = tile.row(m.noise + k);
#pragma GCC ivdep
        for (int64_t s = 0; s < tile.columns; ++s) below[s] += scaled[s] * noise[s];
      }
    }
  }
}

}  // namespace manifold_core::MC_ISA
