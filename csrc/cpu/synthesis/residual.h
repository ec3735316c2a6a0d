// The vector loops of SN-GAN's convolutions beside StyleGAN2's: nearest up-sampling in the input transform, and what
// follows a product.
//
// A tile of 6x6 pixels of a nearest up-sampled image is (a, b, b, c, c, d) along each axis: its transform at the point
// -1 is zero, so that 25 of the 36 products of F(4x4, 3x3) remain.
#pragma once
#include "../isa/elements.h"
#include "input.h"
#include "residual_kernels.h"

namespace cagc {
namespace {

void residual_input(const ResidualJob &job, const Block &block, int64_t begin, int64_t end, float *scratch) {
  const ConvJob &conv = job.conv;
  if (!job.up) return input(conv, block, begin, end, scratch);
  const int64_t in = conv.conv->in;
  with_width(in, [&](auto width) {
    constexpr int W = decltype(width)::value;
    for (int64_t tile = begin; tile < end; tile++) {
      const Place at = place(conv, block.first + tile), next = place(conv, block.first + tile + 1);
      const Patch p = patch(conv, at, next, 2, 4, scratch);
      for (int64_t c = 0; c < in; c += W) {
        const auto pixel = [&](int i, int j) CAGC_LAMBDA {
          return load<W>(p.data + (i + 1) / 2 * p.row + (j + 1) / 2 * p.column + c);
        };
        transform43<W>(pixel, block.v + tile * in + c, block.count * in + kPointPad);
      }
    }
  });
}

// A NaN stays a NaN.
template <int W> CAGC_INLINE vec<W> rectified(vec<W> u) { return u < vec<W>{} ? vec<W>{} : u; }

// An output of W channels from c on, at row y and column x.
template <int W> CAGC_INLINE void finish(const ResidualJob &job, int64_t n, int64_t y, int64_t x, int64_t c, vec<W> m) {
  const StyledConv &conv = *job.conv.conv;
  const int64_t out = conv.out, r = conv.resolution, h = r / 2;
  vec<W> u = m + load<W>(conv.bias + c);
  if (job.shortcut) {
    u += load<W>(job.shortcut + ((n * h + y / 2) * h + x / 2) * out + c);
    if (job.raw) store<W>(job.raw + ((n * r + y) * r + x) * out + c, u);
    u = u * load<W>(job.scale + c) + load<W>(job.shift + c);
  }
  store<W>(job.conv.y + (n * r + y) * pitch(r, out) + x * out + c, rectified<W>(u));
}

// tanh of three channels of `rows` rows of four pixels, from [4 * rows, out], to the image at (y, x) and below.
void to_image(const ResidualJob &job, const Place &at, const float *pixels, int64_t rows) {
  const StyledConv &conv = *job.conv.conv;
  const int64_t r = conv.resolution;
  alignas(kBytes) float planes[3 * 16] = {};
  for (int64_t i = 0; i < 4 * rows; i++)
    for (int64_t k = 0; k < 3; k++) planes[k * 16 + i] = pixels[i * conv.out + k] + conv.bias[k];
  for (int64_t i = 0; i < 48; i += Floats::lanes) store(planes + i, tanh(cagc::load(planes + i)));
  for (int64_t k = 0; k < 3; k++)
    for (int64_t i = 0; i < rows; i++)
      std::memcpy(job.image + ((at.n * 3 + k) * r + at.y + i) * r + at.x, planes + k * 16 + i * 4, 16);
}

template <int W>
void residual_tiles(const ResidualJob &job, const Block &block, int64_t begin, int64_t end, float *scratch) {
  const int64_t out = job.conv.conv->out, step = block.count * out + kPointPad;
  for (int64_t tile = begin; tile < end; tile++) {
    const Place at = place(job.conv, block.first + tile);
    for (int64_t c = 0; c < out; c += W)
      inverse43<W>(block.m + tile * out + c, step, [&](int i, int j, vec<W> m) CAGC_LAMBDA {
        if (job.image) store<W>(scratch + (i * 4 + j) * out + c, m);
        else finish<W>(job, at.n, at.y * 4 + i, at.x * 4 + j, c, m);
      });
    if (job.image) to_image(job, {at.n, at.y * 4, at.x * 4}, scratch, 4);
  }
}

template <int W> void residual_pixels(const ResidualJob &job, const Block &block, int64_t begin, int64_t end) {
  const int64_t out = job.conv.conv->out;
  for (int64_t tile = begin; tile < end; tile += 4) {
    const Place at = place(job.conv, block.first + tile);
    const float *m = block.m + tile * out;
    if (job.image) to_image(job, at, m, 1);
    for (int64_t i = 0; i < 4 && !job.image; i++)
      for (int64_t c = 0; c < out; c += W) finish<W>(job, at.n, at.y, at.x + i, c, load<W>(m + i * out + c));
  }
}

void residual_output(const ResidualJob &job, const Block &block, int64_t begin, int64_t end, float *scratch) {
  with_width(job.conv.conv->out, [&](auto width) {
    constexpr int W = decltype(width)::value;
    if (job.conv.conv->algorithm == Algorithm::direct3) residual_pixels<W>(job, block, begin, end);
    else residual_tiles<W>(job, block, begin, end, scratch);
  });
}

}  // namespace
}  // namespace cagc
