// Images in planes to Winograd's transforms with channels in vectors, and back: blocks of as many pixels as a vector
// has lanes are transposed in registers.
#pragma once
#include "../isa/simd.h"
#include "planar_kernels.h"
#include "winograd.h"
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

// The pixels of a run, and those around it, of one vector of channels: to [6, pitch, W]. Zeros outside of the image.
template <int W>
CAGC_NOINLINE void gather(const PlanarJob &job, const Run &run, int64_t group, int64_t row_pitch, float *to) {
  const PlanarCall &call = job.call;
  const int64_t top = run.row * 4 - call.padding, left = run.first * 4 - call.padding, plane = call.h * call.w;
  const int64_t first = group * W, channels = std::min<int64_t>(W, job.in - first);
  const float *x = call.x + (run.n * job.in + first) * plane;
  float scale[W] = {};
  for (int64_t c = 0; c < channels; c++) scale[c] = call.scale ? call.scale[run.n * job.in + first + c] : 1.f;
  const vec<W> scales = load<W>(scale);
  for (int64_t i = 0; i < 6; i++) {
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

void planar_input(const PlanarJob &job, const Block &block, const Run &run, int64_t tile, int64_t group,
                  float *scratch) {
  constexpr int W = kWide;
  const int64_t row_pitch = 4 * run.count + 2 + W, step = block.count * job.in_padded + kPointPad;
  gather<W>(job, run, group, row_pitch, scratch);
  for (int64_t t = 0; t < run.count; t++) {
    const float *from = scratch + 4 * t * W;
    const auto at = [&](int i, int j) CAGC_LAMBDA { return load<W>(from + (i * row_pitch + j) * W); };
    transform43<W>(at, block.v + (tile + t) * job.in_padded + group * W, step);
  }
}

// Writes the outputs [4, pitch, W] of a run and one vector of channels to their planes.
template <int W>
CAGC_NOINLINE void scatter(const PlanarJob &job, const Run &run, int64_t group, int64_t row_pitch, const float *from) {
  const int64_t top = run.row * 4, left = run.first * 4, plane = job.out_h * job.out_w, first = group * W;
  const int64_t channels = std::min<int64_t>(W, job.out - first);
  const int64_t columns = std::min(4 * run.count, job.out_w - left);
  for (int64_t i = 0; i < std::min<int64_t>(4, job.out_h - top); i++) {
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

void planar_output(const PlanarJob &job, const Block &block, const Run &run, int64_t tile, int64_t group,
                   float *scratch) {
  constexpr int W = kWide;
  const int64_t row_pitch = 4 * run.count + W, step = block.count * job.out_padded + kPointPad, first = group * W;
  float demod[W] = {};
  for (int64_t c = 0; c < std::min<int64_t>(W, job.out - first); c++)
    demod[c] = job.call.demod ? job.call.demod[run.n * job.out + first + c] : 1.f;
  const vec<W> factors = load<W>(demod);
  for (int64_t t = 0; t < run.count; t++) {
    float *to = scratch + 4 * t * W;
    inverse43<W>(block.m + (tile + t) * job.out_padded + first, step, [&](int i, int j, vec<W> m) CAGC_LAMBDA {
      store<W>(to + (i * row_pitch + j) * W, m * factors);
    });
  }
  scatter<W>(job, run, group, row_pitch, scratch);
}

}  // namespace
}  // namespace cagc
