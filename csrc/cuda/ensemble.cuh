// Whole training steps of many small models, a block of threads each: gather, forward, ELBO, backward, Adam. Parameters
// and the sums of their gradients stay in shared memory from the first step to the last where they fit there beside the
// tile; Adam's moments are the caller's. No sum depends on which thread comes first.
#pragma once

#include "ensemble/batch.cuh"
#include "ensemble/parameters.cuh"

#include <cmath>

namespace manifold_core::cuda {

// What a block knows of its model, besides its numbers.
struct Known {
  Model model;
  Layout layout;
  Layer layers[kMostLayers];
  int sample[kMostColumns];
  Step step;
  int64_t end;  // the step before which to stop
  double log_gamma, inverse_gamma;
  float scale;  // of the gradient of x_hat: 1 / gamma, of the batch mean

  // By one thread: a processor may have few units for double.
  __device__ inline void use(double new_log_gamma, double new_inverse_gamma) {
    log_gamma = new_log_gamma;
    inverse_gamma = new_inverse_gamma;
    scale = static_cast<float>(new_inverse_gamma / step.batch);
  }
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
    l.rows_forward = best_rows(l.outputs, columns, 5, false);
    l.rows_backward = best_rows(l.inputs - l.wanted_from, columns, 4, true);
    l.slices = best_slices(l, columns);
    s.layers[i] = l;
  }
}

// `blocks` may share a multiprocessor, if their memory allows it: then a thread has as many registers as are left.
struct AllShared {
  static constexpr int blocks = 2;
  static constexpr Room room = Room::all_shared;
};
struct TileShared {
  static constexpr int blocks = 1;
  static constexpr Room room = Room::tile_shared;
};
struct NoneShared {
  static constexpr int blocks = 1;
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

// The sums over the batch of a step, and what follows from them.
struct Loss {
  double nll, kl, squared_error;  // batch means
  double scaled;                  // squared error over gamma
};

// Called by all threads, each with its shares in the sums; all get the same.
__device__ __forceinline__ Loss finish_loss(const Known& s, double squared_error, double kl) {
  const double features = static_cast<double>(s.model.features);
  Loss loss;
  loss.squared_error = sum_over_threads(squared_error, kThreads) / s.step.batch;
  loss.kl = sum_over_threads(kl, kThreads) / s.step.batch;
  loss.scaled = loss.squared_error * s.inverse_gamma;
  loss.nll = 0.5 * (loss.scaled + features * (kLog2Pi + s.log_gamma));
  return loss;
}

__device__ __forceinline__ void write_record(const Known& s, const Loss& loss, const double* ratios) {
  const int64_t width = kRecorded + s.model.latents;
  float* const record = reinterpret_cast<float*>(s.model.records) + s.step.number / s.model.record_every * width;
  if (threadIdx.x == 0) {
    record[0] = static_cast<float>(loss.nll);
    record[1] = static_cast<float>(loss.kl);
    record[2] = static_cast<float>(loss.squared_error);
    record[3] = static_cast<float>(s.log_gamma);
  }
  for (int i = threadIdx.x; i < s.model.latents; i += kThreads) {
    record[kRecorded + i] = static_cast<float>(ratios[i] / s.step.batch);
  }
}

// One tile forwards, from the samples to the squared error. Adds this thread's shares to the sums.
__device__ __forceinline__ void forward(Known& s, const Part& part, const Memory& m, double* ratios,
                                        double& squared_error, double& kl) {
  draw(s.model, s.step, part, m, s.sample);
  __syncthreads();
  gather(s.model, m, s.sample);
  __syncthreads();
  for (int i = 0; i < static_cast<int>(s.model.layer_count); ++i) {
    if (i == static_cast<int>(s.model.sampled_after)) {
      kl += sample_forward(s.model, part, m, ratios);
      __syncthreads();
    }
    dense_forward(s.layers[i], m);
    __syncthreads();
  }
  squared_error += reconstruct(s.model, part, m, s.scale);
  __syncthreads();
}

// The same tile backwards.
__device__ __forceinline__ void backward(const Known& s, const Memory& m) {
  for (int i = static_cast<int>(s.model.layer_count) - 1; i >= 0; --i) {
    const Layer& l = s.layers[i];
    dense_gradients(l, m);
    __syncthreads();
    if (l.wanted_from < l.inputs) {
      dense_backward(l, l.producer < 0 ? nullptr : &s.layers[l.producer], m);
      __syncthreads();
    }
    if (i == static_cast<int>(s.model.sampled_after)) {
      sample_backward(s.model, m);
      __syncthreads();
    }
  }
}

// Called by all threads; false, and nothing is changed, where the loss is not finite.
__device__ __forceinline__ bool train_step(Known& s, const Memory& m) {
  const Model& model = s.model;
  float* const log_gamma = m.parameters + s.layout.parameters - 4;
  double* const ratios = reinterpret_cast<double*>(m.tile + (m.ones + 1) * m.pitch);
  if (threadIdx.x == 0) {
    s.step.begin(model);
    s.use(*log_gamma, exp(-static_cast<double>(*log_gamma)));
  }
  for (int i = threadIdx.x; i < s.layout.parameters; i += kThreads) m.gradients[i] = 0;
  for (int i = threadIdx.x; i < model.latents; i += kThreads) ratios[i] = 0;
  __syncthreads();
  double squared_error, kl;
  // The optimal gamma has to be known before the way back begins: a pass only forwards comes first.
  for (int pass = model.gamma == kAnalytic ? 0 : 1; pass < 2; ++pass) {
    squared_error = kl = 0;
    for (Part part{0, s.step.batch}; part.first < part.batch; part.first += m.columns) {
      forward(s, part, m, s.step.recorded && pass == 1 ? ratios : nullptr, squared_error, kl);
      if (pass == 1) backward(s, m);
    }
    if (pass == 0) {
      const double errors = static_cast<double>(model.batch * model.features);
      const double gamma = sum_over_threads(squared_error, kThreads) / errors;
      if (threadIdx.x == 0) s.use(log(gamma), 1 / gamma);
      __syncthreads();
    }
  }
  const Loss loss = finish_loss(s, squared_error, kl);
  if (!(fabsf(static_cast<float>(loss.nll + loss.kl)) < HUGE_VALF)) {  // gradients, in float, are not either
    if (threadIdx.x == 0) reinterpret_cast<int64_t*>(model.state)[1] = s.step.number + 1;
    return false;
  }
  if (s.step.recorded) write_record(s, loss, ratios);
  if (threadIdx.x == 0) {
    if (model.gamma == kAnalytic) *log_gamma = static_cast<float>(s.log_gamma);
    const double gradient = 0.5 * (static_cast<double>(model.features) - loss.scaled);
    if (model.gamma == kLearned) log_gamma[s.layout.parameters] = static_cast<float>(gradient);
  }
  __syncthreads();
  adam(model, s.layers, s.layout, m, s.step.number);
  __syncthreads();
  if (threadIdx.x == 0) ++s.step.number;
  __syncthreads();
  return true;
}

// Works on the models whose memory lies so, and on no others.
template <class Where>
__global__ void __launch_bounds__(kThreads, Where::blocks) ensemble_steps(const EnsembleSteps a) {
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
  if (s.layout.room != Where::room || state[1] != 0) return;  // the same for all
  const Memory m = memory_of<Where>(s, reinterpret_cast<float*>(shared), a.scratch + blockIdx.x * a.scratch_of_model);
  load_parameters(model, s.layers, s.layout, m);
  for (int i = threadIdx.x; i < m.pitch; i += kThreads) m.tile[m.ones * m.pitch + i] = 1;
  if (threadIdx.x == 0) {
    s.step.number = state[0];
    s.end = model.steps - state[0] < a.steps ? model.steps : state[0] + a.steps;
  }
  __syncthreads();
  while (s.step.number < s.end && train_step(s, m)) {
  }
  store_parameters(model, s.layers, s.layout, m);
  if (threadIdx.x == 0) state[0] = s.step.number;
}

}  // namespace manifold_core::cuda
