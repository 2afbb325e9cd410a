// The memory of a block, and what lies where in it: computed alike on the host, which launches and reports by it, and
// on the device.
//
// Parameters have the order in which dense.cuh reads them, by four, with each line of W padded so that neighbouring
// lines start in different banks; so have their gradients. The tile has model.rows rows and one of ones, with which the
// gradient of a bias is that of one more weight.
//
// A mini-batch is cut into chunks of whole tiles. Each chunk has its own sums, which are added up in the order of the
// chunks: so a result does not depend on how many blocks share a model.
#pragma once

#include "manifold_core/macros.h"
#include "manifold_core/program.h"

namespace manifold_core::cuda {

constexpr int kMostColumns = 128, kFewestColumns = 32;  // of a tile: each of eight threads side by side has four
constexpr int kMostChunks = 16;                         // of a mini-batch
constexpr int kSums = 3;                                // of a chunk, besides those of the latent dimensions

// Bytes of static shared memory that every block has besides: its SharedState (ensemble.cuh), and what its sums take.
constexpr int64_t kStaticShared = 5 << 10;

// Where parameters and the tile reside: each block has its own copy of what is in shared memory. If the parameters
// are not, those of the current layer are staged there, if they fit.
enum class Residency : int32_t { all_shared, tile_shared, none_shared };

MC_INLINE int64_t whole_fours(int64_t n) { return (n + 3) / 4 * 4; }

// The pitch of a line of W: whole fours, and an odd number of them.
MC_INLINE int64_t line_pitch(int64_t inputs) { return (inputs + 3) / 4 * 4 + ((inputs + 3) / 4 % 2 == 0 ? 4 : 0); }

// The pitch of a row of the tile: rows side by side start in different banks.
MC_INLINE int64_t row_pitch(int64_t columns) { return columns + 4; }

// Parameters of a layer, with padding: W, the bias, and the slope of PReLU.
MC_INLINE int64_t padded_parameters(const Dense& l) {
  return l.outputs * line_pitch(l.inputs) + whole_fours(l.outputs) + (l.activation == kPrelu ? 4 : 0);
}

struct Layout {
  Residency residency;
  int columns;         // samples that a tile holds
  int64_t parameters;  // floats, with padding; the last four hold log gamma
  int chunks, tiles_a_chunk;
  int64_t tile;     // floats
  int64_t staged;   // floats of a layer that fit in shared memory, if not all layers are there
  int64_t shared;   // bytes of a block
  int64_t scratch;  // floats in global memory that all blocks share: parameters; gradients and sums of each chunk
};

// Sums of a chunk, in double.
MC_INLINE int64_t sums_a_chunk(const Model& m) { return kSums + m.latents; }

// What follows from the columns of a tile.
MC_INLINE void cut(const Model& m, Layout& out) {
  const int64_t tiles = (m.batch + out.columns - 1) / out.columns;
  out.tiles_a_chunk = static_cast<int>((tiles + kMostChunks - 1) / kMostChunks);
  out.chunks = static_cast<int>((tiles + out.tiles_a_chunk - 1) / out.tiles_a_chunk);
  out.tile = (m.rows + 1) * row_pitch(out.columns);
  out.scratch = (1 + out.chunks) * out.parameters + whole_fours(2 * out.chunks * sums_a_chunk(m));
}

// Whether `beside` floats fit in shared memory beside the tile, and the largest tile with which they do: of no more
// columns than have samples, `fewest` at least.
MC_INLINE bool fits(const Model& m, Residency residency, int64_t beside, int fewest, int64_t limit, Layout& out) {
  out.residency = residency;
  out.staged = residency == Residency::all_shared ? 0 : beside;
  for (out.columns = kMostColumns; out.columns >= fewest; out.columns /= 2) {
    if (out.columns / 2 >= (m.batch > fewest ? m.batch : fewest)) continue;
    cut(m, out);
    out.shared = 4 * (out.tile + beside);
    if (out.shared + kStaticShared <= limit) return true;
  }
  return false;
}

// limit: bytes of shared memory that the device gives to a block.
MC_INLINE Layout layout_of(const Model& m, int64_t limit) {
  // What a multiprocessor gives to each of two blocks, of which one works while the other waits; a block takes 1 KB
  // more.
  constexpr int64_t of_block = 1 << 10;
  const int64_t limit_of_two = (limit + of_block) / 2 - of_block;
  Layout out = {};
  out.parameters = 4;
  int64_t largest = 0;
  for (int i = 0; i < m.layer_count; ++i) {
    const int64_t parameters = padded_parameters(m.layers[i]);
    out.parameters += parameters;
    largest = parameters > largest ? parameters : largest;
  }
  const int64_t most = (limit - kStaticShared) / 16 * 4;  // floats, by four
  if (fits(m, Residency::all_shared, out.parameters, 2 * kFewestColumns, limit_of_two, out)) return out;
  if (fits(m, Residency::all_shared, out.parameters, kFewestColumns, limit, out)) return out;
  if (fits(m, Residency::tile_shared, largest, kFewestColumns, limit, out)) return out;
  out.columns = kFewestColumns;  // so that most layers fit, or caches hold the tile
  cut(m, out);
  const int64_t shared_tile = out.tile <= most ? out.tile : 0;
  out.residency = shared_tile > 0 ? Residency::tile_shared : Residency::none_shared;
  out.staged = largest < most - shared_tile ? largest : most - shared_tile;
  out.shared = 4 * (shared_tile + out.staged);
  return out;
}

}  // namespace manifold_core::cuda
