// Where the pixels of images stand in a tile, and what each pixel of a convolution, or of its transpose, is made of.
#pragma once

#include "kernels.h"

#include <torch/headeronly/util/Exception.h>

#include <algorithm>
#include <limits>
#include <utility>
#include <vector>

namespace manifold_core::cpu {

// A convolution's large side, its input, and its small side, its output.
struct Geometry {
  int64_t batch, inputs, height, width, outputs, out_height, out_width, kernel, stride, padding;

  int64_t depth() const { return inputs * kernel * kernel; }
};

class Layout {
 public:
  Layout(int64_t channels, int64_t height, int64_t width, int64_t border, int64_t tile_height, int64_t tile_width)
      : planes_{channels, height, width, tile_height, tile_width, border, border, nullptr, nullptr, 0} {
    constexpr int64_t most = std::numeric_limits<int32_t>::max();
    const bool fits = tile_height <= most && tile_width <= most / tile_height &&
                      channels <= most / (tile_height * tile_width);
    STD_TORCH_CHECK(fits, "manifold_core: the images are too large for a tile of 2^31 rows");
    for (int64_t i = 0; i < planes_.tile_rows(); ++i) {
      const int64_t y = i / tile_width % tile_height - border, x = i % tile_width - border;
      const bool inside = y >= 0 && y < height && x >= 0 && x < width;
      (inside ? rows_ : border_).push_back(static_cast<int32_t>(i));
    }
  }

  Planes planes() const {
    Planes p = planes_;
    p.rows = rows_.data();
    p.border = border_.data();
    p.border_size = static_cast<int64_t>(border_.size());
    return p;
  }

 private:
  Planes planes_;
  std::vector<int32_t> rows_, border_;
};

inline Layout large_side(const Geometry& g) {
  return {g.inputs, g.height, g.width, g.padding,
          std::max(g.padding + g.height, (g.out_height - 1) * g.stride + g.kernel),
          std::max(g.padding + g.width, (g.out_width - 1) * g.stride + g.kernel)};
}

// Taps that a pixel of the large side has of the small one, along an axis.
inline int64_t taps_of_class(const Geometry& g, int64_t remainder) {
  return remainder < g.kernel ? (g.kernel - 1 - remainder) / g.stride + 1 : 0;
}

inline Layout small_side(const Geometry& g) {
  const int64_t border = taps_of_class(g, 0) - 1;
  return {g.outputs, g.out_height, g.out_width, border,
          border + std::max(g.out_height, (g.height - 1 + g.padding) / g.stride + 1),
          border + std::max(g.out_width, (g.width - 1 + g.padding) / g.stride + 1)};
}

// The rows of the large side's tile that a number of the small side touches, in the order of the weights.
inline std::vector<int32_t> window(const Geometry& g, const Planes& large) {
  std::vector<int32_t> rows;
  for (int64_t i = 0; i < g.inputs; ++i) {
    for (int64_t y = 0; y < g.kernel; ++y) {
      for (int64_t x = 0; x < g.kernel; ++x) {
        rows.push_back(static_cast<int32_t>((i * large.tile_height + y) * large.tile_width + x));
      }
    }
  }
  return rows;
}

// A Correlation with what it points to.
template <class C>
class Plan {
 public:
  // From the large side to the small one. weight is [outputs, inputs, kernel, kernel].
  static Plan down(const Geometry& g, const C* weight, const C* bias) {
    Plan plan(large_side(g));
    const Planes source = plan.source_.planes();
    plan.correlation_ = {source, g.outputs, g.out_height, g.out_width, g.stride, 1, 0, nullptr, bias};
    plan.add(window(g, source), g.outputs,
             [&](int64_t k, int64_t o) { return weight[o * g.depth() + k]; });
    return plan;
  }

  // The transpose: from the small side to the large one.
  static Plan up(const Geometry& g, const C* weight, const C* bias) {
    Plan plan(small_side(g));
    const Planes source = plan.source_.planes();
    plan.correlation_ = {source, g.inputs, g.height, g.width, 1, g.stride, g.padding, nullptr, bias};
    for (int64_t row_class = 0; row_class < g.stride; ++row_class) {
      for (int64_t column_class = 0; column_class < g.stride; ++column_class) {
        std::vector<int32_t> rows;
        std::vector<int64_t> at;  // in the weights, of input 0
        for (int64_t o = 0; o < g.outputs; ++o) {
          for (int64_t j = 0; j < taps_of_class(g, row_class); ++j) {
            for (int64_t i = 0; i < taps_of_class(g, column_class); ++i) {
              rows.push_back(static_cast<int32_t>((o * source.tile_height + source.top - j) * source.tile_width +
                                                  source.left - i));
              at.push_back(o * g.depth() + (row_class + j * g.stride) * g.kernel + column_class + i * g.stride);
            }
          }
        }
        plan.add(std::move(rows), g.inputs,
                 [&](int64_t k, int64_t i) { return weight[at[static_cast<size_t>(k)] + i * g.kernel * g.kernel]; });
      }
    }
    return plan;
  }

  Correlation<C> correlation() const {
    Correlation<C> c = correlation_;
    c.taps = taps_.data();
    return c;
  }

 private:
  explicit Plan(Layout source) : source_(std::move(source)) {}

  template <class Weight>
  void add(std::vector<int32_t> rows, int64_t channels, const Weight& weight) {
    const int64_t depth = static_cast<int64_t>(rows.size());
    std::vector<C> weights;
    weights.reserve(static_cast<size_t>(depth * channels));
    for (int64_t k = 0; k < depth; ++k) {
      for (int64_t c = 0; c < channels; ++c) weights.push_back(weight(k, c));
    }
    rows_.push_back(std::move(rows));
    weights_.push_back(std::move(weights));
    taps_.push_back({depth, rows_.back().data(), weights_.back().data()});  // which stays where it is, moved or not
  }

  Layout source_;
  Correlation<C> correlation_{};
  std::vector<std::vector<int32_t>> rows_;
  std::vector<std::vector<C>> weights_;
  std::vector<Taps<C>> taps_;
};

}  // namespace manifold_core::cpu
