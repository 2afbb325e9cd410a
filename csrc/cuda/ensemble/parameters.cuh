// The parameters of a model: from the caller's order to that of the layout and back, and Adam between them. Each block of
// the team works on some of them.
#pragma once

#include "team.cuh"

namespace manifold_core::cuda {

// Calls f(place, of_caller, count) for up to four numbers side by side, at a time of one thread of one block; those of
// log gamma are the last.
template <class F>
__device__ __forceinline__ void for_each_parameter(const Model& model, const Layer* layers, const Layout& layout,
                                                   const Team& team, const F& f) {
  const int end = static_cast<int>(layout.parameters), log_gamma = end - 4;
  int i = 0;
  for (int place = 4 * (team.member * kThreads + threadIdx.x); place < end; place += 4 * team.blocks * kThreads) {
    if (place == log_gamma) {
      f(place, model.gamma == kLearned ? model.log_gamma : model.parameter_count, 1);
      continue;
    }
    while (place >= layers[i].end) ++i;
    const Layer& l = layers[i];
    const Dense& of = model.layers[i];
    if (place < l.bias) {
      const int line = (place - l.weights) / l.pitch, column = (place - l.weights) % l.pitch;
      f(place, of.weight + static_cast<int64_t>(line) * l.inputs + column, l.inputs - column);
    } else if (place < l.bias + l.outputs) {
      f(place, of.bias + place - l.bias, l.outputs - (place - l.bias));
    } else {
      f(place, of.slope, 1);
    }
  }
}

// Calls f(k) for those of four numbers that are there.
template <class F>
__device__ __forceinline__ void for_each_of(int count, const F& f) {
#pragma unroll
  for (int k = 0; k < 4; ++k) {
    if (k < count) f(k);
  }
}

// From the caller. The team has to wait for it.
__device__ __forceinline__ void load_parameters(const Model& model, const Layer* layers, const Layout& layout,
                                                const Team& team) {
  const float* const from = reinterpret_cast<const float*>(model.parameters);
  for_each_parameter(model, layers, layout, team, [&](int place, int64_t of_caller, int count) {
    for_each_of(count, [&](int k) { team.parameters[place + k] = from[of_caller + k]; });
  });
}

__device__ __forceinline__ void store_parameters(const Model& model, const Layer* layers, const Layout& layout,
                                                 const Team& team) {
  float* const to = reinterpret_cast<float*>(model.parameters);
  for_each_parameter(model, layers, layout, team, [&](int place, int64_t of_caller, int count) {
    for_each_of(count, [&](int k) { to[of_caller + k] = team.parameters[place + k]; });
  });
}

// So many numbers of the team's, whole fours, to the block's own memory.
__device__ __forceinline__ void copy(float* to, const float* from, int count) {
  constexpr int kAtOnce = 2;  // read before the first is written
  for (int first = 4 * threadIdx.x; first < count; first += 4 * kAtOnce * kThreads) {
    Quad v[kAtOnce];
#pragma unroll
    for (int n = 0; n < kAtOnce; ++n) {
      const int place = first + 4 * n * kThreads;
      if (place < count) v[n] = read_quad_of_team(from + place);
    }
#pragma unroll
    for (int n = 0; n < kAtOnce; ++n) {
      const int place = first + 4 * n * kThreads;
      if (place < count) write_quad(to + place, v[n]);
    }
  }
}

// The block's own, where it has some, become those of the team. Barriers have to stand before and behind.
template <Room room>
__device__ __forceinline__ void copy_parameters(const Layout& layout, const Team& team, const Memory& m) {
  if constexpr (room == Room::all_shared) copy(m.parameters, team.parameters, static_cast<int>(layout.parameters));
}

template <Room room>
__device__ __forceinline__ bool has_room(const Layer& l, const Layout& layout) {
  return room != Room::all_shared && l.end - l.weights <= layout.staged;
}

// Brings the parameters of a layer to shared memory where they are not there and have room. Barriers have to stand
// before and behind.
template <Room room>
__device__ __forceinline__ void stage(const Layer& l, const Layout& layout, const Memory& m) {
  if (has_room<room>(l, layout)) copy(m.staging, m.parameters + l.weights, l.end - l.weights);
}

// Calls f with the parameters of a layer, from its W on; for each kind of memory by itself, so that nvcc knows which.
template <Room room, class F>
__device__ __forceinline__ void with_numbers(const Layer& l, const Layout& layout, const Memory& m, const F& f) {
  if (has_room<room>(l, layout)) {
    f(m.staging);
  } else {
    f(m.parameters + l.weights);
  }
}

// What a step says of log gamma: its gradient where it is learned, itself where it is the optimal one.
struct LogGamma {
  float gradient, optimal;
};

// p -= step_size m / (sqrt(v) inv_sqrt + eps), once m and v have taken the gradient in. The team has to wait for it.
__device__ __forceinline__ void adam(const Model& model, const Layer* layers, const Layout& layout, const Team& team,
                                     int64_t step, const LogGamma& log_gamma) {
  const float* const scheduled = reinterpret_cast<const float*>(model.schedule) + kScheduled * step;
  const float step_size = scheduled[0], of_log_gamma = scheduled[1];
  const float one_minus_beta1 = scheduled[2], one_minus_beta2 = scheduled[3], inv_sqrt = scheduled[4];
  float* const exp_avg = reinterpret_cast<float*>(model.exp_avg);
  float* const exp_avg_sq = reinterpret_cast<float*>(model.exp_avg_sq);
  for_each_parameter(model, layers, layout, team, [&](int place, int64_t of_caller, int count) {
    if (of_caller == model.parameter_count) {  // log gamma that is not learned
      if (model.gamma == kAnalytic) team.parameters[place] = log_gamma.optimal;
      return;
    }
    const bool is_log_gamma = of_caller == model.log_gamma;  // in four numbers of its own
    float average[4], square[4];
    for_each_of(count, [&](int k) {
      average[k] = exp_avg[of_caller + k];
      square[k] = exp_avg_sq[of_caller + k];
    });
    Quad parameters = read_quad(team.parameters + place);
    const Quad gradients = is_log_gamma ? Quad{{log_gamma.gradient}} : gradient_of_team(team, layout, place);
    const float size = is_log_gamma ? of_log_gamma : step_size;
    for_each_of(count, [&](int k) {
      const float gradient = gradients.at[k];
      average[k] += one_minus_beta1 * (gradient - average[k]);
      square[k] = (1 - one_minus_beta2) * square[k] + one_minus_beta2 * (gradient * gradient);
      parameters.at[k] -= size * (average[k] / (sqrtf(square[k]) * inv_sqrt + kEpsilon));
    });
    write_quad(team.parameters + place, parameters);  // with what pads them
    for_each_of(count, [&](int k) {
      exp_avg[of_caller + k] = average[k];
      exp_avg_sq[of_caller + k] = square[k];
    });
  });
}

}  // namespace manifold_core::cuda
