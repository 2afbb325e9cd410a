// The parameters of a model: from the caller's order to that of the layout and back, and Adam. Each block of the team
// works on some of them.
#pragma once

#include "team.cuh"

namespace manifold_core::cuda {

// Calls f(offset, caller_offset, count) for up to four neighbouring parameters, each by one thread of one block; log
// gamma is the last.
template <class F>
__device__ __forceinline__ void for_each_parameter(const Model& model, const Layer* layers, const Layout& layout,
                                                   const Team& team, const F& f) {
  const int end = static_cast<int>(layout.parameters), log_gamma = end - 4;
  int i = 0;
  for (int offset = 4 * (team.member * kThreads + threadIdx.x); offset < end; offset += 4 * team.blocks * kThreads) {
    if (offset == log_gamma) {
      f(offset, model.gamma == kLearned ? model.log_gamma : model.parameter_count, 1);
      continue;
    }
    while (offset >= layers[i].end) ++i;
    const Layer& l = layers[i];
    const Dense& dense = model.layers[i];
    if (offset < l.bias) {
      const int line = (offset - l.weights) / l.pitch, column = (offset - l.weights) % l.pitch;
      f(offset, dense.weight + static_cast<int64_t>(line) * l.inputs + column, l.inputs - column);
    } else if (offset < l.bias + l.outputs) {
      f(offset, dense.bias + offset - l.bias, l.outputs - (offset - l.bias));
    } else {
      f(offset, dense.slope, 1);
    }
  }
}

// Calls f(k) for the first `count` of four.
template <class F>
__device__ __forceinline__ void for_first_of_four(int count, const F& f) {
#pragma unroll
  for (int k = 0; k < 4; ++k) {
    if (k < count) f(k);
  }
}

// From the caller's memory. A barrier of the team has to follow.
__device__ __forceinline__ void load_parameters(const Model& model, const Layer* layers, const Layout& layout,
                                                const Team& team) {
  const float* const from = reinterpret_cast<const float*>(model.parameters);
  for_each_parameter(model, layers, layout, team, [&](int offset, int64_t caller_offset, int count) {
    for_first_of_four(count, [&](int k) { team.parameters[offset + k] = from[caller_offset + k]; });
  });
}

__device__ __forceinline__ void store_parameters(const Model& model, const Layer* layers, const Layout& layout,
                                                 const Team& team) {
  float* const to = reinterpret_cast<float*>(model.parameters);
  for_each_parameter(model, layers, layout, team, [&](int offset, int64_t caller_offset, int count) {
    for_first_of_four(count, [&](int k) { to[caller_offset + k] = team.parameters[offset + k]; });
  });
}

// `count` floats of the team's, a multiple of four, to the block's own memory.
__device__ __forceinline__ void copy(float* to, const float* from, int count) {
  constexpr int kInFlight = 2;  // read before the first is written
  for (int first = 4 * threadIdx.x; first < count; first += 4 * kInFlight * kThreads) {
    Quad v[kInFlight];
#pragma unroll
    for (int n = 0; n < kInFlight; ++n) {
      const int offset = first + 4 * n * kThreads;
      if (offset < count) v[n] = read_quad_of_team(from + offset);
    }
#pragma unroll
    for (int n = 0; n < kInFlight; ++n) {
      const int offset = first + 4 * n * kThreads;
      if (offset < count) write_quad(to + offset, v[n]);
    }
  }
}

// The block's own copy, if it has one, becomes that of the team. Barriers have to stand before and behind.
template <Residency residency>
__device__ __forceinline__ void copy_parameters(const Layout& layout, const Team& team, const Memory& m) {
  if constexpr (residency == Residency::all_shared) {
    copy(m.parameters, team.parameters, static_cast<int>(layout.parameters));
  }
}

template <Residency residency>
__device__ __forceinline__ bool is_staged(const Layer& l, const Layout& layout) {
  return residency != Residency::all_shared && l.end - l.weights <= layout.staged;
}

// Copies the parameters of a layer to shared memory if they do not reside there, and fit. Barriers have to stand
// before and behind.
template <Residency residency>
__device__ __forceinline__ void stage(const Layer& l, const Layout& layout, const Memory& m) {
  if (is_staged<residency>(l, layout)) copy(m.staging, m.parameters + l.weights, l.end - l.weights);
}

// Calls f with the parameters of a layer, from its W on; once for each kind of memory, so that nvcc knows which it is.
template <Residency residency, class F>
__device__ __forceinline__ void with_parameters(const Layer& l, const Layout& layout, const Memory& m, const F& f) {
  if (is_staged<residency>(l, layout)) {
    f(m.staging);
  } else {
    f(m.parameters + l.weights);
  }
}

// What a step makes of log gamma: its gradient if it is learned, its value if it is the optimal one.
struct LogGamma {
  float gradient, optimal;
};

// p -= step_size m / (sqrt(v) inv_sqrt + eps), after the moments m and v. A barrier of the team has to follow.
__device__ __forceinline__ void adam(const Model& model, const Layer* layers, const Layout& layout, const Team& team,
                                     int64_t step, const LogGamma& log_gamma) {
  const float* const scheduled = reinterpret_cast<const float*>(model.schedule) + kScheduled * step;
  const float step_size = scheduled[0], log_gamma_step_size = scheduled[1];
  const float one_minus_beta1 = scheduled[2], one_minus_beta2 = scheduled[3], inv_sqrt = scheduled[4];
  float* const exp_avg = reinterpret_cast<float*>(model.exp_avg);
  float* const exp_avg_sq = reinterpret_cast<float*>(model.exp_avg_sq);
  for_each_parameter(model, layers, layout, team, [&](int offset, int64_t caller_offset, int count) {
    if (caller_offset == model.parameter_count) {  // log gamma that is not learned
      if (model.gamma == kAnalytic) team.parameters[offset] = log_gamma.optimal;
      return;
    }
    const bool is_log_gamma = caller_offset == model.log_gamma;  // with a quad of its own
    float average[4], square[4];
    for_first_of_four(count, [&](int k) {
      average[k] = exp_avg[caller_offset + k];
      square[k] = exp_avg_sq[caller_offset + k];
    });
    Quad parameters = read_quad(team.parameters + offset);
    const Quad gradients = is_log_gamma ? Quad{{log_gamma.gradient}} : gradient_of_team(team, layout, offset);
    const float size = is_log_gamma ? log_gamma_step_size : step_size;
    for_first_of_four(count, [&](int k) {
      const float gradient = gradients.at[k];
      average[k] += one_minus_beta1 * (gradient - average[k]);
      square[k] = (1 - one_minus_beta2) * square[k] + one_minus_beta2 * (gradient * gradient);
      parameters.at[k] -= size * (average[k] / (sqrtf(square[k]) * inv_sqrt + kEpsilon));
    });
    write_quad(team.parameters + offset, parameters);  // with the padding
    for_first_of_four(count, [&](int k) {
      exp_avg[caller_offset + k] = average[k];
      exp_avg_sq[caller_offset + k] = square[k];
    });
  });
}

}  // namespace manifold_core::cuda
