// Winograd (Toom-Cook) transforms for images in planes, at points whose powers stay near one: by a float32 sum of 512
// channels the results are 10 times as exact as at the points 0, 1, -1, 2, -2 of winograd.h.
//
// F(4x4, 3x3) at 0, ±√½, ±√2 and infinity, and the transposed convolution of stride 2, whose outputs at even places
// are F(4, 2) of taps 2 and 0 at ±5/4, ±1/2 and infinity, and those at odd places products with tap 1.
// Barabasz, Anderson, Soodhalter and Gregg, "Error analysis and improving the accuracy of Winograd convolution for deep
// neural networks", ACM TOMS 2020.
#pragma once
#include "../isa/simd.h"
#include "planar_kernels.h"

namespace cagc {
namespace {

constexpr float kRoot2 = 1.41421356237309505f, kRootHalf = 0.70710678118654752f;

template <int W> CAGC_INLINE void points43(const vec<W> *d, vec<W> *o) {
  const vec<W> a = d[4] - 2.f * d[2], b = kRootHalf * d[3] - kRoot2 * d[1];
  const vec<W> c = d[4] - .5f * d[2], e = kRoot2 * d[3] - kRootHalf * d[1];
  o[0] = d[0] - 2.5f * d[2] + d[4];
  o[1] = a + b;
  o[2] = a - b;
  o[3] = c + e;
  o[4] = c - e;
  o[5] = d[1] - 2.5f * d[3] + d[5];
}

template <int W> CAGC_INLINE void outputs43(const vec<W> *m, vec<W> *y) {
  const vec<W> a = m[1] + m[2], b = kRootHalf * (m[1] - m[2]), c = m[3] + m[4], e = kRoot2 * (m[3] - m[4]);
  y[0] = m[0] + a + c;
  y[1] = b + e;
  y[2] = .5f * a + 2.f * c;
  y[3] = .5f * b + 2.f * e + m[5];
}

template <int W> CAGC_INLINE void points42(const vec<W> *d, vec<W> *o) {
  const vec<W> a = d[3] - .25f * d[1], b = 1.25f * d[2] - .3125f * d[0];
  const vec<W> c = d[3] - 1.5625f * d[1], e = .5f * d[2] - .78125f * d[0];
  o[0] = a + b;
  o[1] = a - b;
  o[2] = c + e;
  o[3] = c - e;
  o[4] = d[4] - 1.8125f * d[2] + .390625f * d[0];
}

template <int W> CAGC_INLINE void outputs42(const vec<W> *m, vec<W> *y) {
  const vec<W> a = m[0] + m[1], b = 1.25f * (m[0] - m[1]), c = m[2] + m[3], e = .5f * (m[2] - m[3]);
  y[0] = a + c;
  y[1] = b + e;
  y[2] = 1.5625f * a + .25f * c;
  y[3] = 1.5625f * b + .25f * e + m[4];
}

// The transform of one axis: `Size` pixels to `Points` points, and back to four outputs.
template <int Up> struct Axis;
template <> struct Axis<1> {
  static constexpr int kSize = 6, kPoints = 6;
  template <int W> static CAGC_INLINE void points(const vec<W> *d, vec<W> *o) { points43<W>(d, o); }
  template <int W> static CAGC_INLINE void outputs(const vec<W> *m, vec<W> *y) { outputs43<W>(m, y); }
};
template <> struct Axis<2> {
  static constexpr int kSize = 5, kPoints = 5;
  template <int W> static CAGC_INLINE void points(const vec<W> *d, vec<W> *o) { points42<W>(d, o); }
  template <int W> static CAGC_INLINE void outputs(const vec<W> *m, vec<W> *y) { outputs42<W>(m, y); }
};

// Offset in v or m of place (ja, jb) of the points (a, b) of a tile, where a row has `row` floats.
template <int Up>
CAGC_INLINE int64_t place_of(int64_t count, int64_t tile, int64_t row, int a, int b, int ja, int jb) {
  const PlanarPoint p = planar_point(Up, a * 6 + b);
  const int64_t columns = planar_places(Up, b);
  return (p.before * count + tile * p.rows + ja * columns + jb) * row + (a * 6 + b) * kPointPad;
}

// at(i, j): a vector of the patch. to(a, b, ja, jb, vector): stores a point.
template <int W, int Up, class At, class To> CAGC_INLINE void transform(At &&at, To &&to) {
  using A = Axis<Up>;
  constexpr int size = A::kSize, points = A::kPoints;
  vec<W> rows[points][size];
  CAGC_UNROLL
  for (int j = 0; j < size; j++) {
    vec<W> d[size], o[points];
    CAGC_UNROLL
    for (int i = 0; i < size; i++) d[i] = at(i, j);
    A::template points<W>(d, o);
    CAGC_UNROLL
    for (int i = 0; i < points; i++) {
      rows[i][j] = o[i];
      if (Up == 2 && j > 0) to(i, 5, 0, j - 1, o[i]);
    }
  }
  CAGC_UNROLL
  for (int i = 0; i < points; i++) {
    vec<W> o[points];
    A::template points<W>(rows[i], o);
    CAGC_UNROLL
    for (int j = 0; j < points; j++) to(i, j, 0, 0, o[j]);
  }
  if constexpr (Up == 2) {
    CAGC_UNROLL
    for (int i = 1; i < size; i++) {
      vec<W> d[size], o[points];
      CAGC_UNROLL
      for (int j = 0; j < size; j++) d[j] = at(i, j);
      A::template points<W>(d, o);
      CAGC_UNROLL
      for (int j = 0; j < points; j++) to(5, j, i - 1, 0, o[j]);
      CAGC_UNROLL
      for (int j = 1; j < size; j++) to(5, 5, i - 1, j - 1, d[j]);
    }
  }
}

// from(a, b, ja, jb): a vector of the products. to(i, j, vector): stores an output of the tile.
template <int W, int Up, class From, class To> CAGC_INLINE void inverse(From &&from, To &&to) {
  using A = Axis<Up>;
  constexpr int points = A::kPoints;
  // Products along the rows of the points (a, b), or of place ja where a stands for odd rows.
  const auto columns = [&](int b, int jb, vec<W> *y) CAGC_LAMBDA {
    vec<W> d[points];
    CAGC_UNROLL
    for (int a = 0; a < points; a++) d[a] = from(a, b, 0, jb);
    A::template outputs<W>(d, y);
  };
  vec<W> rows[4][points];
  CAGC_UNROLL
  for (int b = 0; b < points; b++) {
    vec<W> y[4];
    columns(b, 0, y);
    CAGC_UNROLL
    for (int i = 0; i < 4; i++) rows[i][b] = y[i];
  }
  CAGC_UNROLL
  for (int i = 0; i < 4; i++) {
    vec<W> y[4];
    A::template outputs<W>(rows[i], y);
    CAGC_UNROLL
    for (int j = 0; j < 4; j++) to(Up * i, Up * j, y[j]);
  }
  if constexpr (Up == 2) {
    CAGC_UNROLL
    for (int k = 0; k < 4; k++) {
      vec<W> d[points], y[4];
      columns(5, k, y);
      CAGC_UNROLL
      for (int i = 0; i < 4; i++) to(2 * i, 2 * k + 1, y[i]);
      CAGC_UNROLL
      for (int b = 0; b < points; b++) d[b] = from(5, b, k, 0);
      A::template outputs<W>(d, y);
      CAGC_UNROLL
      for (int j = 0; j < 4; j++) {
        to(2 * k + 1, 2 * j, y[j]);
        to(2 * k + 1, 2 * j + 1, from(5, 5, k, j));
      }
    }
  }
}

}  // namespace
}  // namespace cagc
