// Whole training steps of many small models, one or several blocks each: gather, forward, ELBO, backward, Adam. Each
// block has the parameters in shared memory if they fit there beside the tile; Adam's moments stay in the caller's
// memory. No sum depends on which thread comes first, or on how many blocks a model has.
#pragma once

#include "ensemble/batch.cuh"
#include "ensemble/parameters.cuh"

#include <cmath>

namespace manifold_core::cuda {

constexpr int kCounterStride = 32;  // so that each counter has its own cache line

struct EnsembleSteps {
  const int64_t* models;  // [models, kModelWords]
  const int64_t* chosen;  // those that this launch trains, in the order of their blocks
  int blocks_a_model;     // several wait for each other
  unsigned* arrived;      // a counter for each chosen model, kCounterStride apart; zero before the kernel starts
  int64_t steps;          // of each model, at most
  int64_t shared_limit;   // bytes that the device gives to a block
  const int64_t* scratch_offsets;  // of each chosen model
  float* scratch;
  float* tiles;           // of each block, if tiles do not fit in shared memory
  int64_t tile_stride;    // from one to the next
};

// The sums over the batch of a step, and what follows from them.
struct Loss {
  double nll, kl, squared_error;  // batch means
  double scaled;                  // squared error over gamma
  bool finite;
};

// What the threads of a block share besides parameters and tile.
struct SharedState {
  Model model;
  int64_t unused;  // with what follows 8 bytes earlier, ptxas 13.0 spills 24 bytes on sm_90
  Layout layout;
  Layer layers[kMostLayers];
  Team team;
  Chunk chunk;
  double squared_error[kWarps], kl[kWarps];  // of the chunk, one for each warp
  int sample[kMostColumns];
  Step step;
  Loss loss;
  int64_t end;  // the step before which to stop
  double log_gamma, inverse_gamma;
  float scale;  // of the gradient of x_hat: 1 / gamma, of the batch mean

  // By one thread: a GPU may have few units for double.
  __device__ inline void set_gamma(double new_log_gamma, double new_inverse_gamma) {
    log_gamma = new_log_gamma;
    inverse_gamma = new_inverse_gamma;
    scale = static_cast<float>(new_inverse_gamma / static_cast<double>(model.batch));
  }
};

// What follows from the model. By one thread.
__device__ inline void init_layers(SharedState& s) {
  const Model& m = s.model;
  const int columns = s.layout.columns;
  int offset = 0;
  for (int i = 0; i < m.layer_count; ++i) {
    const Dense& d = m.layers[i];
    Layer l;
    l.in = static_cast<int>(d.in);
    l.inputs = static_cast<int>(d.inputs);
    l.out = static_cast<int>(d.out);
    l.outputs = static_cast<int>(d.outputs);
    l.weights = offset;
    l.pitch = static_cast<int>(line_pitch(d.inputs));
    l.bias = offset + l.outputs * l.pitch;
    l.slope = l.bias + static_cast<int>(whole_fours(d.outputs));
    offset += static_cast<int>(padded_parameters(d));
    l.end = offset;
    l.activation = static_cast<int>(d.activation);
    l.before = static_cast<int>(d.before);
    l.wanted_from = static_cast<int>(d.wanted_from);
    l.producer = static_cast<int>(d.producer);
    l.rows_forward = best_rows(l.outputs, columns, 5, false);
    l.rows_backward = best_rows(l.inputs - l.wanted_from, columns, 4, true);
    l.slices = best_slices(l, columns);
    s.layers[i] = l;
  }
}

// What follows from the index of the block. By one thread.
__device__ inline void init_team(SharedState& s, const EnsembleSteps& a) {
  const int model = blockIdx.x / a.blocks_a_model;
  Team& team = s.team;
  team.member = static_cast<int>(blockIdx.x) % a.blocks_a_model;
  team.blocks = a.blocks_a_model;
  team.arrived = a.arrived + model * kCounterStride;
  team.awaited = 0;
  team.parameters = a.scratch + a.scratch_offsets[model];
  team.gradients = team.parameters + s.layout.parameters;
  team.sums = reinterpret_cast<double*>(team.gradients + s.layout.chunks * s.layout.parameters);
}

// blocks: that may share a multiprocessor, if their memory allows it, which bounds the registers of a thread.
struct AllShared {
  static constexpr int blocks = 2;
  static constexpr Residency residency = Residency::all_shared;
};
struct TileShared {
  static constexpr int blocks = 1;
  static constexpr Residency residency = Residency::tile_shared;
};
struct NoneShared {
  static constexpr int blocks = 1;
  static constexpr Residency residency = Residency::none_shared;
};

template <class Where>
__device__ __forceinline__ Memory memory_of(const SharedState& s, float* shared, float* tile) {
  Memory m;
  const bool own = Where::residency == Residency::all_shared;
  m.parameters = own ? shared : s.team.parameters;
  m.staging = shared;
  m.tile = Where::residency == Residency::none_shared ? tile : shared + (own ? s.layout.parameters : s.layout.staged);
  m.columns = s.layout.columns;
  m.pitch = static_cast<int>(row_pitch(m.columns));
  m.ones = static_cast<int>(s.model.rows);
  return m;
}

// By one warp. A barrier has to follow.
__device__ __forceinline__ void finish_loss(SharedState& s) {
  const double features = static_cast<double>(s.model.features);
  const int64_t width = sums_a_chunk(s.model);
  Loss loss;
  loss.squared_error = sum_of_chunks(s.team, s.layout.chunks, width, kError) / s.step.batch;
  loss.kl = sum_of_chunks(s.team, s.layout.chunks, width, kKl) / s.step.batch;
  if (threadIdx.x % kWarp != 0) return;
  loss.scaled = loss.squared_error * s.inverse_gamma;
  loss.nll = 0.5 * (loss.scaled + features * (kLog2Pi + s.log_gamma));
  // Gradients, in float, are not finite if either is not.
  loss.finite = fabsf(static_cast<float>(loss.nll + loss.kl)) < HUGE_VALF &&
                static_cast<float>(s.inverse_gamma) < HUGE_VALF;
  s.loss = loss;
}

// The optimal gamma becomes the step's. By one warp. A barrier has to follow.
__device__ __forceinline__ void use_optimal_gamma(SharedState& s) {
  const double sum = sum_of_chunks(s.team, s.layout.chunks, sums_a_chunk(s.model), kErrorForGamma);
  const double gamma = sum / static_cast<double>(s.model.batch * s.model.features);
  if (threadIdx.x % kWarp == 0) s.set_gamma(log(gamma), 1 / gamma);
}

__device__ __forceinline__ void write_record(const SharedState& s) {
  const int64_t width = kRecorded + s.model.latents;
  float* const record = reinterpret_cast<float*>(s.model.records) + s.step.number / s.model.record_every * width;
  if (threadIdx.x == 0) {
    record[0] = static_cast<float>(s.loss.nll);
    record[1] = static_cast<float>(s.loss.kl);
    record[2] = static_cast<float>(s.loss.squared_error);
    record[3] = static_cast<float>(s.log_gamma);
  }
  for (int i = threadIdx.x; i < s.model.latents; i += kThreads) {
    double ratio = 0;
    for (int c = 0; c < s.layout.chunks; ++c) ratio += __ldcg(s.team.sums + c * sums_a_chunk(s.model) + kRatios + i);
    record[kRecorded + i] = static_cast<float>(ratio / s.step.batch);
  }
}

// Adds each thread's value for a tile to the sum of its warp.
__device__ __forceinline__ void add_over_warp(const Chunk& chunk, double (&sums)[kWarps], float value) {
  const double sum = static_cast<double>(sum_over_warp(value));
  if (threadIdx.x % kWarp == 0) chunk.add(sums[threadIdx.x / kWarp], sum);
}

// One tile forwards, from the samples to the squared error.
template <class Where>
__device__ __forceinline__ void forward(SharedState& s, const BatchRange& range, const Memory& m) {
  draw(s.model, s.step, range, m, s.sample);
  __syncthreads();
  gather(s.model, m, s.sample);
  __syncthreads();
  for (int i = 0; i < static_cast<int>(s.model.layer_count); ++i) {
    if (i == static_cast<int>(s.model.sampled_after)) {
      add_over_warp(s.chunk, s.kl, sample_forward(s.model, range, s.chunk, m));
      __syncthreads();
    }
    const Layer& l = s.layers[i];
    stage<Where::residency>(l, s.layout, m);
    if (Where::residency != Residency::all_shared) __syncthreads();
    with_parameters<Where::residency>(l, s.layout, m, [&](const float* w) { dense_forward(l, w, m); });
    __syncthreads();
  }
  add_over_warp(s.chunk, s.squared_error, reconstruct(s.model, range, m, s.scale));
  __syncthreads();
}

// The same tile backwards.
template <class Where>
__device__ __forceinline__ void backward(const SharedState& s, const Memory& m) {
  for (int i = static_cast<int>(s.model.layer_count) - 1; i >= 0; --i) {
    const Layer& l = s.layers[i];
    const bool wanted = l.wanted_from < l.inputs;
    if (wanted) stage<Where::residency>(l, s.layout, m);
    dense_gradients(l, s.chunk, m);
    __syncthreads();
    if (wanted) {
      const Layer* const producer = l.producer < 0 ? nullptr : &s.layers[l.producer];
      with_parameters<Where::residency>(l, s.layout, m,
                                        [&](const float* w) { dense_backward(l, producer, w, s.chunk, m); });
      __syncthreads();
    }
    if (i == static_cast<int>(s.model.sampled_after)) {
      sample_backward(s.model, m);
      __syncthreads();
    }
  }
}

// The block's chunks forwards, and backwards unless `only_forward`. Writes their sums and gradients to the team's
// memory.
template <class Where>
__device__ __forceinline__ void work_on_chunks(SharedState& s, const Memory& m, bool only_forward) {
  const int samples = s.layout.tiles_a_chunk * m.columns;
  for (int chunk = s.team.member; chunk < s.layout.chunks; chunk += s.team.blocks) {
    double* const sums = s.team.sums + chunk * sums_a_chunk(s.model);
    if (threadIdx.x == 0) {  // which others read behind the next barrier
      s.chunk.gradients = s.team.gradients + chunk * s.layout.parameters;
      s.chunk.ratios = s.step.recorded && !only_forward ? sums + kRatios : nullptr;
      s.chunk.first = true;
    }
    BatchRange range{chunk * samples, s.step.batch};
    const int end = range.first + samples < range.batch ? range.first + samples : range.batch;
    for (; range.first < end; range.first += m.columns) {
      forward<Where>(s, range, m);
      if (!only_forward) backward<Where>(s, m);
      if (threadIdx.x == 0) s.chunk.first = false;
    }
    if (threadIdx.x == 0) {
      double squared_error = 0, kl = 0;
      for (int warp = 0; warp < kWarps; ++warp) {
        squared_error += s.squared_error[warp];
        kl += s.kl[warp];
      }
      sums[only_forward ? kErrorForGamma : kError] = squared_error;
      sums[kKl] = kl;
    }
  }
}

// Called by all threads; false, and nothing is changed, if the loss is not finite.
template <class Where>
__device__ __forceinline__ bool train_step(SharedState& s, const Memory& m) {
  const Model& model = s.model;
  Team& team = s.team;
  if (threadIdx.x == 0) s.step.begin(model);
  if (threadIdx.x == kWarp) {  // at the same time
    const float log_gamma = m.parameters[s.layout.parameters - 4];
    s.set_gamma(log_gamma, exp(-static_cast<double>(log_gamma)));
  }
  __syncthreads();
  if (model.gamma == kAnalytic) {  // the optimal gamma has to be known before the backward pass
    work_on_chunks<Where>(s, m, true);
    team.wait();
    if (threadIdx.x < kWarp) use_optimal_gamma(s);
    __syncthreads();
  }
  work_on_chunks<Where>(s, m, false);
  team.wait();
  if (threadIdx.x < kWarp) finish_loss(s);
  __syncthreads();
  if (!s.loss.finite) {
    if (threadIdx.x == 0 && team.member == 0) reinterpret_cast<int64_t*>(model.state)[1] = s.step.number + 1;
    return false;
  }
  if (s.step.recorded && team.member == 0) write_record(s);
  const double gradient = 0.5 * (static_cast<double>(model.features) - s.loss.scaled);
  adam(model, s.layers, s.layout, team, s.step.number, {static_cast<float>(gradient), static_cast<float>(s.log_gamma)});
  team.wait();
  copy_parameters<Where::residency>(s.layout, team, m);
  if (threadIdx.x == 0) ++s.step.number;
  __syncthreads();
  return true;
}

// For models of that residency.
template <class Where>
__global__ void __launch_bounds__(kThreads, Where::blocks) ensemble_steps(const EnsembleSteps a) {
  MC_DYNAMIC_SHARED(shared);
  __shared__ SharedState s;
  for (int i = threadIdx.x; i < kModelWords; i += kThreads) {
    reinterpret_cast<int64_t*>(&s.model)[i] = a.models[a.chosen[blockIdx.x / a.blocks_a_model] * kModelWords + i];
  }
  __syncthreads();
  const Model& model = s.model;
  if (threadIdx.x == 0) {
    s.layout = layout_of(model, a.shared_limit);
    init_layers(s);
    init_team(s, a);
  }
  __syncthreads();
  const int64_t* const state = reinterpret_cast<const int64_t*>(model.state);
  if (state[1] != 0) return;  // the same for all of a team
  const Memory m = memory_of<Where>(s, reinterpret_cast<float*>(shared), a.tiles + blockIdx.x * a.tile_stride);
  load_parameters(model, s.layers, s.layout, s.team);
  for (int i = threadIdx.x; i < m.pitch; i += kThreads) m.tile[m.ones * m.pitch + i] = 1;
  if (threadIdx.x == 0) {
    s.step.number = state[0];
    s.end = model.steps - state[0] < a.steps ? model.steps : state[0] + a.steps;
  }
  s.team.wait();
  copy_parameters<Where::residency>(s.layout, s.team, m);
  __syncthreads();
  while (s.step.number < s.end && train_step<Where>(s, m)) {
  }
  store_parameters(model, s.layers, s.layout, s.team);
  if (threadIdx.x == 0 && s.team.member == 0) reinterpret_cast<int64_t*>(model.state)[0] = s.step.number;
}

}  // namespace manifold_core::cuda
