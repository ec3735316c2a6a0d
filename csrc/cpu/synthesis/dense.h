// Fully connected layers: out[rows, columns] = a[rows, k] * b[k, columns] * scale + bias. At one row their time is that
// of reading b, so b may be stored in half or a quarter of the bytes; it is widened in registers.
#pragma once
#include "gemm.h"
#include "kernels.h"
#include <algorithm>
#include <cmath>

namespace cagc {
namespace {

// Vectors in a panel. One row takes two sums of each, because a sum's additions wait for each other: eight sums keep
// two multiply-add units busy for the four cycles that one takes.
constexpr int kDensePanel = kRegisters >= 16 ? 4 : 2;

template <class F> void with_storage(Storage storage, F &&f) {
  switch (storage) {
    case Storage::float32: return f(static_cast<const float *>(nullptr));
    case Storage::float16: return f(static_cast<const half_bits *>(nullptr));
    case Storage::int8: return f(static_cast<const int8_t *>(nullptr));
  }
}

// R rows by V vectors of columns, b [k][V * W]; U steps of k have sums of their own.
template <int W, int V, int R, int U, class T>
CAGC_NOINLINE void dense_block(const DenseJob &job, const float *a, const T *b, float *out) {
  vec<W> sum[U][R][V];
  CAGC_UNROLL
  for (int i = 0; i < U * R * V; i++) sum[i / (R * V)][i / V % R][i % V] = vec<W>{};
  int64_t i = 0;
  for (; i + U <= job.k; i += U, b += U * V * W)
    CAGC_UNROLL
    for (int u = 0; u < U; u++) {
      vec<W> weights[V];
      CAGC_UNROLL
      for (int v = 0; v < V; v++) weights[v] = load<W>(b + (u * V + v) * W);
      CAGC_UNROLL
      for (int r = 0; r < R; r++) {
        const vec<W> x = broadcast<W>(a[r * job.lda + i + u]);
        CAGC_UNROLL
        for (int v = 0; v < V; v++) sum[u][r][v] += x * weights[v];
      }
    }
  for (; U > 1 && i < job.k; i++, b += V * W)
    CAGC_UNROLL
    for (int r = 0; r < R; r++)
      CAGC_UNROLL
      for (int v = 0; v < V; v++) sum[0][r][v] += broadcast<W>(a[r * job.lda + i]) * load<W>(b + v * W);
  CAGC_UNROLL
  for (int r = 0; r < R; r++)
    CAGC_UNROLL
    for (int v = 0; v < V; v++) {
      if constexpr (U > 1) sum[0][r][v] += sum[1][r][v];
      store<W>(out + r * job.ldo + v * W, sum[0][r][v]);
    }
}

// What is done to columns [begin, end) of the products: apart from the sums, whose registers it would need.
template <int W> void dense_finish(const DenseJob &job, int64_t begin, int64_t end) {
  const Dense &layer = *job.layer;
  for (int64_t r = 0; r < job.rows; r++)
    for (int64_t c = begin; c < end; c += W) {
      float *out = job.out + r * job.ldo + c;
      vec<W> u = load<W>(out);
      if (layer.scale) u = u * load<W>(layer.scale + c);
      if (layer.bias) u = u + load<W>(layer.bias + c);
      if (job.leaky) u = u * 0.2f > u ? u * 0.2f : u;
      store<W>(out, u);
    }
}

template <int W, int V, int R, class T>
void dense_rest(int64_t rows, const DenseJob &job, const float *a, const T *b, float *out) {
  if constexpr (R > 0) {
    if (rows == R) dense_block<W, V, R, R == 1 ? 2 : 1>(job, a, b, out);
    else dense_rest<W, V, R - 1>(rows, job, a, b, out);
  }
}

template <int W, int V, class T>
void dense_panel(int64_t vectors, const DenseJob &job, const T *b, int64_t column) {
  if constexpr (V > 0) {
    if (vectors != V) return dense_panel<W, V - 1>(vectors, job, b, column);
    constexpr int R = V == 4 ? rows_of(4) : rows_of(V) > 6 ? 6 : rows_of(V);
    const int64_t blocks = (job.rows + R - 1) / R;
    for (int64_t i = 0; i < blocks; i++) {
      const int64_t r = job.rows * i / blocks, count = job.rows * (i + 1) / blocks - r;
      dense_rest<W, V, R>(count, job, job.a + r * job.lda, b, job.out + r * job.ldo + column);
    }
    dense_finish<W>(job, column, column + V * W);
  }
}

// Panels [begin, end).
void dense(const DenseJob &job, int64_t begin, int64_t end) {
  const Panels panels(job.columns, kDensePanel);
  with_storage(job.layer->storage, [&](auto type) {
    const auto *weight = static_cast<decltype(type)>(job.layer->weight);
    for (int64_t p = begin; p < end; p++) {
      const int64_t first = panels.first(p), vectors = panels.first(p + 1) - first, column = first * panels.lanes;
      if (panels.lanes == 8) dense_panel<8, kDensePanel>(vectors, job, weight + column * job.k, column);
      else dense_panel<kWide, kDensePanel>(vectors, job, weight + column * job.k, column);
    }
  });
}

int64_t dense_panels(int64_t columns) { return Panels(columns, kDensePanel).count; }

// Whether w / scale is a number of 11 bits, as float16 has, but for the rounding of w and of the scale to float32.
inline bool has_bits_of_half(float w, double scale) {
  int exponent;
  const double significand = 2048 * std::frexp(w / scale, &exponent);
  return std::fabs(significand - std::nearbyint(significand)) < 1. / 1024;
}

// A scale of which all numbers are multiples by a float16, with magnitudes below 2^15. Weights that a checkpoint holds
// as float16 are such numbers times a gain, so that they are stored exactly; for others the scale is a power of two.
inline float scale_of_halves(const float *b, int64_t count) {
  float most = 0;
  for (int64_t i = 0; i < count; i++) most = std::max(most, std::fabs(b[i]));
  if (!(most > 1e-30f)) return 1;
  for (int bits = 1024; bits < 2048; bits++) {  // of the largest magnitude
    const double scale = most / (16. * bits);
    if (std::all_of(b, b + count, [&](float w) { return has_bits_of_half(w, scale); }))
      return static_cast<float>(scale);
  }
  int exponent;
  std::frexp(most, &exponent);
  return std::ldexp(1.f, exponent - 15);
}

// As pack(). int8: a column c is packed as the nearest of 255 multiples of scale[c], of which the largest has the
// column's largest magnitude. float16: as multiples of one scale of all columns.
void pack_dense(Storage storage, const float *b, int64_t k, int64_t columns, void *packed, float *scale) {
  if (storage == Storage::float16) std::fill_n(scale, columns, scale_of_halves(b, k * columns));
  for (int64_t c = 0; storage == Storage::int8 && c < columns; c++) {
    float most = 0;
    for (int64_t i = 0; i < k; i++) most = std::max(most, std::fabs(b[i * columns + c]));
    scale[c] = most / 127;
  }
  const Panels panels(columns, kDensePanel);
  int64_t at = 0;
  for (int64_t p = 0; p < panels.count; p++) {
    const int64_t begin = panels.first(p) * panels.lanes, end = panels.first(p + 1) * panels.lanes;
    for (int64_t i = 0; i < k; i++)
      for (int64_t c = begin; c < end; c++, at++) {
        const float w = b[i * columns + c];
        switch (storage) {
          case Storage::float32: static_cast<float *>(packed)[at] = w; break;
          case Storage::float16: static_cast<half_bits *>(packed)[at] = to_half(w / scale[c]); break;
          case Storage::int8:
            static_cast<int8_t *>(packed)[at] = static_cast<int8_t>(scale[c] > 0 ? std::lrint(w / scale[c]) : 0);
        }
      }
  }
}

}  // namespace
}  // namespace cagc
