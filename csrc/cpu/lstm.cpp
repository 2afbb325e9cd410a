#include "kernels.h"
#include "ops.h"
#include "scratch.h"
#include "tensors.h"

#include <vector>

namespace manifold_core::cpu {

namespace {

// The gradients of the parameters are summed in at most so many parts, of so many numbers, whatever the number of threads.
constexpr int64_t kAtATime = 1 << 14, kParts = 32, kSummed = 1 << 25;

struct Sizes {
  int64_t batch, length, inputs, hidden;

  int64_t width() const { return inputs + hidden; }
  int64_t gates() const { return 4 * hidden; }
  int64_t parameters() const { return gates() * (width() + 1); }
  int64_t tiles() const { return (batch + kLstmColumns - 1) / kLstmColumns; }
  int64_t scratch() const { return lstm_rows(inputs, hidden) * kLstmPitch; }
};

const float* numbers(const Tensor& t) { return static_cast<const float*>(t.const_data_ptr()); }
float* numbers_to(const Tensor& t) { return static_cast<float*>(t.data_ptr()); }

Sizes sizes(const Tensor& x, const Tensor& weight_ih, const Tensor& weight_hh) {
  STD_TORCH_CHECK(x.scalar_type() == ScalarType::Float && x.dim() == 3 && x.numel() > 0 && weight_hh.dim() == 2 &&
                      weight_hh.numel() > 0,
                  "manifold_core: expected sequences of float32, at least one, and weights");
  const Sizes s{x.size(0), x.size(1), x.size(2), weight_hh.size(1)};
  check_dense(x, {s.batch, s.length, s.inputs}, ScalarType::Float, "x");
  check_dense(weight_ih, {s.gates(), s.inputs}, ScalarType::Float, "weight_ih");
  check_dense(weight_hh, {s.gates(), s.hidden}, ScalarType::Float, "weight_hh");
  return s;
}

// The weights of a gate side by side, as the kernels read them. Biases come behind; the backward pass has no use for them.
std::vector<float> packed(const Sizes& s, const Tensor& weight_ih, const Tensor& weight_hh) {
  std::vector<float> to;
  to.reserve(static_cast<size_t>(s.parameters()));
  for (int64_t gate = 0; gate < s.gates(); ++gate) {
    const float* const of_input = numbers(weight_ih) + gate * s.inputs;
    const float* const of_state = numbers(weight_hh) + gate * s.hidden;
    to.insert(to.end(), of_input, of_input + s.inputs);
    to.insert(to.end(), of_state, of_state + s.hidden);
  }
  return to;
}

}  // namespace

std::tuple<Tensor, Tensor> lstm(const Tensor& x, const Tensor& weight_ih, const Tensor& weight_hh, const Tensor& bias_ih,
                                const Tensor& bias_hh, bool keep) {
  const Sizes s = sizes(x, weight_ih, weight_hh);
  check_dense(bias_ih, {s.gates()}, ScalarType::Float, "bias_ih");
  check_dense(bias_hh, {s.gates()}, ScalarType::Float, "bias_hh");
  Tensor y = allocate({s.batch, s.length, s.hidden}, ScalarType::Float);
  const int64_t steps_kept = keep ? s.length : 1;
  Tensor kept = allocate({s.tiles(), steps_kept, kLstmKept * s.hidden, kLstmColumns}, ScalarType::Float);
  std::vector<float> parameters = packed(s, weight_ih, weight_hh);
  for (int64_t gate = 0; gate < s.gates(); ++gate) parameters.push_back(numbers(bias_ih)[gate] + numbers(bias_hh)[gate]);
  const Lstm args{s.length, s.inputs, s.hidden, parameters.data(), numbers(x), numbers_to(y), numbers_to(kept), steps_kept};
  torch::stable::parallel_for(0, s.tiles(), 1, [&](int64_t first, int64_t last) {
    const Scratch<float> scratch(s.scratch());
    for (int64_t tile = first; tile < last; ++tile) {
      const int64_t begin = tile * kLstmColumns;
      instruction_set().lstm.forward(args, tile, begin, std::min(s.batch, begin + kLstmColumns), scratch.data());
    }
  });
  return {y, kept};
}

std::tuple<Tensor, Tensor, Tensor, Tensor> lstm_backward(const Tensor& grad_y, const Tensor& x, const Tensor& weight_ih,
                                                         const Tensor& weight_hh, const Tensor& kept, bool with_x) {
  const Sizes s = sizes(x, weight_ih, weight_hh);
  check_dense(grad_y, {s.batch, s.length, s.hidden}, ScalarType::Float, "grad_y");
  check_dense(kept, {s.tiles(), s.length, kLstmKept * s.hidden, kLstmColumns}, ScalarType::Float, "kept");
  Tensor grad_x = with_x ? allocate({s.batch, s.length, s.inputs}, ScalarType::Float) : allocate({0}, ScalarType::Float);
  Tensor grad_weight_ih = allocate({s.gates(), s.inputs}, ScalarType::Float);
  Tensor grad_weight_hh = allocate({s.gates(), s.hidden}, ScalarType::Float);
  Tensor grad_bias = allocate({s.gates()}, ScalarType::Float);
  const std::vector<float> parameters = packed(s, weight_ih, weight_hh);
  const Lstm args{s.length, s.inputs, s.hidden, parameters.data(), numbers(x), nullptr,
                  const_cast<float*>(numbers(kept)), s.length};  // which the backward pass only reads
  const int64_t parts = std::min({s.tiles(), kParts, std::max<int64_t>(1, kSummed / s.parameters())});
  std::vector<float> gradients(static_cast<size_t>(parts * s.parameters()), 0.0f);
  torch::stable::parallel_for(0, parts, 1, [&](int64_t first, int64_t last) {
    const Scratch<float> scratch(s.scratch());
    for (int64_t part = first; part < last; ++part) {
      for (int64_t tile = part * s.tiles() / parts; tile < (part + 1) * s.tiles() / parts; ++tile) {
        const int64_t begin = tile * kLstmColumns;
        instruction_set().lstm.backward(args, numbers(grad_y), with_x ? numbers_to(grad_x) : nullptr, tile, begin,
                                        std::min(s.batch, begin + kLstmColumns),
                                        gradients.data() + part * s.parameters(), scratch.data());
      }
    }
  });
  torch::stable::parallel_for(0, s.parameters(), kAtATime, [&](int64_t first, int64_t last) {
    for (int64_t part = 1; part < parts; ++part) {
      const float* const other = gradients.data() + part * s.parameters();
      for (int64_t i = first; i < last; ++i) gradients[static_cast<size_t>(i)] += other[i];
    }
  });
  const float* from = gradients.data();
  for (int64_t gate = 0; gate < s.gates(); ++gate, from += s.width()) {
    std::copy_n(from, s.inputs, numbers_to(grad_weight_ih) + gate * s.inputs);
    std::copy_n(from + s.inputs, s.hidden, numbers_to(grad_weight_hh) + gate * s.hidden);
  }
  std::copy_n(from, s.gates(), numbers_to(grad_bias));
  return {grad_x, grad_weight_ih, grad_weight_hh, grad_bias};
}

}  // namespace manifold_core::cpu
