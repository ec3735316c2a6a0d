// The input side of a convolution: gathers patches of activations, applies the Winograd transform where the algorithm
// has one, and writes the rows of the matrix products.
#pragma once
#include "kernels.h"
#include "winograd.h"

namespace cagc {
namespace {

// Sample, tile row and tile column.
struct Place { int64_t n, y, x; };

CAGC_INLINE Place place(const ConvJob &job, int64_t tile) {
  const int64_t i = tile % job.tiles;
  return {tile / job.tiles, i / job.side, i % job.side};
}

// A square of pixels of x; pixels outside the image are zero.
struct Patch {
  const float *data;
  int64_t row, column;  // strides
  const float *ahead;   // the last four columns of the next tile in x, for prefetching
  int64_t pitch;        // of x
};

Patch patch(const ConvJob &job, const Place &at, const Place &next, int64_t step, int64_t size, float *scratch) {
  const int64_t c = job.conv->in, s = job.size, y = at.y * step - 1, x = at.x * step - 1;
  const int64_t row = pitch(s, c), below = next.y > 0 ? next.y * step - 1 : 0;
  const float *image = job.x + at.n * s * row;
  const float *ahead = job.x + (next.n * s + below) * row + (next.x * step + size - 5) * c;
  if (y >= 0 && x >= 0 && y + size <= s && x + size <= s) return {image + y * row + x * c, row, c, ahead, row};
  for (int64_t i = 0; i < size; i++)
    for (int64_t j = 0; j < size; j++) {
      float *to = scratch + (i * size + j) * c;
      const bool inside = y + i >= 0 && y + i < s && x + j >= 0 && x + j < s;
      const float *from = image + (y + i) * row + (x + j) * c;
      for (int64_t k = 0; k < c; k++) to[k] = inside ? from[k] : 0.f;
    }
  return {scratch, size * c, c, ahead, row};
}

// Prefetches pixels of the next tile: computing a tile takes long enough to load them from the L3 cache.
template <int Size> CAGC_INLINE void prefetch(const Patch &p, int64_t c) {
  CAGC_UNROLL
  for (int i = 0; i < Size; i++)
    CAGC_UNROLL
    for (int j = 0; j < 4; j++) __builtin_prefetch(p.ahead + i * p.pitch + j * p.column + c);
}

template <int W> void tile43(const Patch &p, int64_t in, const Block &block, int64_t tile) {
  for (int64_t c = 0; c < in; c += W) {
    prefetch<6>(p, c);
    const auto at = [&](int i, int j) CAGC_LAMBDA { return load<W>(p.data + i * p.row + j * p.column + c); };
    transform43<W>(at, block.v + tile * in + c, block.count * in + kPointPad);
  }
}

// Rows of v and m of Algorithm::winograd42. Of each axis, indices 0 to 4 are Winograd points and index 5 stands for the
// four odd positions, which are not transformed. mult42: rows per tile of an index. before42: rows per tile that
// precede those of points (a, b).
constexpr int64_t mult42(int64_t a) { return a == 5 ? 4 : 1; }
constexpr int64_t before42(int64_t a, int64_t b) { return a * 9 + mult42(a) * b; }

// Offset in v or m of position (ja, jb) of points (a, b), where a row has `row` floats.
CAGC_INLINE int64_t place42(const Block &block, int64_t tile, int64_t row, int a, int b, int ja, int jb) {
  return (before42(a, b) * block.count + (tile * mult42(a) + ja) * mult42(b) + jb) * row + (a * 6 + b) * kPointPad;
}

// Input transform of Algorithm::winograd42. at(i, j) returns a vector of the patch. v points to that vector's channel
// in the block's v, whose rows have `row` floats.
template <int W, class At>
CAGC_INLINE void transform42(At &&at, const Block &block, int64_t tile, int64_t row, float *v) {
  const auto to = [&](int a, int b, int ja, int jb) CAGC_LAMBDA { return v + place42(block, tile, row, a, b, ja, jb); };
  vec<W> rows[5][5];
  CAGC_UNROLL
  for (int j = 0; j < 5; j++) {
    vec<W> d[5], o[5];
    CAGC_UNROLL
    for (int i = 0; i < 5; i++) d[i] = at(i, j);
    input42<W>(d, o);
    CAGC_UNROLL
    for (int i = 0; i < 5; i++) {
      rows[i][j] = o[i];
      if (j > 0) store<W>(to(i, 5, 0, j - 1), o[i]);
      if (i > 0 && j > 0) store<W>(to(5, 5, i - 1, j - 1), d[i]);
    }
  }
  CAGC_UNROLL
  for (int i = 0; i < 5; i++) {
    vec<W> o[5];
    input42<W>(rows[i], o);
    CAGC_UNROLL
    for (int j = 0; j < 5; j++) store<W>(to(i, j, 0, 0), o[j]);
  }
  CAGC_UNROLL
  for (int i = 1; i < 5; i++) {
    vec<W> d[5], o[5];
    CAGC_UNROLL
    for (int j = 0; j < 5; j++) d[j] = at(i, j);
    input42<W>(d, o);
    CAGC_UNROLL
    for (int j = 0; j < 5; j++) store<W>(to(5, j, i - 1, 0), o[j]);
  }
}

template <int W> void tile42(const Patch &p, int64_t in, const Block &block, int64_t tile) {
  for (int64_t c = 0; c < in; c += W) {
    prefetch<5>(p, c);
    const auto at = [&](int i, int j) CAGC_LAMBDA { return load<W>(p.data + i * p.row + j * p.column + c); };
    transform42<W>(at, block, tile, in, block.v + c);
  }
}

template <int W> void copy(const float *from, float *to, int64_t n) {
  for (int64_t c = 0; c < n; c += W) store<W>(to + c, load<W>(from + c));
}

// Writes one row of 9 * in floats, with taps in the order of the weight (im2col).
template <int W> void tile3(const Patch &p, int64_t in, const Block &block, int64_t tile) {
  float *v = block.v + tile * 9 * in;
  for (int i = 0; i < 3; i++)
    for (int j = 0; j < 3; j++) copy<W>(p.data + i * p.row + j * p.column, v + (i * 3 + j) * in, in);
}

// Writes one row of 4 * in floats: x[i-1][j], x[i][j], x[i][j-1], x[i-1][j-1]. In this order the taps of each output
// parity are consecutive.
template <int W> void tile2(const Patch &p, int64_t in, const Block &block, int64_t tile) {
  float *v = block.v + tile * 4 * in;
  copy<W>(p.data + p.column, v, in);
  copy<W>(p.data + p.row + p.column, v + in, in);
  copy<W>(p.data + p.row, v + 2 * in, in);
  copy<W>(p.data, v + 3 * in, in);
}

void input(const ConvJob &job, const Block &block, int64_t begin, int64_t end, float *scratch) {
  const StyledConv &conv = *job.conv;
  with_width(conv.in, [&](auto width) {
    constexpr int W = decltype(width)::value;
    for (int64_t tile = begin; tile < end; tile++) {
      const Place at = place(job, block.first + tile), next = place(job, block.first + tile + 1);
      const auto pixels = [&](int64_t step, int64_t size) { return patch(job, at, next, step, size, scratch); };
      switch (conv.algorithm) {
        case Algorithm::direct3: tile3<W>(pixels(1, 3), conv.in, block, tile); break;
        case Algorithm::winograd43: tile43<W>(pixels(4, 6), conv.in, block, tile); break;
        case Algorithm::transposed2: tile2<W>(pixels(1, 2), conv.in, block, tile); break;
        case Algorithm::winograd42: tile42<W>(pixels(4, 5), conv.in, block, tile); break;
      }
    }
  });
}

}  // namespace
}  // namespace cagc
