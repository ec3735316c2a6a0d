// What surrounds the dense convolution of a modulated one, in one pass over memory:
//   u = fir(x), or x;   v = u * d[n,c] + noise[n,pixel] + b[c];   a = clamp(gain * act(v));   y = a * s[n,c]
// and, without the filter, the gradients of all of these.
#pragma once
#include "cagc/bias_act.h"

namespace cagc {

// What varies little is kept in the accumulate type A of the dtype.
struct Epilogue {
  const void *x;      // [n, c, in_h, in_w], or [n, in_h, in_w, c]; dense
  const void *g;      // gradient of y, laid out as y; null asks for y itself
  const void *f;      // A [4, 4], correlation, gain included; null: no filter, in_h = out_h, in_w = out_w
  const void *d;      // A [n, c], or null: 1
  const void *noise;  // A [n or 1, out_h, out_w], or null: 0
  const void *b;      // A [c], or null: 0
  const void *s;      // A [n, c], or null: 1
  void *out;          // y, or the gradient of u; laid out as x. May be x where there is no filter
  // Of the gradients, or null. Sums over chunks of pixels, for the caller to add up:
  void *sums;         // A [3, n, chunks, c]: gv * u, gv and g * a, where gv is the gradient of v
  void *dnoise;       // A [n, out_h, out_w]
  int64_t n, c, in_h, in_w, out_h, out_w;
  int64_t pad_x, pad_y;
  int64_t noise_step;  // from sample to sample: 0 or out_h * out_w
  int64_t chunk;       // pixels, at least 1: the same for any number of threads, and so are the sums
  bool channels_last;
  double alpha, gain, clamp;  // clamp < 0: none
  Act act;                    // linear, relu or lrelu
  DType dtype;
};

void modulated_conv2d_cpu(const Epilogue &p, int threads);

// Null, or a message. `stream` is a cudaStream_t of the current device.
const char *modulated_conv2d_cuda(const Epilogue &p, void *stream);

CAGC_HD int64_t chunks(const Epilogue &p) { return (p.out_h * p.out_w + p.chunk - 1) / p.chunk; }

// Calls f(ActTag<ACT>{}) for the activations that are fused: the smooth ones cost more than a pass over memory.
template <class F> CAGC_HD void with_fused_act(Act act, F &&f) {
  if (act == Act::lrelu) f(ActTag<Act::lrelu>{});
  else if (act == Act::relu) f(ActTag<Act::relu>{});
  else f(ActTag<Act::linear>{});
}

// The scalars of an epilogue in the accumulate type.
template <class A> struct EpilogueScalars {
  A alpha, gain, clamp;
  explicit EpilogueScalars(const Epilogue &p) : alpha(A(p.alpha)), gain(A(p.gain)), clamp(A(p.clamp)) {}
};

template <Act ACT, class A> CAGC_HD A epilogue_value(A v, const EpilogueScalars<A> &k) {
  A a = k.gain * act_value<ACT>(v, k.alpha);
  if (k.clamp < A(0)) return a;
  a = a > k.clamp ? k.clamp : a;
  return a < -k.clamp ? -k.clamp : a;
}

// Gradient of v for the gradient `ga` of a.
template <Act ACT, class A> CAGC_HD A epilogue_slope(A v, A a, A ga, const EpilogueScalars<A> &k) {
  const A out = ga * k.gain * act_slope<ACT>(v, k.alpha);
  return k.clamp < A(0) || (a > -k.clamp && a < k.clamp) ? out : A(0);
}

}  // namespace cagc
