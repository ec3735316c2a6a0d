// How a layer is cut into blocks and bands.
#pragma once
#include "products.h"
#include <algorithm>

namespace cagc {

// In floats. A thread has blocks of its own, in its L2 cache, as long as the weights come out of the L3 cache: with 12
// rows a matrix product reaches its peak from there (Zen 4, 114 GFLOP/s a core; 4 to 48 tiles are within 5 % of it).
// Larger weights are read once, for blocks that all threads share.
constexpr int64_t kPrivateWeights = 3 << 20, kSharedBlock = 4 << 20, kTransposed = 256 << 10;
constexpr int64_t kTiles = 12;

struct LayerPlan {
  bool shared;
  int64_t tiles;  // per block, but for rounding
  int64_t band;   // tile rows, counted through the batch, between two barriers
  int64_t ring;   // rows of t
  int64_t x;      // buffer of its input, but for the second layer of a pair
  int64_t styles, squares, demod, rgb_styles, rgb_weight, strips, edge;  // offsets in the workspace
};

// Of a pair of layers in strips, a thread keeps the rows of t and of y that are still to be read: the filter and the
// second convolution take 8 new ones at a time, and 3 before them.
constexpr int64_t kRing = 8 + 3;

// What counts as a tile there is one of every strip. A block is several where channels are few, and two where vectors
// are short: one by itself gives a product too few sums to hide the latency of an addition.
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

// Tiles of a block, rounded to whole fours.
inline int64_t most(const StyledConv &c, const LayerPlan &p) { return p.tiles + (c.strips == 1 ? 3 : 0); }

// Floats that a thread needs beside its block.
inline int64_t scratch_of(const StyledConv &c) {
  if (c.strips > 1)
    return std::max({16 * c.out * c.strips, (2 * c.in + c.out) * c.strips, 3 * (c.resolution + c.strips)});
  const int64_t strip = 2 * (std::max<int64_t>(kStrip / c.out, 8) + 3) * c.out;
  return std::max({36 * c.in, 16 * c.out, strip, c.resolution + 2});
}

}  // namespace cagc
