// What a model takes of a block's memory, and where in it each thing lies: computed alike on the host, which launches
// and reports by it, and on the device, which works by it.
//
// Parameters lie as dense.cuh reads them, by four: each line of W padded so that lines side by side start in different
// banks. Sums of their gradients lie alike. The tile has model.rows rows and one of ones, by which the gradient of a
// bias is that of one more weight.
#pragma once

#include "../kernels.cuh"
#include "manifold_core/macros.h"
#include "manifold_core/program.h"

namespace manifold_core::cuda {

constexpr int kMostColumns = 128, kFewestColumns = 32;  // of a tile: each of eight threads side by side has four

// Bytes of shared memory that every block has besides: what it knows of its model, and what its sums take.
constexpr int64_t kStaticShared = 5 << 10;

// Where parameters with their gradients, and the tile, lie.
enum class Room : int32_t { all_shared, tile_shared, none_shared };

MC_INLINE int64_t whole_fours(int64_t n) { return (n + 3) / 4 * 4; }

// Of a line of W: whole fours, and an odd number of them.
MC_INLINE int64_t line_pitch(int64_t inputs) { return (inputs + 3) / 4 * 4 + ((inputs + 3) / 4 % 2 == 0 ? 4 : 0); }

// Of a row of the tile: rows side by side start in different banks.
MC_INLINE int64_t row_pitch(int64_t columns) { return columns + 4; }

// Numbers of a layer: W, the bias, and the slope of PReLU.
MC_INLINE int64_t numbers_of(const Dense& l) {
  return l.outputs * line_pitch(l.inputs) + whole_fours(l.outputs) + (l.activation == kPrelu ? 4 : 0);
}

struct Layout {
  Room room;
  int columns;         // samples that a tile holds
  int64_t parameters;  // numbers, with padding; the last four hold log gamma
  int64_t tile;        // numbers, with the sums of the variance ratios behind it
  int64_t shared;      // bytes
  int64_t scratch;     // numbers in global memory
};

MC_INLINE int64_t tile_numbers(const Model& m, int columns) {
  return (m.rows + 1) * row_pitch(columns) + whole_fours(2 * m.latents);
}

// limit: bytes of shared memory that the device gives to a block.
MC_INLINE Layout layout_of(const Model& m, int64_t limit) {
  Layout out = {};
  out.parameters = 4;
  for (int i = 0; i < m.layer_count; ++i) out.parameters += numbers_of(m.layers[i]);
  for (int with_parameters = 1; with_parameters >= 0; --with_parameters) {
    for (int columns = kMostColumns; columns >= kFewestColumns; columns /= 2) {
      out.columns = columns;
      out.tile = tile_numbers(m, columns);
      out.shared = 4 * (out.tile + with_parameters * 2 * out.parameters);
      if (out.shared + kStaticShared > limit) continue;
      out.room = with_parameters ? Room::all_shared : Room::tile_shared;
      out.scratch = with_parameters ? 0 : 2 * out.parameters;
      return out;
    }
  }
  out.room = Room::none_shared;  // with the fewest columns, so that caches hold the tile
  out.shared = 0;
  out.scratch = 2 * out.parameters + out.tile;
  return out;
}

}  // namespace manifold_core::cuda
