#include "ensemble.cuh"

#include "ops.h"
#include "tensors.h"

#include <vector>

namespace manifold_core::cuda {

namespace {

static_assert(sizeof(Known) + 256 <= kStaticShared, "or a block would ask for more than there is");

void check(cudaError_t error) {
  STD_TORCH_CHECK(error == cudaSuccess, "manifold_core: CUDA: ", cudaGetErrorString(error));
}

int64_t shared_limit_of_device() {
  int device = 0, bytes = 0;
  check(cudaGetDevice(&device));
  check(cudaDeviceGetAttribute(&bytes, cudaDevAttrMaxSharedMemoryPerBlockOptin, device));
  return bytes;
}

// The words, on the host: they say how much memory a launch takes. This waits for the device, once for many steps.
std::vector<Model> read_models(const Tensor& models, cudaStream_t stream) {
  std::vector<Model> out(models.size(0));
  const size_t bytes = out.size() * sizeof(Model);
  check(cudaMemcpyAsync(out.data(), models.const_data_ptr(), bytes, cudaMemcpyDeviceToHost, stream));
  check(cudaStreamSynchronize(stream));
  return out;
}

// The kernel of the models whose memory lies so, if there are any.
template <class Where>
void launch_where(const EnsembleSteps& a, const std::vector<Layout>& layouts, cudaStream_t stream) {
  int64_t shared = -1;
  for (const Layout& layout : layouts) {
    if (layout.room == Where::room) shared = std::max(shared, layout.shared);
  }
  if (shared < 0) return;
  const auto most = cudaFuncAttributeMaxDynamicSharedMemorySize;
  check(cudaFuncSetAttribute(ensemble_steps<Where>, most, static_cast<int>(shared)));
  MC_LAUNCH_SHARED(ensemble_steps<Where>, static_cast<unsigned>(layouts.size()), kThreads, static_cast<size_t>(shared),
                   stream, a);
  check_launch();
}

}  // namespace

void ensemble_steps(const Tensor& models, int64_t steps, int64_t) {
  STD_TORCH_CHECK(models.scalar_type() == ScalarType::Long && models.dim() == 2 && models.size(1) == kModelWords &&
                      models.is_contiguous(),
                  "manifold_core: models must be a contiguous int64 matrix with ", kModelWords, " columns");
  if (models.size(0) == 0 || steps <= 0) return;
  const OnDeviceOf device(models);
  const int64_t limit = shared_limit_of_device();
  std::vector<Layout> layouts;
  int64_t scratch = 0;
  for (const Model& model : read_models(models, device.stream)) {
    STD_TORCH_CHECK(0 < model.layer_count && model.layer_count <= kMostLayers, "manifold_core: a model must have 1 to ",
                    kMostLayers, " layers, got ", model.layer_count);
    layouts.push_back(layout_of(model, limit));
    scratch = std::max(scratch, layouts.back().scratch);
  }
  const Tensor memory = allocate(models, {models.size(0) * scratch}, ScalarType::Float);
  const EnsembleSteps a{static_cast<const int64_t*>(models.const_data_ptr()), steps, limit,
                        static_cast<float*>(memory.data_ptr()), scratch};
  launch_where<AllShared>(a, layouts, device.stream);
  launch_where<TileShared>(a, layouts, device.stream);
  launch_where<NoneShared>(a, layouts, device.stream);
}

}  // namespace manifold_core::cuda
