// manifold_core._C: importing it registers the operators (cpu/library.cpp). What Python sees of it directly is build
// information, noise and order of the samples for NumPy, and the choice of instruction set for tests.
#include "cpu/kernels.h"
#include "manifold_core/permutation.h"
#include "manifold_core/philox.h"
#include "torch_target.h"

#include <pybind11/numpy.h>
#include <pybind11/pybind11.h>
#include <pybind11/stl.h>

#include <stdexcept>
#include <string>
#include <vector>

namespace py = pybind11;
using namespace manifold_core;

namespace {

std::vector<std::string> supported_instruction_sets() {
  const char* names[3];
  const int count = cpu::supported_instruction_sets(names);
  return {names, names + count};
}

void use_instruction_set(const std::string& name) {
  if (!cpu::use_instruction_set(name.c_str())) {
    throw std::invalid_argument("name must be one of supported_instruction_sets(), got '" + name + "'");
  }
}

py::array_t<uint32_t> philox4x32_10(const std::array<uint32_t, 4>& counter, const std::array<uint32_t, 2>& key) {
  const portable::PhiloxBlock block =
      portable::philox4x32_10(counter[0], counter[1], counter[2], counter[3], key[0], key[1]);
  return py::array_t<uint32_t>(4, block.word);
}

py::array_t<uint32_t> noise_words(uint64_t seed, uint64_t rows, uint64_t cols, uint64_t first_row) {
  py::array_t<uint32_t> words({rows, cols});
  auto out = words.mutable_unchecked<2>();
  for (uint64_t i = 0; i < rows; ++i) {
    const uint64_t row = first_row + i;
    for (uint64_t block = 0; 4 * block < cols; ++block) {
      const portable::PhiloxBlock b = portable::philox4x32_10(
          static_cast<uint32_t>(block), static_cast<uint32_t>(row), static_cast<uint32_t>(row >> 32),
          portable::kStreamNoise, static_cast<uint32_t>(seed), static_cast<uint32_t>(seed >> 32));
      for (uint64_t lane = 0; lane < 4 && 4 * block + lane < cols; ++lane) out(i, 4 * block + lane) = b.word[lane];
    }
  }
  return words;
}

py::array_t<uint32_t> permutation(uint64_t seed, uint64_t epoch, const py::array_t<uint32_t>& places, uint64_t n) {
  const portable::Permutation order(seed, epoch, n);
  const auto in = places.unchecked<1>();
  py::array_t<uint32_t> samples(in.shape(0));
  auto out = samples.mutable_unchecked<1>();
  for (py::ssize_t i = 0; i < in.shape(0); ++i) {
    if (in(i) >= n) throw std::invalid_argument("places must be below n");  // from there the walk may never end
    out(i) = order.at(in(i));
  }
  return samples;
}

}  // namespace

PYBIND11_MODULE(_C, m) {
  m.attr("compiler") = MC_COMPILER;
  m.attr("torch_target_version") =
      std::to_string(TORCH_TARGET_VERSION >> 56) + "." + std::to_string(TORCH_TARGET_VERSION >> 48 & 0xff);
  m.def("supported_instruction_sets", &supported_instruction_sets, "What this processor can run, widest last.");
  m.def("instruction_set", [] { return cpu::instruction_set().name; }, "The one in use.");
  m.def("use_instruction_set", &use_instruction_set, py::arg("name"), "Choose one; for tests.");
  m.def("philox4x32_10", &philox4x32_10, py::arg("counter"), py::arg("key"), "One block of four words.");
  m.def("noise_words", &noise_words, py::arg("seed"), py::arg("rows"), py::arg("cols"), py::arg("first_row") = 0,
        "The Philox word of each element of a noise matrix, uint32 [rows, cols].");
  m.def("permutation", &permutation, py::arg("seed"), py::arg("epoch"), py::arg("places"), py::arg("n"),
        "The sample at each place of an epoch of n, uint32.");
}
