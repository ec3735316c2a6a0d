// The FIR filter after a transposed convolution and the layer's epilogue, one row at a time.
#pragma once
#include "output.h"

namespace cagc {
namespace {

// The vertical filter: out[i] = sum over k of fir[k] * rows[k][i], for i < count.
template <int W> void combine(const float *const *rows, const float *fir, int64_t count, float *out) {
  const float f0 = fir[0], f1 = fir[1], f2 = fir[2], f3 = fir[3];
  for (int64_t i = 0; i < count; i += W)
    store<W>(out + i, load<W>(rows[0] + i) * f0 + load<W>(rows[1] + i) * f1 + load<W>(rows[2] + i) * f2 +
                          load<W>(rows[3] + i) * f3);
}

void zero(float *p, int64_t count) {
  for (int64_t i = 0; i < count; i++) p[i] = 0.f;
}

// Filters a row horizontally and applies the epilogue to `count` pixels from `pixel` on. row: vertically filtered
// columns, from one before the first pixel to two after the last.
template <int W>
void finish(const ConvJob &job, const EpilogueInputs &e, const float *row, int64_t pixel, int64_t count, float *y) {
  const int64_t out = job.conv->out;
  const float f0 = job.fir[0], f1 = job.fir[1], f2 = job.fir[2], f3 = job.fir[3];
  for (int64_t j = 0; j < count; j++, row += out, y += out) {
    const float noise = e.at(pixel + j);
    for (int64_t c = 0; c < out; c += W) {
      const vec<W> a = load<W>(row + c) * f0 + load<W>(row + out + c) * f1 + load<W>(row + 2 * out + c) * f2 +
                       load<W>(row + 3 * out + c) * f3;
      const vec<W> v = a * load<W>(e.demod + c) + (load<W>(e.bias + c) + noise);
      const vec<W> u = activate<W>(v, broadcast<W>(job.clamp));
      store<W>(y + c, u * load<W>(e.next + c));
    }
  }
}

template <int W> void filter_rows(const ConvJob &job, int64_t begin, int64_t end, float *scratch) {
  const int64_t out = job.conv->out, r = job.conv->resolution;
  const int64_t strip = kStrip / out > 8 ? kStrip / out : 8;
  float *zeros = scratch, *row = scratch + (strip + 3) * out;
  zero(zeros, (strip + 3) * out);
  for (int64_t at = begin; at < end; at++) {
    const int64_t n = at / r, i = at % r;
    const EpilogueInputs e(job, n);
    for (int64_t j = 0; j < r; j += strip) {
      const int64_t count = r - j < strip ? r - j : strip;
      // The columns of t that exist (0 to r) among j - 1 to j + count + 1.
      const int64_t left = j == 0, right = j + count == r, columns = count + 3 - left - right;
      const float *rows[4];
      for (int k = 0; k < 4; k++) {
        const int64_t line = i - 1 + k;
        rows[k] = line < 0 || line > r ? zeros
                                       : t_row(job, n * job.t_rows + line) + (j - 1 + left) * out;
      }
      if (left) zero(row, out);
      combine<W>(rows, job.fir, columns * out, row + left * out);
      if (right) zero(row + (count + 2) * out, out);
      finish<W>(job, e, row, i * r + j, count, job.y + at * pitch(r, out) + j * out);
    }
  }
}

void filter(const ConvJob &job, int64_t begin, int64_t end, float *scratch) {
  with_width(job.conv->out, [&](auto width) { filter_rows<decltype(width)::value>(job, begin, end, scratch); });
}

void skip(const float *plane, int64_t h, const float *fir, int64_t begin, int64_t end, float *out, float *scratch) {
  for (int64_t i = begin; i < end; i++) {
    float *to = out + i * 2 * h;
    if (!plane) {
      for (int64_t j = 0; j < 2 * h; j++) to[j] = 0.f;
      continue;
    }
    // An even output row weights input rows i / 2 - 1 and i / 2 with taps 0 and 2; an odd one weights rows i / 2 and
    // i / 2 + 1 with taps 1 and 3.
    const int64_t odd = i & 1, above = i / 2 - 1 + odd, below = above + 1;
    const float a = above < 0 ? 0.f : fir[odd], b = below == h ? 0.f : fir[2 + odd];
    const float *p = plane + (above < 0 ? 0 : above) * h, *q = plane + (below == h ? h - 1 : below) * h;
    float *row = scratch + 1;
    row[-1] = row[h] = 0.f;
    for (int64_t j = 0; j < h; j++) row[j] = p[j] * a + q[j] * b;
    for (int64_t j = 0; j < h; j++) {
      to[2 * j] = row[j - 1] * fir[0] + row[j] * fir[2];
      to[2 * j + 1] = row[j] * fir[1] + row[j + 1] * fir[3];
    }
  }
}

}  // namespace
}  // namespace cagc
