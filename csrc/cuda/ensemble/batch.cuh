// What happens in a step besides the layers: drawing samples and noise, sampling from the posterior and its KL, the
// squared error; and their gradients.
//
// Columns of a tile behind the end of the mini-batch repeat its last sample, so that nothing overflows there which does
// not in the batch; whatever they would add to a sum or a gradient is left out.
#pragma once

#include "dense.cuh"
#include "manifold_core/permutation.h"
#include "../noise.cuh"
#include "../pair.cuh"

namespace manifold_core::cuda {

// A step and its mini-batch.
struct Step {
  int64_t number;     // from 0
  Permutation order;  // of its epoch
  int64_t position;   // of its first sample in the epoch
  uint64_t noise_seed;
  int batch;      // samples
  bool recorded;

  // By one thread.
  __device__ inline void begin(const Model& model) {
    const int64_t per_epoch = model.samples / model.batch;
    order = Permutation(static_cast<uint64_t>(model.seed), static_cast<uint64_t>(number / per_epoch),
                        static_cast<uint64_t>(model.samples));
    noise_seed = (static_cast<uint64_t>(model.seed) << 32) + static_cast<uint64_t>(number);
    position = number % per_epoch * model.batch;
    batch = static_cast<int>(model.batch);
    recorded = (number + 1) % model.record_every == 0 || number + 1 == model.steps;
  }
};

// Which samples of the mini-batch are in the tile.
struct BatchRange {
  int first, batch;

  __device__ __forceinline__ bool has(int column) const { return first + column < batch; }
  __device__ __forceinline__ int row(int column) const { return has(column) ? first + column : batch - 1; }
};

// A warp works on a row, each lane on columns of it.
template <class F>
__device__ __forceinline__ void for_each_row(int rows, const F& f) {
  for (int row = threadIdx.x / kWarp; row < rows; row += kWarps) f(row);
}

template <class F>
__device__ __forceinline__ void for_each_column(const Memory& m, const F& f) {
  for (int column = threadIdx.x % kWarp; column < m.columns; column += kWarp) f(column);
}

// Draws the samples, and their noise. A barrier has to follow.
__device__ __forceinline__ void draw(const Model& model, const Step& step, const BatchRange& range, const Memory& m,
                                     int* sample) {
  const int thread = threadIdx.x;
  if (thread < m.columns) {
    sample[thread] = static_cast<int>(step.order.at(static_cast<uint32_t>(step.position + range.row(thread))));
  }
  const int latents = static_cast<int>(model.latents), blocks = (latents + 3) / 4;
  for (int i = thread; i < blocks * m.columns; i += kThreads) {
    const int column = i % m.columns, latent = i / m.columns * 4;
    const Vec4<float> eps = noise<float>(step.noise_seed, range.row(column), latent);
#pragma unroll
    for (int k = 0; k < 4; ++k) {
      if (latent + k < latents) m.tile[(static_cast<int>(model.noise) + latent + k) * m.pitch + column] = eps[k];
    }
  }
}

// Copies their features and conditions to the tile. A barrier has to follow.
__device__ __forceinline__ void gather(const Model& model, const Memory& m, const int* sample) {
  const float* const data = reinterpret_cast<const float*>(model.data);
  const int features = static_cast<int>(model.features), width = features + static_cast<int>(model.conditions);
  const int x = static_cast<int>(model.x), condition = static_cast<int>(model.condition) - features;
  const int elements = width * m.columns;
  constexpr int kInFlight = 4;  // read before the first is written: they are far away
  for (int first = threadIdx.x; first < elements; first += kInFlight * kThreads) {
    float v[kInFlight];
    int to[kInFlight];
#pragma unroll
    for (int n = 0; n < kInFlight; ++n) {
      const int i = first + n * kThreads;
      if (i >= elements) continue;
      const int column = i / width, k = i % width;
      to[n] = ((k < features ? x : condition) + k) * m.pitch + column;
      v[n] = data[static_cast<int64_t>(sample[column]) * width + k];
    }
#pragma unroll
    for (int n = 0; n < kInFlight; ++n) {
      if (first + n * kThreads < elements) m.tile[to[n]] = v[n];
    }
  }
}

// z and the KL. What the backward pass needs besides the gradient of z takes the place of mu, log_var, the prior and
// the gate. Returns this thread's part of the KL's sum.
__device__ __forceinline__ float sample_forward(const Model& model, const BatchRange& range, const Chunk& chunk,
                                                const Memory& m) {
  const int latents = static_cast<int>(model.latents);
  const bool with_prior = model.prior >= 0, with_gate = model.gate >= 0;
  const int log_var_below = latents * m.pitch;  // likewise of the prior, and the gate's second half
  const float grad_kl = 1.0f / static_cast<float>(range.batch), half = 0.5f * grad_kl;
  float kl = 0;
  for_each_row(latents, [&](int latent) {
    float ratio = 0;
    for_each_column(m, [&](int column) {
      const auto element = [&](int64_t row) { return m.tile + (static_cast<int>(row) + latent) * m.pitch + column; };
      float* const mu = element(model.mu);
      float* const eps = element(model.noise);
      float* const prior = with_prior ? element(model.prior) : nullptr;
      const bool here = range.has(column);
      const float p = with_prior ? prior[log_var_below] : 0.0f;
      const Pair<float> pair = compare(with_prior, mu[0], mu[log_var_below], with_prior ? prior[0] : 0.0f, p);
      const float spread = pair.sigma * *eps, sample = mu[0] + spread;
      float z = sample;
      if (with_gate) {
        float* const logit = element(model.gate);
        const Gate<float> gate = sigmoid(logit[0]);
        z *= gate.weight;
        logit[0] = sample * gate.slope;
        logit[log_var_below] = gate.weight;
      }
      *element(model.z) = z;
      *eps = spread;
      kl += here ? kl_divergence(pair.scaled, pair.ratio) : 0.0f;
      ratio += here ? pair.ratio.root * pair.ratio.root : 0.0f;
      const float grad_mu = here ? grad_kl * pair.scaled * pair.prior_factor : 0.0f;
      const float grad_log_var = here ? times_exp_minus_1(half, pair.ratio) : 0.0f;
      mu[0] = grad_mu;
      mu[log_var_below] = grad_log_var;
      if (with_prior) {
        prior[0] = -grad_mu;
        prior[log_var_below] = here ? -(half * pair.scaled * pair.scaled + grad_log_var) : 0.0f;
      }
    });
    if (chunk.ratios != nullptr) {  // the same for all
      const double sum = sum_over_warp(static_cast<double>(ratio));
      if (threadIdx.x % kWarp == 0) chunk.add(chunk.ratios[latent], sum);
    }
  });
  return kl;
}

// From the gradient of z, which has taken its place, those of mu, log_var and the gate. A barrier has to follow.
__device__ __forceinline__ void sample_backward(const Model& model, const Memory& m) {
  const int latents = static_cast<int>(model.latents);
  const int log_var_below = latents * m.pitch;
  for_each_row(latents, [&](int latent) {
    for_each_column(m, [&](int column) {
      const auto element = [&](int64_t row) { return m.tile + (static_cast<int>(row) + latent) * m.pitch + column; };
      float gradient = *element(model.z);
      if (model.gate >= 0) {
        float* const gate = element(model.gate);
        gate[0] *= gradient;
        gradient *= gate[log_var_below];
      }
      float* const mu = element(model.mu);
      mu[0] += gradient;
      mu[log_var_below] += 0.5f * gradient * *element(model.noise);
    });
  });
}

// Returns this thread's part of the squared error; x_hat becomes its gradient, `scale` times the difference from x.
__device__ __forceinline__ float reconstruct(const Model& model, const BatchRange& range, const Memory& m,
                                             float scale) {
  float sum = 0;
  for_each_row(static_cast<int>(model.features), [&](int feature) {
    const float* const x = m.tile + (static_cast<int>(model.x) + feature) * m.pitch;
    float* const x_hat = m.tile + (static_cast<int>(model.x_hat) + feature) * m.pitch;
    for_each_column(m, [&](int column) {
      const float difference = range.has(column) ? x_hat[column] - x[column] : 0.0f;
      sum += difference * difference;
      x_hat[column] = scale * difference;
    });
  });
  return sum;
}

}  // namespace manifold_core::cuda
