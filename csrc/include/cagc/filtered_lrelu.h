// filtered_lrelu: up-sample x + b by a FIR filter, apply gain, leaky ReLU and clamp, down-sample by a FIR filter; its
// directional derivative and its gradient. All three have one form: `spread` filters images onto the middle grid (the
// up-sampled image), a function acts on each element of it, and `gather` filters the result down.
#pragma once
#include "cagc/bias_act.h"
#include "cagc/upfirdn2d.h"

namespace cagc {

//   value     out [out] = gather(act(spread(x + b)))
//   tangent   out [out] = gather(act'(spread(x + b)) * spread(g))                g [in]
//   gradient  out [in]  = the transpose of tangent, applied to g [out]
enum class Route : int { value = 0, tangent, gradient };

struct FilteredLrelu {
  const void *x = nullptr;  // [n, c, in_h, in_w], pixels of a row adjacent
  const void *b = nullptr;  // [c] in the accumulate type, or null
  const void *g = nullptr;  // [n, c, in_h, in_w] or [n, c, out_h, out_w], dense; null for Route::value
  const void *fu = nullptr, *fd = nullptr;  // taps in the accumulate type: [h, w], or [w] for both axes; null: one of 1
  void *out = nullptr;  // [n, c, out_h, out_w], of Route::gradient [n, c, in_h, in_w]; dense
  int64_t n = 0, c = 0;
  int64_t in_h = 0, in_w = 0, mid_h = 0, mid_w = 0, out_h = 0, out_w = 0;
  int64_t stride_n = 0, stride_c = 0, stride_h = 0;  // of x, in elements
  int64_t up = 1, down = 1;      // at least 1
  int64_t pad_x = 0, pad_y = 0;  // zeros before the first up-sampled pixel; negative crops
  int64_t fu_h = 1, fu_w = 1, fd_h = 1, fd_w = 1;
  bool fu_separable = false, fd_separable = false;  // [w], h == w
  bool flip = false;  // correlate with the taps; false mirrors them
  double gain = 1, slope = 0.2, clamp = -1;  // clamp < 0: none
  Route route = Route::value;
  DType dtype = DType::float32;
};

void filtered_lrelu_cpu(const FilteredLrelu &p, int threads);

// Returns null, or an error message. `stream` is a cudaStream_t of the current device.
const char *filtered_lrelu_cuda(const FilteredLrelu &p, void *stream);

// A FIR filter between images and the middle grid. Spread: middle position m reads the up-sampled images, `factor`
// apart, from m - pad on. Gathered: output o reads the middle grid from o * factor - pad on.
struct Leg {
  const void *f;
  int64_t h, w;
  bool separable, flip;
  int64_t factor, pad_x, pad_y;
  double gain;  // of each axis
};

CAGC_HD Leg spread_of_x(const FilteredLrelu &p) {
  return {p.fu, p.fu_h, p.fu_w, p.fu_separable, p.flip, p.up, p.pad_x, p.pad_y, double(p.up)};
}

CAGC_HD Leg spread_of_g(const FilteredLrelu &p) {
  if (p.route != Route::gradient) return spread_of_x(p);
  return {p.fd, p.fd_h, p.fd_w, p.fd_separable, !p.flip, p.down, p.fd_w - 1, p.fd_h - 1, 1};
}

CAGC_HD Leg gather_of(const FilteredLrelu &p) {
  if (p.route != Route::gradient) return {p.fd, p.fd_h, p.fd_w, p.fd_separable, p.flip, p.down, 0, 0, 1};
  return {p.fu, p.fu_h, p.fu_w, p.fu_separable, !p.flip, p.up, p.fu_w - 1 - p.pad_x, p.fu_h - 1 - p.pad_y,
          double(p.up)};
}

CAGC_HD int64_t rows_of_result(const FilteredLrelu &p) { return p.route == Route::gradient ? p.in_h : p.out_h; }
CAGC_HD int64_t columns_of_result(const FilteredLrelu &p) { return p.route == Route::gradient ? p.in_w : p.out_w; }
CAGC_HD int64_t rows_of_g(const FilteredLrelu &p) { return p.route == Route::gradient ? p.out_h : p.in_h; }
CAGC_HD int64_t columns_of_g(const FilteredLrelu &p) { return p.route == Route::gradient ? p.out_w : p.in_w; }

// Tap (ky, kx) of the correlation, with the gain of both axes.
template <class A> CAGC_HD A tap(const Leg &leg, int64_t ky, int64_t kx) {
  const A *f = static_cast<const A *>(leg.f), gain = A(leg.gain * leg.gain);
  if (!f) return gain;
  if (!leg.flip) ky = leg.h - 1 - ky, kx = leg.w - 1 - kx;
  return f[ky * leg.w + kx] * gain;
}

// Tap k along either axis of a separable leg.
template <class A> CAGC_HD A axis_tap(const Leg &leg, int64_t k) {
  return static_cast<const A *>(leg.f)[leg.flip ? k : leg.w - 1 - k] * A(leg.gain);
}

// The formula of the leaky ReLU is that of bias_act.
template <class A> BiasActScalars<A> scalars_of(const FilteredLrelu &p) {
  BiasAct act;
  act.alpha = p.slope, act.gain = p.gain, act.clamp = p.clamp;
  return BiasActScalars<A>(act);
}

}  // namespace cagc
