// One training step of a model, tile by tile: what the engine (cpu/ensemble.cpp) calls for a group of samples, and Adam.
#pragma once

#include "cpu/kernels.h"
#include "manifold_core/permutation.h"
#include "sample.h"

#include <cmath>

namespace manifold_core::MC_ISA {

// The samples of one tile: places [first, first + count) of the mini-batch, and columns that only fill the last panel.
class TileOfBatch {
 public:
  TileOfBatch(const cpu::EnsembleStep& step, const cpu::EnsembleGroup& group, int64_t first)
      : m_(*step.model),
        data_(reinterpret_cast<const float*>(m_.data)),
        width_(m_.features + m_.conditions),
        first_(first) {
    count_ = group.end - first < cpu::kColumns ? group.end - first : cpu::kColumns;
    const int64_t columns = (count_ + cpu::kRoundedTo - 1) / cpu::kRoundedTo * cpu::kRoundedTo;
    tile_ = {group.tile, cpu::kPitch, columns, reinterpret_cast<const float*>(m_.parameters), group.gradient};
    for (int64_t s = 0; s < columns; ++s) share_[s] = s < count_ ? 1.0f / static_cast<float>(m_.batch) : 0.0f;
    uint32_t at[cpu::kColumns];
    draw(step.step, at);
    gather(at);
  }

  // To x_hat. Adds the sums of what counts.
  void forward(double* kl, double* ratio) {
    alignas(64) float kl_of[cpu::kColumns] = {};
    for (int64_t i = 0; i < m_.sampled_after; ++i) MC_ISA::forward(m_.layers[i], tile_);
    (m_.below < 0 ? sample<false> : sample<true>)(m_, tile_, share_, kl_of, ratio);
    for (int64_t i = m_.sampled_after; i < m_.layer_count; ++i) MC_ISA::forward(m_.layers[i], tile_);
    *kl += sum(kl_of);
  }

  // The squared error; x_hat becomes its gradient.
  double squared_error(float inv_gamma) {
    alignas(64) float error[cpu::kColumns] = {}, scale[cpu::kColumns];
    for (int64_t s = 0; s < tile_.columns; ++s) scale[s] = inv_gamma * share_[s];
    for (int64_t i = 0; i < m_.features; ++i) {
      const float* const x = tile_.row(m_.x + i);
      float* const x_hat = tile_.row(m_.x_hat + i);
#pragma GCC ivdep
      for (int64_t s = 0; s < tile_.columns; ++s) {
        const float difference = x_hat[s] - x[s];
        error[s] += difference * difference;
        x_hat[s] = difference * scale[s];
      }
    }
    return sum(error);
  }

  void backward() {
    for (int64_t i = m_.layer_count - 1; i >= 0; --i) {
      const Dense& layer = m_.layers[i];
      if (i == m_.sampled_after - 1) (m_.below < 0 ? sample_backward<false> : sample_backward<true>)(m_, tile_);
      backward_parameters(layer, tile_);
      backward_inputs(layer, layer.producer < 0 ? nullptr : &m_.layers[layer.producer], tile_);
    }
  }

 private:
  // Over the columns that hold samples.
  double sum(const float* of) const {
    double total = 0;
#pragma omp simd reduction(+ : total)
    for (int64_t s = 0; s < count_; ++s) total += of[s];
    return total;
  }

  // Draws the noise, and meanwhile has the samples fetched from memory.
  void draw(int64_t step, uint32_t* at) {
    const int64_t per_epoch = m_.samples / m_.batch, blocks = (m_.latents + 3) / 4;
    places(Permutation(m_.seed, step / per_epoch, m_.samples), static_cast<uint32_t>(step % per_epoch * m_.batch + first_), at);
    for (int64_t s = count_; s < tile_.columns; ++s) at[s] = at[0];
    const PhiloxKeys keys(static_cast<uint64_t>(m_.seed) << 32 | static_cast<uint64_t>(step));
    for (int64_t block = 0; block < blocks; ++block) {
      // A few samples at a time: the processor waits when too many are on their way. Inlined by force: of a function
      // that only prefetches, GCC thinks that it does nothing.
      const auto fetch = [&](int64_t begin, int64_t end) __attribute__((always_inline)) {
        const int64_t done = block * tile_.columns;
        for (int64_t s = (done + begin) / blocks; s < (done + end) / blocks; ++s) {
          const char* const sample = reinterpret_cast<const char*>(data_ + at[s] * width_);
          for (int64_t byte = 0; byte < 4 * width_; byte += 64) __builtin_prefetch(sample + byte);
        }
      };
      fill_noise(keys, static_cast<uint32_t>(first_), static_cast<uint32_t>(block), m_.latents - 4 * block,
                 tile_.columns, tile_.row(m_.noise + 4 * block), tile_.pitch, fetch);
    }
    // Columns that only fill are copies of the first: what does not overflow there does not here.
    for (int64_t j = 0; j < m_.latents; ++j) {
      float* const noise = tile_.row(m_.noise + j);
      for (int64_t s = count_; s < tile_.columns; ++s) noise[s] = noise[0];
    }
  }

  void gather(const uint32_t* at) {
    for (int64_t first = 0; first < tile_.columns; first += kFloats) {
      int64_t i = 0;
      for (; i + kFloats <= width_; i += kFloats) {
        Floats v[kFloats];
        for (int s = 0; s < kFloats; ++s) v[s] = load(data_ + at[first + s] * width_ + i);
        transpose<float>(v);
        for (int j = 0; j < kFloats; ++j) store(row_of(i + j) + first, v[j]);
      }
      for (; i < width_; ++i) {
        float* const row = row_of(i) + first;
        for (int s = 0; s < kFloats; ++s) row[s] = data_[at[first + s] * width_ + i];
      }
    }
  }

  float* row_of(int64_t i) const { return tile_.row(i < m_.features ? m_.x + i : m_.condition + i - m_.features); }

  // The samples at these places of the epoch. What falls outside goes through the network again, those alone.
  void places(const Permutation& order, uint32_t first, uint32_t* at) const {
    uint32_t value[cpu::kColumns];
    int32_t whose[cpu::kColumns];
    for (int64_t s = 0; s < count_; ++s) {
      value[s] = first + static_cast<uint32_t>(s);
      whose[s] = static_cast<int32_t>(s);
    }
    for (int64_t left = count_; left > 0;) {
#pragma GCC ivdep
      for (int64_t s = 0; s < left; ++s) value[s] = order.once(value[s]);
      int64_t outside = 0;
      for (int64_t s = 0; s < left; ++s) {
        at[whose[s]] = value[s];
        value[outside] = value[s];
        whose[outside] = whose[s];
        outside += value[s] > order.last;
      }
      left = outside;
    }
  }

  const Model& m_;
  const float* const data_;  // [samples, width]
  const int64_t width_, first_;
  int64_t count_;
  ModelTile tile_;
  alignas(64) float share_[cpu::kColumns];  // of each sample in the mean over the batch
};

inline void squared_error(const cpu::EnsembleStep& step, const cpu::EnsembleGroup& group) {
  double error = 0, kl = 0;
  for (int64_t first = group.begin; first < group.end; first += cpu::kColumns) {
    TileOfBatch tile(step, group, first);
    tile.forward(&kl, nullptr);
    error += tile.squared_error(0);
  }
  group.sums[0] = error;
}

inline void gradient(const cpu::EnsembleStep& step, const cpu::EnsembleGroup& group) {
  const Model& m = *step.model;
  for (int64_t i = 0; i < m.parameter_count; ++i) group.gradient[i] = 0;
  for (int64_t i = 0; i < cpu::kSums + m.latents; ++i) group.sums[i] = 0;
  const float inv_gamma = static_cast<float>(std::exp(-step.log_gamma));
  for (int64_t first = group.begin; first < group.end; first += cpu::kColumns) {
    TileOfBatch tile(step, group, first);
    tile.forward(group.sums + 1, step.recorded ? group.sums + cpu::kSums : nullptr);
    group.sums[0] += tile.squared_error(inv_gamma);
    tile.backward();
  }
}

inline void update(const cpu::EnsembleStep& step, const float* gradients, int64_t groups, float grad_log_gamma,
                   int64_t begin, int64_t end) {
  const Model& m = *step.model;
  const float* const scheduled = reinterpret_cast<const float*>(m.schedule) + step.step * kScheduled;
  const float step_size = scheduled[0], of_log_gamma = scheduled[1];
  const float weight = scheduled[2], weight2 = scheduled[3], inv_root = scheduled[4];
  float* const parameters = reinterpret_cast<float*>(m.parameters);
  float* const exp_avg = reinterpret_cast<float*>(m.exp_avg);
  float* const exp_avg_sq = reinterpret_cast<float*>(m.exp_avg_sq);
  // The sums stay with their thread: what it wrote among the gradients, others would have to fetch for the next step.
  constexpr int64_t kStretch = 1024;
  alignas(64) float sums[kStretch];
  for (int64_t first = begin; first < end; first += kStretch) {
    const int64_t count = end - first < kStretch ? end - first : kStretch;
    for (int64_t i = 0; i < count; ++i) sums[i] = gradients[first + i];
    for (int64_t group = 1; group < groups; ++group) {
      const float* const other = gradients + group * m.parameter_count + first;
#pragma GCC ivdep
      for (int64_t i = 0; i < count; ++i) sums[i] += other[i];
    }
    const int64_t own = m.log_gamma - first;  // not among these if it is not a parameter
    const bool has_log_gamma = 0 <= own && own < count;
    if (has_log_gamma) sums[own] = grad_log_gamma;
    const float log_gamma = has_log_gamma ? parameters[m.log_gamma] : 0;  // which another thread may be writing
#pragma GCC ivdep
    for (int64_t i = 0; i < count; ++i) {
      const float g = sums[i];
      const float m1 = exp_avg[first + i] + weight * (g - exp_avg[first + i]);
      const float m2 = (1 - weight2) * exp_avg_sq[first + i] + weight2 * (g * g);
      exp_avg[first + i] = m1;
      exp_avg_sq[first + i] = m2;
      sums[i] = m1 / (std::sqrt(m2) * inv_root + kEpsilon);
    }
#pragma GCC ivdep
    for (int64_t i = 0; i < count; ++i) parameters[first + i] -= step_size * sums[i];
    if (has_log_gamma) parameters[m.log_gamma] = log_gamma - of_log_gamma * sums[own];
  }
}

}  // namespace manifold_core::MC_ISA
