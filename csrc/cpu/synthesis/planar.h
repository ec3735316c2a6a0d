// Images in planes to Winograd's transforms with channels in vectors, and back: blocks of as many pixels as a vector
// has lanes are transposed in registers.
#pragma once
#include "../isa/simd.h"
#include "gemm.h"
#include "planar_winograd.h"
#include <algorithm>
#include <cstring>
#include <utility>

namespace cagc {
namespace {

// Lane `lane` of one of the two results of step S of a transposition, in a vector followed by the one S rows below it.
template <int W, int S, bool Below> constexpr int source(int lane) {
  const bool odd = lane & S;
  return Below ? (odd ? W + lane : lane + S) : (odd ? W + lane - S : lane);
}

template <int W, int S, int... Lane>
CAGC_INLINE void exchange(vec<W> &a, vec<W> &b, std::integer_sequence<int, Lane...>) {
  const vec<W> above = CAGC_SHUFFLE(W, a, b, source<W, S, false>(Lane)...);
  b = CAGC_SHUFFLE(W, a, b, source<W, S, true>(Lane)...);
  a = above;
}

template <int W, int S = 1> CAGC_INLINE void transpose(vec<W> *rows) {
  if constexpr (S < W) {
    CAGC_UNROLL
    for (int i = 0; i < W; i++)
      if (!(i & S)) exchange<W, S>(rows[i], rows[i + S], std::make_integer_sequence<int, W>());
    transpose<W, 2 * S>(rows);
  }
}

// Pixels of a row from column `at` on; those outside of it are zero.
template <int W> CAGC_INLINE vec<W> pixels_at(const float *row, int64_t at, int64_t width) {
  if (at >= 0 && at + W <= width) return load<W>(row + at);
  float inside[W] = {};
  for (int64_t i = std::max<int64_t>(0, -at); i < std::min<int64_t>(W, width - at); i++) inside[i] = row[at + i];
  return load<W>(inside);
}

// The pixels of a run, and those around it, of one vector of channels: to [rows, pitch, W]. Zeros outside of the image.
template <int W>
CAGC_NOINLINE void gather(const PlanarJob &job, const Run &run, int64_t group, int64_t rows, int64_t row_pitch,
                          float *to) {
  const PlanarCall &call = job.call;
  const int64_t top = run.row * 4 - call.padding, left = run.first * 4 - call.padding, plane = call.h * call.w;
  const int64_t first = group * W, channels = std::min<int64_t>(W, job.in - first);
  const float *x = call.x + (run.n * job.in + first) * plane;
  float scale[W] = {};
  for (int64_t c = 0; c < channels; c++) scale[c] = call.scale ? call.scale[run.n * job.in + first + c] : 1.f;
  const vec<W> scales = load<W>(scale);
  for (int64_t i = 0; i < rows; i++) {
    float *out = to + i * row_pitch * W;
    if (top + i < 0 || top + i >= call.h) {
      std::memset(out, 0, row_pitch * W * sizeof(float));
      continue;
    }
    const float *from = x + (top + i) * call.w;
    for (int64_t j = 0; j < 4 * run.count + 2; j += W) {
      vec<W> block[W] = {};
      if (channels == W && left + j >= 0 && left + j + W <= call.w) {
        CAGC_UNROLL
        for (int c = 0; c < W; c++) block[c] = load<W>(from + c * plane + left + j);
      } else {
        for (int64_t c = 0; c < channels; c++) block[c] = pixels_at<W>(from + c * plane, left + j, call.w);
      }
      transpose<W>(block);
      CAGC_UNROLL
      for (int k = 0; k < W; k++) store<W>(out + (j + k) * W, block[k] * scales);
    }
  }
}

template <int W, int Up>
void input(const PlanarJob &job, const Block &block, const Run &run, int64_t tile, int64_t group, float *scratch) {
  const int64_t row_pitch = 4 * run.count + 2 + W;
  gather<W>(job, run, group, Axis<Up>::kSize, row_pitch, scratch);
  for (int64_t t = 0; t < run.count; t++) {
    const float *from = scratch + 4 * t * W;
    float *v = block.v + group * W;
    const auto at = [&](int i, int j) CAGC_LAMBDA { return load<W>(from + (i * row_pitch + j) * W); };
    transform<W, Up>(at, [&](int a, int b, int ja, int jb, vec<W> value) CAGC_LAMBDA {
      store<W>(v + place_of<Up>(block.count, tile + t, job.in_padded, a, b, ja, jb), value);
    });
  }
}

void planar_input(const PlanarJob &job, const Block &block, const Run &run, int64_t tile, int64_t group,
                  float *scratch) {
  if (job.up == 1) input<kWide, 1>(job, block, run, tile, group, scratch);
  else input<kWide, 2>(job, block, run, tile, group, scratch);
}

// Writes the outputs [4 up, pitch, W] of a run and one vector of channels to their planes.
template <int W>
CAGC_NOINLINE void scatter(const PlanarJob &job, const Run &run, int64_t group, int64_t row_pitch, const float *from) {
  const int64_t step = 4 * job.up, top = run.row * step, left = run.first * step, plane = job.out_h * job.out_w;
  const int64_t first = group * W, channels = std::min<int64_t>(W, job.out - first);
  const int64_t columns = std::min(step * run.count, job.out_w - left);
  for (int64_t i = 0; i < std::min<int64_t>(step, job.out_h - top); i++) {
    float *out = job.call.y + (run.n * job.out + first) * plane + (top + i) * job.out_w + left;
    for (int64_t j = 0; j < columns; j += W) {
      vec<W> block[W];
      CAGC_UNROLL
      for (int k = 0; k < W; k++) block[k] = load<W>(from + (i * row_pitch + j + k) * W);
      transpose<W>(block);
      if (channels == W && j + W <= columns) {
        CAGC_UNROLL
        for (int c = 0; c < W; c++) store<W>(out + c * plane + j, block[c]);
      } else {
        for (int64_t c = 0; c < channels; c++)
          std::memcpy(out + c * plane + j, &block[c], std::min<int64_t>(W, columns - j) * sizeof(float));
      }
    }
  }
}

template <int W, int Up>
void output(const PlanarJob &job, const Block &block, const Run &run, int64_t tile, int64_t group, float *scratch) {
  const int64_t row_pitch = 4 * Up * run.count + W, first = group * W;
  float demod[W] = {};
  for (int64_t c = 0; c < std::min<int64_t>(W, job.out - first); c++)
    demod[c] = job.call.demod ? job.call.demod[run.n * job.out + first + c] : 1.f;
  const vec<W> factors = load<W>(demod);
  for (int64_t t = 0; t < run.count; t++) {
    float *to = scratch + 4 * Up * t * W;
    const float *m = block.m + first;
    const auto from = [&](int a, int b, int ja, int jb) CAGC_LAMBDA {
      return load<W>(m + place_of<Up>(block.count, tile + t, job.out_padded, a, b, ja, jb));
    };
    inverse<W, Up>(from, [&](int i, int j, vec<W> value) CAGC_LAMBDA {
      store<W>(to + (i * row_pitch + j) * W, value * factors);
    });
  }
  scatter<W>(job, run, group, row_pitch, scratch);
}

void planar_output(const PlanarJob &job, const Block &block, const Run &run, int64_t tile, int64_t group,
                   float *scratch) {
  if (job.up == 1) output<kWide, 1>(job, block, run, tile, group, scratch);
  else output<kWide, 2>(job, block, run, tile, group, scratch);
}

// Channels of a partial sum: one sum of 512 products of float32 has three times the rounding error.
constexpr int64_t kPart = 64;

// As product() of gemm.h, but each part of k is summed from zero and then added to out.
template <int W, int V, int R>
CAGC_NOINLINE void product_in_parts(const float *a, int64_t lda, int64_t k, const float *b, float *out, int64_t ldo) {
  for (int64_t begin = 0; begin < k; begin += kPart) {
    vec<W> sum[R][V];
    CAGC_UNROLL
    for (int r = 0; r < R; r++)
      CAGC_UNROLL
      for (int v = 0; v < V; v++) sum[r][v] = vec<W>{};
    const int64_t end = std::min(k, begin + kPart);
    for (int64_t i = begin; i < end; i++, b += V * W) {
      vec<W> row[V];
      CAGC_UNROLL
      for (int v = 0; v < V; v++) row[v] = load<W>(b + v * W);
      CAGC_UNROLL
      for (int r = 0; r < R; r++) {
        const vec<W> s = broadcast<W>(a[r * lda + i]);
        CAGC_UNROLL
        for (int v = 0; v < V; v++) sum[r][v] += s * row[v];
      }
    }
    CAGC_UNROLL
    for (int r = 0; r < R; r++)
      CAGC_UNROLL
      for (int v = 0; v < V; v++) {
        float *to = out + r * ldo + v * W;
        store<W>(to, begin ? load<W>(to) + sum[r][v] : sum[r][v]);
      }
  }
}

// A register tile of at most R rows.
template <int W, int V, int R>
void rest_in_parts(int64_t rows, const float *a, int64_t lda, int64_t k, const float *b, float *out, int64_t ldo) {
  if constexpr (R > 0) {
    if (rows == R) product_in_parts<W, V, R>(a, lda, k, b, out, ldo);
    else rest_in_parts<W, V, R - 1>(rows, a, lda, k, b, out, ldo);
  }
}

// A panel of at most V vectors.
template <int W, int V>
void panel_in_parts(int64_t vectors, int64_t rows, const float *a, int64_t lda, int64_t k, const float *b, float *out,
                    int64_t ldo) {
  if constexpr (V > 0) {
    if (vectors != V) return panel_in_parts<W, V - 1>(vectors, rows, a, lda, k, b, out, ldo);
    const int64_t blocks = (rows + rows_of(V) - 1) / rows_of(V);
    for (int64_t i = 0; i < blocks; i++) {
      const int64_t r = rows * i / blocks, count = rows * (i + 1) / blocks - r;
      rest_in_parts<W, V, rows_of(V)>(count, a + r * lda, lda, k, b, out + r * ldo, ldo);
    }
  }
}

void planar_multiply(const float *a, int64_t lda, int64_t rows, int64_t k, const float *b, int64_t columns,
                     int64_t begin, int64_t end, float *out, int64_t ldo) {
  const Panels panels(columns);
  for (int64_t p = begin; p < end; p++) {
    const int64_t first = panels.first(p), vectors = panels.first(p + 1) - first, column = first * panels.lanes;
    const float *from = b + column * k;
    if (panels.lanes == 8) panel_in_parts<8, kPanel>(vectors, rows, a, lda, k, from, out + column, ldo);
    else panel_in_parts<kWide, kPanel>(vectors, rows, a, lda, k, from, out + column, ldo);
  }
}

}  // namespace
}  // namespace cagc
