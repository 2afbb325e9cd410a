#include "ensemble.cuh"

#include "ops.h"
#include "tensors.h"

#include <vector>

namespace manifold_core::cuda {

namespace {

static_assert(sizeof(SharedState) + 256 <= kStaticShared, "or a block would ask for more than there is");

int64_t shared_limit() { return device_attribute(cudaDevAttrMaxSharedMemoryPerBlockOptin); }

// Copies the models to the host, where they say how much memory a launch takes. Waits for the device, once for many
// steps.
std::vector<Model> read_models(const Tensor& models, cudaStream_t stream) {
  std::vector<Model> out(models.size(0));
  const size_t bytes = out.size() * sizeof(Model);
  check(cudaMemcpyAsync(out.data(), models.const_data_ptr(), bytes, cudaMemcpyDeviceToHost, stream));
  check(cudaStreamSynchronize(stream));
  return out;
}

std::vector<Layout> layouts_of(const Tensor& models, cudaStream_t stream) {
  STD_TORCH_CHECK(models.scalar_type() == ScalarType::Long && models.dim() == 2 && models.size(1) == kModelWords &&
                      models.is_contiguous(),
                  "manifold_core: models must be a contiguous int64 matrix with ", kModelWords, " columns");
  std::vector<Layout> out;
  if (models.size(0) == 0) return out;
  const int64_t limit = shared_limit();
  for (const Model& model : read_models(models, stream)) {
    STD_TORCH_CHECK(0 < model.layer_count && model.layer_count <= kMostLayers, "manifold_core: a model must have 1 to ",
                    kMostLayers, " layers, got ", model.layer_count);
    out.push_back(layout_of(model, limit));
  }
  return out;
}

// The launch for the models of that residency, if there are any.
template <class Where>
class Launch {
 public:
  explicit Launch(const std::vector<Layout>& layouts) {
    int64_t chunks = 1;
    for (size_t i = 0; i < layouts.size(); ++i) {
      const Layout& layout = layouts[i];
      if (layout.residency != Where::residency) continue;
      chosen_.push_back(static_cast<int64_t>(i));
      shared_ = std::max(shared_, layout.shared);
      scratch_offsets_.push_back(scratch_);
      scratch_ += layout.scratch;
      chunks = std::max<int64_t>(chunks, layout.chunks);
      if (Where::residency == Residency::none_shared) tile_ = std::max(tile_, layout.tile);
    }
    if (!chosen_.empty()) spread(chunks);
  }

  // Floats in global memory.
  int64_t workspace() const { return scratch_ + models() * blocks_a_model_ * tile_; }

  void run(const Tensor& models, int64_t steps, cudaStream_t stream) {
    if (chosen_.empty()) return;
    std::vector<int64_t> words = chosen_;
    words.insert(words.end(), scratch_offsets_.begin(), scratch_offsets_.end());
    words.resize(chosen_.size() * (2 + kCounterStride / 2));  // counters too, two in a word
    const size_t bytes = words.size() * sizeof(int64_t);
    const Tensor teams = allocate(models, {static_cast<int64_t>(words.size())}, ScalarType::Long);
    check(cudaMemcpyAsync(teams.data_ptr(), words.data(), bytes, cudaMemcpyHostToDevice, stream));
    check(cudaStreamSynchronize(stream));  // `words` ends here
    const Tensor memory = allocate(models, {workspace()}, ScalarType::Float);
    EnsembleSteps a{};
    a.models = static_cast<const int64_t*>(models.const_data_ptr());
    a.chosen = static_cast<const int64_t*>(teams.const_data_ptr());
    a.scratch_offsets = a.chosen + chosen_.size();
    a.arrived = reinterpret_cast<unsigned*>(static_cast<int64_t*>(teams.data_ptr()) + 2 * chosen_.size());
    a.steps = steps;
    a.shared_limit = shared_limit();
    a.scratch = static_cast<float*>(memory.data_ptr());
    a.tiles = a.scratch + scratch_;
    a.tile_stride = tile_;
    const size_t shared = static_cast<size_t>(shared_);
    if (blocks_a_model_ > 1) {
      a.blocks_a_model = static_cast<int>(blocks_a_model_);
      const unsigned blocks = static_cast<unsigned>(this->models() * blocks_a_model_);
      const cudaError_t refused = MC_LAUNCH_TOGETHER(ensemble_steps<Where>, blocks, kThreads, shared, stream, a);
      if (refused == cudaSuccess) return;
      cudaGetLastError();  // others use a part of the device: one block per model waits for nobody, and gives the same
    }
    a.blocks_a_model = 1;
    const unsigned blocks = static_cast<unsigned>(this->models());
    MC_LAUNCH_SHARED(ensemble_steps<Where>, blocks, kThreads, shared, stream, a);
    check_launch();
  }

 private:
  int64_t models() const { return static_cast<int64_t>(chosen_.size()); }

  // Chooses blocks_a_model_: over all of the device, with no more blocks than make a step shorter.
  void spread(int64_t chunks) {
    allow_shared(ensemble_steps<Where>, shared_limit() - kStaticShared);  // for all calls, of any thread, the same
    if (device_attribute(cudaDevAttrCooperativeLaunch) == 0) return;
    int resident = 0;  // blocks on a multiprocessor
    const size_t shared = static_cast<size_t>(shared_);
    check(cudaOccupancyMaxActiveBlocksPerMultiprocessor(&resident, ensemble_steps<Where>, kThreads, shared));
    const int64_t on_device = resident * device_attribute(cudaDevAttrMultiProcessorCount);
    const int64_t most = std::max<int64_t>(1, std::min(chunks, on_device / models()));
    const int64_t turns = (chunks + most - 1) / most;
    blocks_a_model_ = (chunks + turns - 1) / turns;
  }

  std::vector<int64_t> chosen_, scratch_offsets_;
  int64_t shared_ = 0;               // bytes of a block
  int64_t scratch_ = 0, tile_ = 0;   // floats: of all models, and of a block
  int64_t blocks_a_model_ = 1;
};

}  // namespace

void ensemble_steps(const Tensor& models, int64_t steps, int64_t) {
  const DeviceGuard device(models);
  const std::vector<Layout> layouts = layouts_of(models, device.stream);
  if (steps <= 0) return;
  Launch<AllShared>(layouts).run(models, steps, device.stream);
  Launch<TileShared>(layouts).run(models, steps, device.stream);
  Launch<NoneShared>(layouts).run(models, steps, device.stream);
}

int64_t ensemble_workspace(const Tensor& models, int64_t) {
  const DeviceGuard device(models);
  const std::vector<Layout> layouts = layouts_of(models, device.stream);
  const int64_t floats = Launch<AllShared>(layouts).workspace() + Launch<TileShared>(layouts).workspace() +
                         Launch<NoneShared>(layouts).workspace();
  return 4 * floats;
}

}  // namespace manifold_core::cuda
