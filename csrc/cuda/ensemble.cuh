// Whole training steps of many small models, a block of threads each: gather, forward, ELBO, backward, Adam. Parameters
// and the sums of their gradients stay in shared memory from the first step to the last where they fit there beside the
// tile; Adam's moments are the caller's. No sum depends on which thread comes first.
#pragma once

#include "ensemble_batch.cuh"
#include "ensemble_parameters.cuh"

#include <cmath>

namespace manifold_core::cuda {

// What a block knows of its model, besides its numbers.
struct Known {
  Model model;
  Layout layout;
  Layer layers[kMostLayers];
  int sample[kMostColumns];
  double inverse_gamma;
};

// Fills in what follows from the model. By one thread.
__device__ inline void place_layers(Known& s) {
  const Model& m = s.model;
  const int columns = s.layout.columns;
  int place = 0;
  for (int i = 0; i < m.layer_count; ++i) {
    const Dense& d = m.layers[i];
    Layer l;
    l.in = static_cast<int>(d.in);
    l.inputs = static_cast<int>(d.inputs);
    l.out = static_cast<int>(d.out);
    l.outputs = static_cast<int>(d.outputs);
    l.weights = place;
    l.pitch = static_cast<int>(line_pitch(d.inputs));
    l.bias = place + l.outputs * l.pitch;
    l.slope = l.bias + static_cast<int>(whole_fours(d.outputs));
    place += static_cast<int>(numbers_of(d));
    l.end = place;
    l.activation = static_cast<int>(d.activation);
    l.before = static_cast<int>(d.before);
    l.wanted_from = static_cast<int>(d.wanted_from);
    l.producer = static_cast<int>(d.producer);
    const int forward[] = {1, 2, 3, 4, 5, 6}, backward[] = {1, 2, 4};
    l.rows_forward = best_rows(l.outputs, columns, forward, 4);
    l.rows_backward = best_rows(l.inputs - l.wanted_from, columns, backward, 3);
    l.slices = best_slices(l, columns);
    s.layers[i] = l;
  }
}

struct AllShared {
  static constexpr Room room = Room::all_shared;
};
struct TileShared {
  static constexpr Room room = Room::tile_shared;
};
struct NoneShared {
  static constexpr Room room = Room::none_shared;
};

template <class Where>
__device__ __forceinline__ Memory memory_of(const Known& s, float* shared, float* scratch) {
  Memory m;
  const int64_t parameters = s.layout.parameters;
  m.parameters = Where::room == Room::all_shared ? shared : scratch;
  m.gradients = m.parameters + parameters;
  m.tile = Where::room == Room::tile_shared ? shared : m.gradients + parameters;
  m.columns = s.layout.columns;
  m.pitch = static_cast<int>(row_pitch(m.columns));
  m.ones = static_cast<int>(s.model.rows);
  return m;
}

// Works on the models whose memory lies so, and on no others.
template <class Where>
__global__ void __launch_bounds__(kThreads, 2) ensemble_steps(const EnsembleSteps a) {
  MC_DYNAMIC_SHARED(shared);
  __shared__ Known s;
  for (int i = threadIdx.x; i < kModelWords; i += kThreads) {
    reinterpret_cast<int64_t*>(&s.model)[i] = a.models[blockIdx.x * kModelWords + i];
  }
  __syncthreads();
  const Model& model = s.model;
  if (threadIdx.x == 0) {
    s.layout = layout_of(model, a.shared_limit);
    place_layers(s);
  }
  __syncthreads();
  int64_t* const state = reinterpret_cast<int64_t*>(model.state);
  const int64_t first_step = state[0];
  if (s.layout.room != Where::room || state[1] != 0) return;  // the same for all
  const int64_t last_step = model.steps - first_step < a.steps ? model.steps : first_step + a.steps;
  const Memory m = memory_of<Where>(s, reinterpret_cast<float*>(shared), a.scratch + blockIdx.x * a.scratch_of_model);
  double* const ratios = reinterpret_cast<double*>(m.tile + (model.rows + 1) * m.pitch);
  float* const log_gamma_place = m.parameters + s.layout.parameters - 4;
  const int batch = static_cast<int>(model.batch), layer_count = static_cast<int>(model.layer_count);
  const int64_t per_epoch = model.samples / batch;
  const double inv_batch = 1.0 / batch, features = static_cast<double>(model.features);
  load_parameters(model, s.layers, s.layout, m);
  for (int i = threadIdx.x; i < m.pitch; i += kThreads) m.tile[m.ones * m.pitch + i] = 1;
  __syncthreads();
  int64_t step = first_step;
  for (; step < last_step; ++step) {
    const bool recorded = (step + 1) % model.record_every == 0 || step + 1 == model.steps;
    for (int i = threadIdx.x; i < s.layout.parameters; i += kThreads) m.gradients[i] = 0;
    for (int i = threadIdx.x; i < model.latents; i += kThreads) ratios[i] = 0;
    double log_gamma = *log_gamma_place;
    if (threadIdx.x == 0) s.inverse_gamma = exp(-log_gamma);
    Part part;
    part.epoch = static_cast<uint64_t>(step / per_epoch);
    part.place = step % per_epoch * batch;
    part.noise_seed = (static_cast<uint64_t>(model.seed) << 32) + static_cast<uint64_t>(step);
    part.batch = batch;
    double squared_error = 0, kl = 0;
    // The optimal gamma has to be known before the way back begins: a pass only forwards comes first.
    for (int pass = model.gamma == kAnalytic ? 0 : 1; pass < 2; ++pass) {
      const bool and_back = pass == 1;
      squared_error = 0;
      kl = 0;
      for (part.first = 0; part.first < batch; part.first += m.columns) {
        draw(model, part, m, s.sample);
        __syncthreads();
        gather(model, m, s.sample);
        __syncthreads();
        for (int i = 0; i < layer_count; ++i) {
          if (i == model.sampled_after) {
            kl += sample_forward(model, part, m, recorded && and_back ? ratios : nullptr);
            __syncthreads();
          }
          dense_forward(s.layers[i], m);
          __syncthreads();
        }
        squared_error += reconstruct(model, part, m, static_cast<float>(s.inverse_gamma * inv_batch));
        __syncthreads();
        for (int i = layer_count - 1; i >= 0 && and_back; --i) {
          const Layer& l = s.layers[i];
          dense_gradients(l, m);
          __syncthreads();
          if (l.wanted_from < l.inputs) {
            dense_backward(l, l.producer < 0 ? nullptr : &s.layers[l.producer], m);
            __syncthreads();
          }
          if (i == model.sampled_after) {
            sample_backward(model, m);
            __syncthreads();
          }
        }
      }
      squared_error = sum_over_threads(squared_error, kThreads) * inv_batch;  // batch means from here on
      if (!and_back) {
        log_gamma = log(squared_error / features);
        if (threadIdx.x == 0) s.inverse_gamma = features / squared_error;
        __syncthreads();
      }
    }
    kl = sum_over_threads(kl, kThreads) * inv_batch;
    const double scaled = squared_error * s.inverse_gamma;
    const double nll = 0.5 * (scaled + features * (kLog2Pi + log_gamma));
    if (!(fabs(nll + kl) < HUGE_VAL)) {
      if (threadIdx.x == 0) state[1] = step + 1;
      break;
    }
    if (recorded) {
      float* const record = reinterpret_cast<float*>(model.records) + step / model.record_every * (kRecorded + model.latents);
      const double numbers[kRecorded] = {nll, kl, squared_error, log_gamma};
      if (threadIdx.x == 0) {
        for (int i = 0; i < kRecorded; ++i) record[i] = static_cast<float>(numbers[i]);
      }
      for (int i = threadIdx.x; i < model.latents; i += kThreads) {
        record[kRecorded + i] = static_cast<float>(ratios[i] * inv_batch);
      }
    }
    if (model.gamma == kAnalytic && threadIdx.x == 0) *log_gamma_place = static_cast<float>(log_gamma);
    if (model.gamma == kLearned && threadIdx.x == 0) {
      log_gamma_place[s.layout.parameters] = static_cast<float>(0.5 * (features - scaled));  // its gradient
    }
    __syncthreads();
    adam(model, s.layers, s.layout, m, step);
    __syncthreads();
  }
  __syncthreads();
  store_parameters(model, s.layers, s.layout, m);
  if (threadIdx.x == 0) state[0] = step;
}

}  // namespace manifold_core::cuda
