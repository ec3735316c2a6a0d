// Winograd (Toom-Cook) transforms along one axis, and of tiles by F(4x4, 3x3). Points 0, ±1, ±2, ∞ for F(4, 3) and
// 0, ±1, 2, ∞ for F(4, 2).
// Lavin and Gray, "Fast algorithms for convolutional neural networks", 2016.
#pragma once
#include "../isa/simd.h"

namespace cagc {
namespace {

template <int W> CAGC_INLINE void input43(const vec<W> *d, vec<W> *o) {
  const vec<W> a = d[4] - 4.f * d[2], b = d[3] - 4.f * d[1], c = d[4] - d[2], e = 2.f * (d[3] - d[1]);
  o[0] = 4.f * d[0] - 5.f * d[2] + d[4];
  o[1] = a + b;
  o[2] = a - b;
  o[3] = c + e;
  o[4] = c - e;
  o[5] = 4.f * d[1] - 5.f * d[3] + d[5];
}

template <int W> CAGC_INLINE void output43(const vec<W> *m, vec<W> *y) {
  const vec<W> a = m[1] + m[2], b = m[1] - m[2], c = m[3] + m[4], e = m[3] - m[4];
  y[0] = m[0] + a + c;
  y[1] = b + 2.f * e;
  y[2] = a + 4.f * c;
  y[3] = b + 8.f * e + m[5];
}

template <int W> CAGC_INLINE void input42(const vec<W> *d, vec<W> *o) {
  const vec<W> a = d[0] - d[2], b = d[3] - d[1], c = d[3] - d[2];
  o[0] = 2.f * a + b;
  o[1] = c - 2.f * d[1];
  o[2] = c + 2.f * (d[1] - d[2]);
  o[3] = b;
  o[4] = d[4] - d[2] - 2.f * b;
}

template <int W> CAGC_INLINE void output42(const vec<W> *m, vec<W> *y) {
  const vec<W> a = m[1] + m[2], b = m[1] - m[2];
  y[0] = m[0] + a + m[3];
  y[1] = b + 2.f * m[3];
  y[2] = a + 4.f * m[3];
  y[3] = b + 8.f * m[3] + m[4];
}

// Input transform of F(4x4, 3x3). at(i, j) returns a vector of the patch; the points are stored `step` floats apart.
// Two rows of points at a time, for which the patch is read again, because registers do not hold all of them.
template <int W, class At> CAGC_INLINE void transform43(At &&at, float *v, int64_t step) {
  const auto row = [&](int i, const vec<W> *d) CAGC_LAMBDA {
    vec<W> o[6];
    input43<W>(d, o);
    CAGC_UNROLL
    for (int j = 0; j < 6; j++) store<W>(v + (i * 6 + j) * step, o[j]);
  };
  vec<W> p[6], q[6];
  CAGC_UNROLL
  for (int j = 0; j < 6; j++) {
    const vec<W> a = at(4, j) - 4.f * at(2, j), b = at(3, j) - 4.f * at(1, j);
    p[j] = a + b, q[j] = a - b;
  }
  row(1, p), row(2, q);
  CAGC_UNROLL
  for (int j = 0; j < 6; j++) {
    const vec<W> c = at(4, j) - at(2, j), e = at(3, j) - at(1, j);
    p[j] = c + 2.f * e, q[j] = c - 2.f * e;
  }
  row(3, p), row(4, q);
  CAGC_UNROLL
  for (int j = 0; j < 6; j++) {
    p[j] = 4.f * at(0, j) - 5.f * at(2, j) + at(4, j);
    q[j] = 4.f * at(1, j) - 5.f * at(3, j) + at(5, j);
  }
  row(0, p), row(5, q);
}

// Output transform of F(4x4, 3x3) for points `step` floats apart; calls to(i, j, v) for each of the 4 x 4 outputs.
// Two rows of outputs at a time, likewise.
template <int W, class To> CAGC_INLINE void inverse43(const float *m, int64_t step, To &&to) {
  const auto at = [&](int i, int j) CAGC_LAMBDA { return load<W>(m + (i * 6 + j) * step); };
  const auto row = [&](int i, const vec<W> *d) CAGC_LAMBDA {
    vec<W> o[4];
    output43<W>(d, o);
    CAGC_UNROLL
    for (int j = 0; j < 4; j++) to(i, j, o[j]);
  };
  vec<W> p[6], q[6];
  CAGC_UNROLL
  for (int j = 0; j < 6; j++) {
    const vec<W> a = at(1, j) + at(2, j), c = at(3, j) + at(4, j);
    p[j] = at(0, j) + a + c, q[j] = a + 4.f * c;
  }
  row(0, p), row(2, q);
  CAGC_UNROLL
  for (int j = 0; j < 6; j++) {
    const vec<W> b = at(1, j) - at(2, j), e = at(3, j) - at(4, j);
    p[j] = b + 2.f * e, q[j] = b + 8.f * e + at(5, j);
  }
  row(1, p), row(3, q);
}

}  // namespace
}  // namespace cagc
