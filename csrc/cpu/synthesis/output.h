// The output side of a convolution: the inverse Winograd transform where the algorithm has one, then demodulation,
// noise, bias, activation, the next layer's styles, and toRGB.
#pragma once
#include "input.h"

namespace cagc {
namespace {

// Inputs of the epilogue of sample n.
struct EpilogueInputs {
  const float *demod, *bias, *next, *noise;
  float strength;

  EpilogueInputs(const ConvJob &job, int64_t n)
      : demod(job.demod + n * job.conv->out_padded), bias(job.conv->bias),
        next(job.next ? job.next + n * job.conv->out_padded : nullptr),
        noise(job.noise ? job.noise + n * job.noise_sample : nullptr), strength(job.conv->noise_strength) {}

  float at(int64_t pixel) const { return noise ? noise[pixel] * strength : 0.f; }
};

// Adds toRGB of y [rows, 4, out], `rows` rows of four pixels, to rgb from pixel (at.y, at.x) on.
template <int W> void to_rgb(const ConvJob &job, const Place &at, const float *y, int64_t rows) {
  const int64_t out = job.conv->out, r = job.conv->resolution;
  const float *weight = job.rgb_weight + at.n * 3 * out;
  const vec<4> clamp = broadcast<4>(job.clamp);
  for (int64_t i = 0; i < rows; i++, y += 4 * out) {
    vec<W> s[3][4] = {};
    for (int64_t c = 0; c < out; c += W) {
      const vec<W> w0 = load<W>(weight + c), w1 = load<W>(weight + out + c), w2 = load<W>(weight + 2 * out + c);
      CAGC_UNROLL
      for (int j = 0; j < 4; j++) {
        const vec<W> u = load<W>(y + j * out + c);
        s[0][j] += u * w0;
        s[1][j] += u * w1;
        s[2][j] += u * w2;
      }
    }
    CAGC_UNROLL
    for (int k = 0; k < 3; k++) {
      float *to = job.rgb + ((at.n * 3 + k) * r + at.y + i) * r + at.x;
      const vec<4> v = sums(fold(s[k][0]), fold(s[k][1]), fold(s[k][2]), fold(s[k][3]));
      store<4>(to, load<4>(to) + bounded(v + broadcast<4>(job.conv->rgb_bias[k]), clamp));
    }
  }
}

template <int W> void tile43(const ConvJob &job, const Block &block, int64_t tile, float *scratch) {
  const int64_t out = job.conv->out, r = job.conv->resolution, step = block.count * out + kPointPad;
  const Place at = place(job, block.first + tile);
  const EpilogueInputs e(job, at.n);
  const int64_t corner = at.y * 4 * r + at.x * 4;
  float noise[16];
  for (int i = 0; i < 16; i++) noise[i] = e.at(corner + i / 4 * r + i % 4);
  const int64_t row = pitch(r, out);
  float *y = job.y ? job.y + (at.n * r + at.y * 4) * row + at.x * 4 * out : nullptr;
  for (int64_t c = 0; c < out; c += W) {
    if (y) {  // prefetches the outputs of the next tile
      CAGC_UNROLL
      for (int i = 0; i < 16; i++) __builtin_prefetch(y + i / 4 * row + (4 + i % 4) * out + c);
    }
    const vec<W> demod = load<W>(e.demod + c), bias = load<W>(e.bias + c);
    const vec<W> next = y ? load<W>(e.next + c) : vec<W>{}, clamp = broadcast<W>(job.clamp);
    inverse43<W>(block.m + tile * out + c, step, [&](int i, int j, vec<W> m) CAGC_LAMBDA {
      const vec<W> u = activate<W>(m * demod + (bias + noise[i * 4 + j]), clamp);
      if (job.rgb_weight) store<W>(scratch + (i * 4 + j) * out + c, u);
      if (y) store<W>(y + i * row + j * out + c, u * next);
    });
  }
  if (job.rgb_weight) to_rgb<W>(job, {at.n, at.y * 4, at.x * 4}, scratch, 4);
}

// The epilogue of four pixels of a row, since toRGB processes four at a time.
template <int W> void pixels(const ConvJob &job, const Block &block, int64_t tile, float *scratch) {
  const int64_t out = job.conv->out, r = job.conv->resolution;
  const Place at = place(job, block.first + tile);
  const EpilogueInputs e(job, at.n);
  float *y = job.y ? job.y + (at.n * r + at.y) * pitch(r, out) + at.x * out : nullptr;
  for (int64_t i = 0; i < 4; i++) {
    const float *m = block.m + (tile + i) * out;
    const float noise = e.at(at.y * r + at.x + i);
    for (int64_t c = 0; c < out; c += W) {
      const vec<W> v = load<W>(m + c) * load<W>(e.demod + c) + (load<W>(e.bias + c) + noise);
      const vec<W> u = activate<W>(v, broadcast<W>(job.clamp));
      if (job.rgb_weight) store<W>(scratch + i * out + c, u);
      if (y) store<W>(y + i * out + c, u * load<W>(e.next + c));
    }
  }
  if (job.rgb_weight) to_rgb<W>(job, at, scratch, 1);
}

// Address of a row of t in its ring buffer; `row` counts through the batch.
CAGC_INLINE float *t_row(const ConvJob &job, int64_t row) {
  return job.t + row % job.ring * job.t_row;
}

// Output transform of Algorithm::winograd42; calls to(i, j, v) for each of the 8 x 8 values of t. m points to the
// vector's channel in the block's m, whose rows have `row` floats.
template <int W, class To>
CAGC_INLINE void inverse42(const Block &block, int64_t tile, int64_t row, const float *m, To &&to) {
  const auto point = [&](int a, int b, int ja, int jb) CAGC_LAMBDA {
    return load<W>(m + place42(block, tile, row, a, b, ja, jb));
  };
  vec<W> rows[4][5], d[5], o[4];
  CAGC_UNROLL
  for (int b = 0; b < 5; b++) {
    CAGC_UNROLL
    for (int a = 0; a < 5; a++) d[a] = point(a, b, 0, 0);
    output42<W>(d, o);
    CAGC_UNROLL
    for (int i = 0; i < 4; i++) rows[i][b] = o[i];
  }
  CAGC_UNROLL
  for (int i = 0; i < 4; i++) {
    output42<W>(rows[i], o);
    CAGC_UNROLL
    for (int j = 0; j < 4; j++) to(2 * i, 2 * j, o[j]);
  }
  CAGC_UNROLL
  for (int j = 0; j < 4; j++) {
    CAGC_UNROLL
    for (int a = 0; a < 5; a++) d[a] = point(a, 5, 0, j);
    output42<W>(d, o);
    CAGC_UNROLL
    for (int i = 0; i < 4; i++) to(2 * i, 2 * j + 1, o[i]);
  }
  CAGC_UNROLL
  for (int i = 0; i < 4; i++) {
    CAGC_UNROLL
    for (int b = 0; b < 5; b++) d[b] = point(5, b, i, 0);
    output42<W>(d, o);
    CAGC_UNROLL
    for (int j = 0; j < 4; j++) {
      to(2 * i + 1, 2 * j, o[j]);
      to(2 * i + 1, 2 * j + 1, point(5, 5, i, j));
    }
  }
}

template <int W> void scatter42(const ConvJob &job, const Block &block, int64_t tile) {
  const int64_t out = job.conv->out;
  const Place at = place(job, block.first + tile);
  float *t[8];
  for (int i = 0; i < 8; i++) t[i] = t_row(job, at.n * job.t_rows + at.y * 8 + i) + at.x * 8 * out;
  for (int64_t c = 0; c < out; c += W)
    inverse42<W>(block, tile, out, block.m + c,
                 [&](int i, int j, vec<W> v) CAGC_LAMBDA { store<W>(t[i] + j * out + c, v); });
}

template <int W> void scatter2(const ConvJob &job, const Block &block, int64_t tile) {
  const int64_t out = job.conv->out, step = block.count * out + kPointPad;
  const Place at = place(job, block.first + tile);
  const float *m = block.m + tile * out;
  for (int i = 0; i < 2; i++) {
    float *t = t_row(job, at.n * job.t_rows + at.y * 2 + i) + at.x * 2 * out;
    // Products are ordered odd-odd, even-odd (rows, columns), odd-even, even-even.
    copy<W>(m + (i ? 2 : 3) * step, t, out);
    copy<W>(m + (i ? 0 : 1) * step, t + out, out);
  }
}

void output(const ConvJob &job, const Block &block, int64_t begin, int64_t end, float *scratch) {
  with_width(job.conv->out, [&](auto width) {
    constexpr int W = decltype(width)::value;
    const int64_t step = job.conv->algorithm == Algorithm::direct3 ? 4 : 1;
    for (int64_t tile = begin; tile < end; tile += step) switch (job.conv->algorithm) {
        case Algorithm::direct3: pixels<W>(job, block, tile, scratch); break;
        case Algorithm::winograd43: tile43<W>(job, block, tile, scratch); break;
        case Algorithm::transposed2: scatter2<W>(job, block, tile); break;
        case Algorithm::winograd42: scatter42<W>(job, block, tile); break;
      }
  });
}

}  // namespace
}  // namespace cagc
