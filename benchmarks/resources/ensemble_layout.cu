// Where a VAE with one hidden layer has its memory in a launch of ensemble_steps: its residency, how many columns a tile
// has, and how many bytes of shared memory are asked for. Arguments: bytes that the device gives to a block, features,
// latents, hidden.
#include "../../csrc/cuda/ensemble/layout.cuh"

#include <cstdio>
#include <cstdlib>

int main(int count, char** text) {
  using namespace manifold_core;
  using namespace manifold_core::cuda;
  if (count != 5) return 2;
  const int64_t limit = atoll(text[1]), features = atoll(text[2]), latents = atoll(text[3]), hidden = atoll(text[4]);
  Model model = {};
  model.batch = 1024;
  model.latents = latents;
  model.rows = 2 * features + 4 * latents + 2 * hidden;  // x, x_hat; mu, log_var, noise, z; the hidden layers
  const int64_t sizes[][2] = {{features, hidden}, {hidden, 2 * latents}, {latents, hidden}, {hidden, features}};
  for (const auto& size : sizes) {
    Dense& layer = model.layers[model.layer_count++];
    layer.inputs = size[0];
    layer.outputs = size[1];
  }
  const Layout layout = layout_of(model, limit);
  printf("%d %d %lld\n", static_cast<int>(layout.residency), layout.columns, static_cast<long long>(layout.shared));
  return 0;
}
