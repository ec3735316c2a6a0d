// Layers of many pixels, in a layout that is blocked over pixels: a vector holds one channel of kWide pixels, one pixel
// from each of kWide vertical strips of the image. No channel is padding, and neighbours in a row are neighbouring
// vectors except at the borders of the strips.
//   x      [batch, row, channel, column of the strip, strip], rows padded to their pitch
//   t      likewise, with columns of the transposed convolution; its last column, which is in no strip, is in `edge`
//   v, m   [point, tile of the strip, channel, strip]
#pragma once
#include "filter.h"
#include "gemm.h"
#include <utility>

namespace cagc {
namespace {

// Matrix products out[row][kWide] = sum over k of a[row, k] * b[k][kWide] for several b, with a packed in blocks of
// rows.
constexpr int kBlockRows = kRegisters >= 32 ? 12 : kRegisters >= 16 ? 6 : 2;
constexpr int kTogether = 2;  // matrices b that share the loads of a

int64_t row_blocks(int64_t rows) { return (rows + kBlockRows - 1) / kBlockRows; }

void pack_strips(const float *b, int64_t k, int64_t rows, float *packed) {
  for (int64_t p = 0, n = row_blocks(rows); p < n; p++)
    for (int64_t i = 0; i < k; i++)
      for (int64_t c = rows * p / n; c < rows * (p + 1) / n; c++) *packed++ = b[i * rows + c];
}

// b: [V][k][kWide]. out: V matrices [R][kWide], `next` floats apart.
template <int V, int R>
__attribute__((noinline)) void outer(const float *a, int64_t k, const float *b, float *out, int64_t next) {
  constexpr int W = kWide;
  const int64_t step = k * W;
  vec<W> sum[R][V];
  CAGC_UNROLL
  for (int r = 0; r < R; r++)
    CAGC_UNROLL
    for (int v = 0; v < V; v++) sum[r][v] = vec<W>{};
  for (int64_t i = 0; i < k; i++, a += R, b += W) {
    vec<W> column[V];
    CAGC_UNROLL
    for (int v = 0; v < V; v++) column[v] = load<W>(b + v * step);
    CAGC_UNROLL
    for (int r = 0; r < R; r++) {
      const vec<W> s = broadcast<W>(a[r]);
      CAGC_UNROLL
      for (int v = 0; v < V; v++) sum[r][v] += s * column[v];
    }
  }
  CAGC_UNROLL
  for (int r = 0; r < R; r++)
    CAGC_UNROLL
    for (int v = 0; v < V; v++) store<W>(out + v * next + r * W, sum[r][v]);
}

template <int V, int R>
void any_rows(int64_t rows, const float *a, int64_t k, const float *b, float *out, int64_t next) {
  if constexpr (R > 0) {
    if (rows == R) outer<V, R>(a, k, b, out, next);
    else any_rows<V, R - 1>(rows, a, k, b, out, next);
  }
}

// Blocks [begin, end) of the rows of a. b: [count, k, kWide]. out: [count, rows, kWide].
void gemm_strips(const float *b, int64_t count, int64_t k, const float *a, int64_t rows, int64_t begin, int64_t end,
                 float *out) {
  const int64_t next = rows * kWide;
  for (int64_t p = begin, n = row_blocks(rows); p < end; p++) {
    const int64_t first = rows * p / n, size = rows * (p + 1) / n - first;
    const float *block = a + first * k;
    float *to = out + first * kWide;
    int64_t i = 0;
    for (; i + kTogether <= count; i += kTogether)
      any_rows<kTogether, kBlockRows>(size, block, k, b + i * k * kWide, to + i * next, next);
    for (; i < count; i++) any_rows<1, kBlockRows>(size, block, k, b + i * k * kWide, to + i * next, next);
  }
}

// Shift by one strip. from_left(last column of each strip) gives the pixels left of each strip's first column;
// from_right(first column) gives those right of the last. Pixels outside the image are zero.
template <int... I> CAGC_INLINE vec<kWide> from_left(vec<kWide> v, std::integer_sequence<int, I...>) {
  return CAGC_SHUFFLE(kWide, v, vec<kWide>{}, (I ? I - 1 : kWide)...);
}
template <int... I> CAGC_INLINE vec<kWide> from_right(vec<kWide> v, std::integer_sequence<int, I...>) {
  return CAGC_SHUFFLE(kWide, v, vec<kWide>{}, (I + 1)...);
}
using Indices = std::make_integer_sequence<int, kWide>;
CAGC_INLINE vec<kWide> from_left(vec<kWide> v) { return from_left(v, Indices()); }
CAGC_INLINE vec<kWide> from_right(vec<kWide> v) { return from_right(v, Indices()); }

// Transposes a 4 x 4 block in each group of four lanes: swaps lane 4 i + k of v[j] with lane 4 i + j of v[k].
template <int... I> CAGC_INLINE void transpose4(vec<kWide> *v, std::integer_sequence<int, I...>) {
  constexpr int W = kWide;
  const auto low = [](vec<W> a, vec<W> b) { return CAGC_SHUFFLE(W, a, b, (I / 4 * 4 + I % 4 / 2 + I % 2 * W)...); };
  const auto high = [](vec<W> a, vec<W> b) {
    return CAGC_SHUFFLE(W, a, b, (I / 4 * 4 + 2 + I % 4 / 2 + I % 2 * W)...);
  };
  const vec<W> a = low(v[0], v[2]), b = low(v[1], v[3]), c = high(v[0], v[2]), d = high(v[1], v[3]);
  v[0] = low(a, b), v[1] = high(a, b), v[2] = low(c, d), v[3] = high(c, d);
}

// Size x Size pixels of every strip, from column x - 1 on; pixels outside the image are zero. First, Last: the window
// crosses the strips' left or right border.
template <int Size, bool First, bool Last> struct Window {
  const float *rows[Size];
  int64_t channel[Size];  // strides
  int64_t width, x;

  CAGC_INLINE vec<kWide> at(int i, int j, int64_t c) const {
    const float *row = rows[i] + c * channel[i];
    if (First && j == 0) return from_left(load<kWide>(row + (width - 1) * kWide));
    if (Last && j == Size - 1) return from_right(load<kWide>(row));
    return load<kWide>(row + (x + j - 1) * kWide);
  }

  // Prefetches channel c.
  CAGC_INLINE void prefetch(int64_t c) const {
    CAGC_UNROLL
    for (int i = 0; i < Size; i++)
      CAGC_UNROLL
      for (int j = 1; j < Size; j++) __builtin_prefetch(rows[i] + c * channel[i] + (x + j - 1) * kWide);
  }
};

template <int Size, bool First, bool Last>
Window<Size, First, Last> window(const ConvJob &job, const Place &at, const float *zeros) {
  const int64_t width = job.size / kWide, row = strips_pitch(job.size, job.conv->in);
  Window<Size, First, Last> w;
  w.width = width, w.x = at.x * 4;
  for (int i = 0; i < Size; i++) {
    const int64_t y = at.y * 4 - 1 + i;
    const bool inside = y >= 0 && y < job.size;
    w.rows[i] = inside ? job.x + (at.n * job.size + y) % job.x_rows * row : zeros;
    w.channel[i] = inside ? channel_pitch(job.size) : 0;
  }
  return w;
}

template <bool First, bool Last>
void strips43(const ConvJob &job, const Place &at, const Block &block, int64_t tile, const float *zeros) {
  const auto w = window<6, First, Last>(job, at, zeros);
  const int64_t in = job.conv->in * kWide;
  for (int64_t c = 0; c < job.conv->in; c++) {
    w.prefetch(c + 1);
    transform43<kWide>([&](int i, int j) CAGC_LAMBDA { return w.at(i, j, c); }, block.v + tile * in + c * kWide,
                       block.count * in + kPointPad);
  }
}

template <bool First>
void strips42(const ConvJob &job, const Place &at, const Block &block, int64_t tile, const float *zeros) {
  const auto w = window<5, First, false>(job, at, zeros);
  const int64_t in = job.conv->in * kWide;
  for (int64_t c = 0; c < job.conv->in; c++) {
    w.prefetch(c + 1);
    transform42<kWide>([&](int i, int j) CAGC_LAMBDA { return w.at(i, j, c); }, block, tile, in,
                       block.v + c * kWide);
  }
}

void input_strips(const ConvJob &job, const Block &block, int64_t begin, int64_t end, float *scratch) {
  zero(scratch, job.size);
  for (int64_t tile = begin; tile < end; tile++) {
    const Place at = place(job, block.first + tile);
    const bool first = at.x == 0, last = at.x == job.side - 1;
    if (job.conv->up == 2) {
      if (first) strips42<true>(job, at, block, tile, scratch);
      else strips42<false>(job, at, block, tile, scratch);
    } else if (first) {
      if (last) strips43<true, true>(job, at, block, tile, scratch);
      else strips43<true, false>(job, at, block, tile, scratch);
    } else if (last) {
      strips43<false, true>(job, at, block, tile, scratch);
    } else {
      strips43<false, false>(job, at, block, tile, scratch);
    }
  }
}

// out[i][strip] = scale * row[strip * step + i], i < 4.
CAGC_INLINE void four_of_each(const float *row, int64_t step, float scale, float *out) {
  vec<kWide> v[4];
  CAGC_UNROLL
  for (int i = 0; i < 4; i++)
    CAGC_UNROLL
    for (int l = 0; l < kWide; l += 4)
      __builtin_memcpy(reinterpret_cast<float *>(&v[i]) + l, row + (l + i) * step, sizeof(vec<4>));
  transpose4(v, Indices());
  CAGC_UNROLL
  for (int i = 0; i < 4; i++) store<kWide>(out + i * kWide, v[i] * scale);
}

// Writes toRGB of u [4][out][4][kWide] to `rows` [3][4][column][kWide], the images of a row of tiles.
void rgb_strips(const ConvJob &job, const Place &at, const float *u, float *rows) {
  constexpr int W = kWide;
  const int64_t out = job.conv->out, r = job.conv->resolution, stride = job.conv->out_padded;
  const vec<W> clamp = broadcast<W>(job.clamp);
  float sums[3][4][W];
  for (int64_t i = 0; i < 4; i++, u += out * 4 * W) {
    product<W, 4, 3>(job.rgb_weight + at.n * 3 * stride, stride, out, u, &sums[0][0][0], 4 * W);
    for (int64_t k = 0; k < 3; k++) {
      const vec<W> bias = broadcast<W>(job.conv->rgb_bias[k]);
      float *to = rows + (k * 4 + i) * r + at.x * 4 * W;
      CAGC_UNROLL
      for (int j = 0; j < 4; j++) store<W>(to + j * W, bounded(load<W>(sums[k][j]) + bias, clamp));
    }
  }
}

// Writes rows [4 at.y, 4 at.y + 4) of the image: those of toRGB, and the image below up-sampled by two.
void image_rows(const ConvJob &job, const Place &at, const float *rows, float *scratch) {
  constexpr int W = kWide;
  const int64_t r = job.conv->resolution, h = r / 2, width = r / W;
  for (int64_t k = 0; k < 3; k++) {
    const int64_t plane = at.n * 3 + k;
    float *to = job.rgb + (plane * r + at.y * 4) * r;
    skip(job.below ? job.below + plane * h * h : nullptr, h, job.fir, at.y * 4, at.y * 4 + 4, job.rgb + plane * r * r,
         scratch);
    for (int64_t i = 0; i < 4; i++, rows += r, to += r)
      for (int64_t j = 0; j < width; j += 4) {
        vec<W> v[4];
        CAGC_UNROLL
        for (int x = 0; x < 4; x++) v[x] = load<W>(rows + (j + x) * W);
        transpose4(v, Indices());
        CAGC_UNROLL
        for (int l = 0; l < W; l++) {
          vec<4> pixels;
          __builtin_memcpy(&pixels, reinterpret_cast<const float *>(&v[l % 4]) + l / 4 * 4, sizeof(pixels));
          float *four = to + l * width + j;
          store<4>(four, load<4>(four) + pixels);
        }
      }
  }
}

template <bool Last> void output_strips43(const ConvJob &job, const Block &block, int64_t tile, float *scratch) {
  constexpr int W = kWide;
  const int64_t out = job.conv->out, r = job.conv->resolution, step = block.count * out * W + kPointPad;
  const Place at = place(job, block.first + tile);
  const EpilogueInputs e(job, at.n);
  float noise[4][4][W] = {}, *rows = scratch + image_rows_offset(*job.conv);
  for (int64_t i = 0; i < 4 && e.noise; i++)
    four_of_each(e.noise + (at.y * 4 + i) * r + at.x * 4, r / W, e.strength, noise[i][0]);
  const int64_t row = strips_pitch(r, out), channel = channel_pitch(r);
  const vec<W> clamp = broadcast<W>(job.clamp);
  const float *m = block.m + tile * out * W;
  float *y = Last ? nullptr : job.y + (at.n * r + at.y * 4) * row + at.x * 4 * W, *u = scratch;
  for (int64_t c = 0; c < out; c++, m += W, u += 4 * W) {
    const vec<W> demod = broadcast<W>(e.demod[c]), bias = broadcast<W>(e.bias[c]);
    const vec<W> next = broadcast<W>(Last ? 0.f : e.next[c]);
    if (!Last) {
      CAGC_UNROLL
      for (int i = 0; i < 16; i++) __builtin_prefetch(y + i / 4 * row + channel + i % 4 * W, 1);
    }
    inverse43<W>(m, step, [&](int i, int j, vec<W> v) CAGC_LAMBDA {
      const vec<W> a = activate<W>(v * demod + (bias + load<W>(noise[i][j])), clamp);
      store<W>(u + (i * out * 4 + j) * W, a);
      if (!Last) store<W>(y + i * row + j * W, a * next);
    });
    if (!Last) y += channel;
  }
  rgb_strips(job, at, scratch, rows);
  if (at.x == job.side - 1) image_rows(job, at, rows, scratch);
}

void output_strips42(const ConvJob &job, const Block &block, int64_t tile) {
  constexpr int W = kWide;
  const int64_t out = job.conv->out, channel = channel_pitch(job.conv->resolution);
  const Place at = place(job, block.first + tile);
  float *t[8];
  for (int i = 0; i < 8; i++) t[i] = t_row(job, at.n * job.t_rows + at.y * 8 + i) + at.x * 8 * W;
  for (int64_t c = 0; c < out; c++)
    inverse42<W>(block, tile, out * W, block.m + c * W,
                 [&](int i, int j, vec<W> v) CAGC_LAMBDA { store<W>(t[i] + c * channel + j * W, v); });
}

void output_strips(const ConvJob &job, const Block &block, int64_t begin, int64_t end, float *scratch) {
  const auto output43 = job.y ? output_strips43<false> : output_strips43<true>;
  for (int64_t tile = begin; tile < end; tile++) {
    if (job.conv->up == 2) output_strips42(job, block, tile);
    else output43(job, block, tile, scratch);
  }
}

// Computes the last column of the transposed convolution for kWide rows of x from `begin` on, and writes it to job.edge
// [row, out]. Rows count within a sample, and there is one more than x has.
void edge_strips(const ConvJob &job, int64_t n, int64_t begin, float *scratch) {
  constexpr int W = kWide;
  const StyledConv &conv = *job.conv;
  const int64_t in = conv.in, out = conv.out, row = strips_pitch(job.size, in), blocks = row_blocks(out);
  const float *last = job.x + n * job.size * row + job.size - 1;  // of the last strip's last column
  float *x = scratch, *t = scratch + 2 * in * W;
  for (int64_t c = 0; c < 2 * in; c++)
    for (int64_t l = 0; l < W; l++) {
      const int64_t y = begin + l - c / in;
      x[c * W + l] = y >= 0 && y < job.size ? last[y * row + c % in * channel_pitch(job.size)] : 0.f;
    }
  float *edge = job.edge + (n * job.t_rows + 2 * begin) * out;
  const int64_t rows = job.size + 1 - begin < W ? job.size + 1 - begin : W;
  for (int64_t odd = 0; odd < 2; odd++) {
    gemm_strips(x, 1, odd ? in : 2 * in, conv.edge_weight + odd * 2 * in * out, out, 0, blocks, t);
    for (int64_t l = 0; l < rows; l++)
      for (int64_t c = 0; c < out; c++) edge[(2 * l + odd) * out + c] = t[c * W + l];
  }
}

void to_strips(const ConvJob &job, const float *from, int64_t begin, int64_t end, float *to) {
  constexpr int W = kWide;
  const int64_t size = job.size, in = job.conv->in, padded = job.conv->in_padded, width = size / W;
  for (int64_t y = begin; y < end; y++) {
    const float *row = from + y * pitch(size, padded);
    float *out = to + y * strips_pitch(size, in), four[4][W];
    for (int64_t j = 0; j < width; j++)
      for (int64_t c = 0; c < in; c++) {
        if (c % 4 == 0) four_of_each(row + j * padded + c, width * padded, 1.f, four[0]);
        store<W>(out + c * channel_pitch(size) + j * W, load<W>(four[c % 4]));
      }
  }
}

}  // namespace
}  // namespace cagc
