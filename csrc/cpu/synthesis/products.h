// The matrix products of each algorithm, and the memory of a block.
#pragma once
#include "kernels.h"

namespace cagc {

// One matrix product of a block: rows of v times a matrix of the weight.
struct Product {
  int64_t weight;                // rows of the weight before its matrix
  int64_t k, lda;                // inner dimension; floats between rows of v
  int64_t mult;                  // rows per tile
  int64_t v, m;                  // rows per tile of v and m before its own
  int64_t v_offset, m_offset;    // further offset of its rows, in floats
};

inline int64_t product_count(Algorithm a) {
  switch (a) {
    case Algorithm::direct3: return 1;
    case Algorithm::transposed2: return 4;
    default: return 36;
  }
}

inline Product product_of(const StyledConv &c, int64_t i) {
  switch (c.algorithm) {
    case Algorithm::direct3: return {0, 9 * c.in, 9 * c.in, 1, 0, 0, 0, 0};
    case Algorithm::winograd43: return {i * c.in, c.in, c.in, 1, i, i, i * kPointPad, i * kPointPad};
    case Algorithm::transposed2: {
      constexpr int64_t taps[] = {1, 2, 2, 4}, before[] = {0, 1, 3, 5}, first[] = {1, 0, 1, 0};
      return {before[i] * c.in, taps[i] * c.in, 4 * c.in, 1, 0, i, first[i] * c.in, i * kPointPad};
    }
    default: {
      const int64_t a = i / 6, b = i % 6, mult_a = a == 5 ? 4 : 1, before = a * 9 + mult_a * b;
      return {i * c.in, c.in, c.in, mult_a * (b == 5 ? 4 : 1), before, before, i * kPointPad, i * kPointPad};
    }
  }
}

// Floats of v and m for `tiles` tiles, padding between points included.
inline int64_t v_floats(const StyledConv &c, int64_t tiles) {
  constexpr int64_t rows[] = {9, 36, 4, 81};
  return rows[static_cast<int>(c.algorithm)] * tiles * c.strips * c.in + 36 * kPointPad;
}

inline int64_t m_floats(const StyledConv &c, int64_t tiles) {
  constexpr int64_t rows[] = {1, 36, 4, 81};
  return rows[static_cast<int>(c.algorithm)] * tiles * c.strips * c.out + 36 * kPointPad;
}

inline int64_t weight_floats(const StyledConv &c) {
  return (c.algorithm == Algorithm::direct3 || c.algorithm == Algorithm::transposed2 ? 9 : 36) * c.in * c.out;
}

// Rows of tiles of an image. A transposed convolution has one position more per axis than x has pixels.
inline int64_t tile_rows_of(const StyledConv &c) {
  const int64_t size = c.resolution / c.up;
  switch (c.algorithm) {
    case Algorithm::direct3: return size;
    case Algorithm::winograd43: return size / 4;
    case Algorithm::transposed2: return size + 1;
    default: return (size + 4) / 4;
  }
}

// Tiles in a row of each strip.
inline int64_t side_of(const StyledConv &c) {
  return c.strips == 1 ? tile_rows_of(c) : c.resolution / c.up / (4 * c.strips);
}

// Rows of t per tile, and also its columns.
inline int64_t t_rows_of(const StyledConv &c) {
  return c.up == 1 ? 0 : c.algorithm == Algorithm::winograd42 ? 8 : 2;
}

// Floats of a row of t.
inline int64_t t_row_of(const StyledConv &c) {
  return c.strips > 1 ? strips_pitch(c.resolution, c.out) : side_of(c) * t_rows_of(c) * c.out;
}

}  // namespace cagc
