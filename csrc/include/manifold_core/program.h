// What a training engine executes: a small VAE or CVAE as dense layers that read and write rows of a tile. A row is one
// feature of a layer, a column one sample. Made in Python (manifold_core/ensemble/program.py) from ordinary modules, as
// int64 words in the order of these fields; the same words serve the CPU and the CUDA engine.
//
// One step of a model, for the samples of its mini-batch, a tile at a time:
//     1. the samples' features into rows x, their condition into rows `condition`;
//     2. layers [0, sampled_after): encoder, and of a CVAE the networks of the condition, prior and gate;
//     3. z = (mu + sigma * noise) * sigmoid(gate), or with a full covariance (mu + L * noise) * sigmoid(gate), and KL
//        against N(0, I) or the prior;
//     4. layers [sampled_after, layer_count): the decoder; squared error, gradient of x_hat;
//     5. the same backwards. The gradient of a row takes the place of its values, for each row feeds one layer at most.
// Then Adam, by the schedule. A step whose loss is not finite changes nothing and ends the model.
#pragma once

#include <cstdint>

#include "macros.h"

namespace manifold_core {

enum Activation : int64_t { kNone = 0, kRelu = 1, kPrelu = 2 };
enum Gamma : int64_t { kLearned = 0, kAnalytic = 1, kFixed = 2 };

constexpr int kMostLayers = 24;
constexpr float kEpsilon = 1e-8f;  // of Adam
// Floats per step: learning rate / (1 - beta1^t), the same of log gamma, 1 - beta1, 1 - beta2, 1 / sqrt(1 - beta2^t).
constexpr int kScheduled = 5;
// Floats per record: nll, kl, squared error, log gamma; then the variance ratio of each dimension.
constexpr int kRecorded = 4;

// rows [out, out + outputs) = activation(W rows[in, in + inputs) + b)
struct Dense {
  int64_t in, inputs;
  int64_t out, outputs;
  int64_t weight, bias;  // offsets among the parameters; W is [outputs, inputs], by rows
  int64_t activation;
  int64_t slope;         // offset of PReLU's slope among the parameters
  int64_t before;        // PReLU: rows that keep what it is applied to
  int64_t wanted_from;   // inputs from here on get a gradient; = inputs: none does
  int64_t producer;      // the layer whose activation made those inputs; -1: no layer, or one without activation
};

struct Model {
  // Addresses of the caller's memory.
  int64_t data;        // float [samples, features + conditions]
  int64_t parameters;  // float [parameter_count + 1]; the last is log gamma if it is not learned
  int64_t exp_avg, exp_avg_sq;  // float [parameter_count]
  int64_t schedule;    // float [steps, kScheduled]
  int64_t records;     // float [ceil(steps / record_every), kRecorded + latents]
  int64_t state;       // int64 [2]: steps done; the step, from 1, whose loss was not finite, or 0

  int64_t samples, features, conditions, parameter_count;
  int64_t seed, batch, steps, record_every;  // a record of every step divisible by record_every, and of the last
  int64_t gamma, log_gamma;                  // log_gamma: its offset among the parameters

  int64_t rows;                   // of the tile
  int64_t x, condition;           // first rows
  int64_t latents, mu;            // rows [mu, mu + 2 latents): mu, then log_var, or of a full covariance log L_jj
  // Of a full covariance, rows from here on: L_jk / L_jj for k < j, by rows of L; then room for L_jj, and for
  // (L * noise)_j. -1: the covariance is diagonal.
  int64_t below;
  int64_t prior;                  // likewise of the prior; -1: N(0, I)
  int64_t gate;                   // rows [gate, gate + 2 latents): logits, then room for as many; -1: none
  int64_t noise, z, x_hat;

  int64_t layer_count, sampled_after;
  Dense layers[kMostLayers];
};

// Rows of what stands in L left of the diagonal, in the rows before j.
MC_INLINE int64_t below_before(int64_t j) { return j * (j - 1) / 2; }

constexpr int64_t kModelWords = sizeof(Model) / sizeof(int64_t);

}  // namespace manifold_core
