// How a layer is divided into blocks of tiles and bands of tile rows.
#pragma once
#include "products.h"
#include <algorithm>

namespace cagc {

// Sizes in floats. While the weights of a layer fit into the L3 cache, each thread has blocks of its own, which stay in
// its L2 cache: with 12 tiles in a block, a matrix product that reads weights from L3 reaches its peak (Zen 4: 114
// GFLOP/s per core; 4 to 48 tiles are within 5 %). Larger weights are read once per block, which all threads share.
constexpr int64_t kPrivateWeights = 3 << 20, kSharedBlock = 4 << 20, kTransposed = 256 << 10;
constexpr int64_t kTiles = 12;

struct LayerPlan {
  bool shared;    // all threads work on the same block
  int64_t tiles;  // per block, before rounding
  int64_t band;   // tile rows, counted through the batch, between two barriers
  int64_t ring;   // rows of t
  int64_t x;      // index of the buffer of its input; unused in the second layer of a pair
  int64_t styles, squares, demod, rgb_styles, rgb_weight, strips, edge;  // offsets in the workspace
};

// Rows of t and of y that a thread keeps for a pair of layers in strips: the filter and the second convolution read 8
// new rows at a time and the 3 rows before them.
constexpr int64_t kRing = 8 + 3;

// In strips, "tile" means one tile of every strip. A block holds several where channels are few, and at least two where
// vectors are short: the product of a single tile has too few accumulators to hide the latency of an addition.
constexpr int64_t kStripsBlock = 96 << 10, kStripsTiles = 16;

inline LayerPlan plan_of(const StyledConv &c, int64_t batch, int threads) {
  LayerPlan p{};
  const int64_t side = side_of(c), rows = tile_rows_of(c) * batch;
  const int64_t tile = v_floats(c, 1) + m_floats(c, 1) - 72 * kPointPad;
  p.shared = c.strips == 1 && weight_floats(c) > kPrivateWeights;
  const int64_t fit = std::max<int64_t>(1, kSharedBlock / tile);
  p.band = rows;
  if (c.up == 2) {
    const int64_t t_floats = t_rows_of(c) * t_row_of(c);
    const int64_t band = p.shared ? fit / side : threads * kTransposed / t_floats;
    p.band = std::clamp<int64_t>(band, 1, rows);
    p.ring = c.strips > 1 ? kRing : std::min(rows, p.band + 2) * t_rows_of(c);
  }
  const int64_t count = p.band * side;
  const bool pixels = c.algorithm == Algorithm::direct3 || c.algorithm == Algorithm::transposed2;
  p.tiles = p.shared ? std::max<int64_t>(fit, 4) : pixels ? 4 * kTiles : kTiles;
  if (c.strips > 1) p.tiles = std::max(kStripsTiles / c.strips, kStripsBlock / tile);
  p.tiles = std::min(p.tiles, count);
  return p;
}

// Upper bound of the tiles of a block: blocks of pixels are rounded to a multiple of four.
inline int64_t most(const StyledConv &c, const LayerPlan &p) { return p.tiles + (c.strips == 1 ? 3 : 0); }

// Floats of scratch memory that a thread needs besides its block.
inline int64_t scratch_of(const StyledConv &c) {
  if (c.strips > 1)
    return std::max({image_rows_offset(c) + 12 * c.resolution, (2 * c.in + c.out) * c.strips, 3 * c.resolution});
  const int64_t strip = 2 * (std::max<int64_t>(kStrip / c.out, 8) + 3) * c.out;
  return std::max({36 * c.in, 16 * c.out, strip, c.resolution + 2});
}

}  // namespace cagc
