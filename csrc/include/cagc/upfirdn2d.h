// upfirdn2d: insert zeros, pad or crop, filter, keep every down-th pixel. The inserted zeros are not multiplied:
// outputs of an axis are grouped into phases, and each phase reads consecutive pixels.
#pragma once
#include "cagc/common.h"

namespace cagc {

struct Upfirdn2d {
  const void *x = nullptr;  // [n, c, in_h, in_w, inner], elements of a pixel and pixels of a row adjacent
  const void *f = nullptr;  // taps in the accumulate type: [f_h, f_w], or [f_w] for both axes; null is one tap of 1
  void *out = nullptr;  // [n, c, out_h, out_w, inner], dense
  int64_t n = 0, c = 0;  // NCHW: inner is 1. channels_last: inner is the number of channels, c is 1
  int64_t inner = 1;
  int64_t in_h = 0, in_w = 0, out_h = 0, out_w = 0;
  int64_t stride_n = 0, stride_c = 0, stride_h = 0;  // of x, in elements
  int64_t up_x = 1, up_y = 1, down_x = 1, down_y = 1;  // at least 1
  int64_t pad_x = 0, pad_y = 0;  // zeros before the first pixel; negative crops
  int64_t f_h = 1, f_w = 1;
  bool separable = false;  // f is [f_w], f_h == f_w
  bool flip = false;       // correlate with f; false mirrors it
  double gain = 1;
  DType dtype = DType::float32;
};

void upfirdn2d_cpu(const Upfirdn2d &p, int threads);

// Returns null, or an error message. `stream` is a cudaStream_t of the current device.
const char *upfirdn2d_cuda(const Upfirdn2d &p, void *stream);

// One axis: output o reads the up-sampled axis from position o * down - pad on.
struct Axis {
  int64_t up, down, pad, taps;
};

CAGC_HD Axis axis_x(const Upfirdn2d &p) { return {p.up_x, p.down_x, p.pad_x, p.f_w}; }
CAGC_HD Axis axis_y(const Upfirdn2d &p) { return {p.up_y, p.down_y, p.pad_y, p.f_h}; }

// Output o is the sum over j < count of tap[k0 + j * up] * x[first + j]; x is zero outside.
struct Window {
  int64_t first, k0, count;
};

CAGC_HD int64_t floor_div(int64_t a, int64_t b) { return a / b - (a % b < 0); }

CAGC_HD Window window(const Axis &a, int64_t o) {
  const int64_t base = o * a.down - a.pad;
  const int64_t first = floor_div(base + a.up - 1, a.up), k0 = first * a.up - base;
  return {first, k0, k0 < a.taps ? (a.taps - k0 + a.up - 1) / a.up : 0};
}

// Tap k of the correlation, before gain, along each axis. f is never null here.
template <class A> CAGC_HD A tap(const Upfirdn2d &p, int64_t ky, int64_t kx) {
  const A *f = static_cast<const A *>(p.f);
  if (!p.flip) ky = p.f_h - 1 - ky, kx = p.f_w - 1 - kx;
  return p.separable ? f[ky] * f[kx] : f[ky * p.f_w + kx];
}

}  // namespace cagc
