// The epilogue of a modulated convolution (all steps after the dense convolution) in one pass over memory:
//   u = fir(x), or x;   v = u * d[n,c] + noise[n,pixel] + b[c];   a = clamp(gain * act(v));   y = a * s[n,c]
// and the gradients of these steps except the filter.
#pragma once
#include "cagc/bias_act.h"

namespace cagc {

// Small tensors are of the accumulate type A of the dtype.
struct Epilogue {
  const void *x = nullptr;      // [n, c, in_h, in_w], or [n, in_h, in_w, c]; dense
  const void *g = nullptr;      // gradient of y, laid out as y; null computes y itself
  const void *f = nullptr;      // A [4, 4], correlation, gain included; null: no filter, in_h = out_h, in_w = out_w
  const void *d = nullptr;      // A [n, c], or null: 1
  const void *noise = nullptr;  // A [n or 1, out_h, out_w], or null: 0
  const void *b = nullptr;      // A [c], or null: 0
  const void *s = nullptr;      // A [n, c], or null: 1
  void *out = nullptr;          // y, or the gradient of u; laid out as x. May be x if there is no filter
  // Outputs of the gradient pass, or null. Sums are over chunks of pixels; the caller adds the chunks.
  void *sums = nullptr;         // A [3, n, chunks, c]: gv * u, gv and g * a, where gv is the gradient of v
  void *dnoise = nullptr;       // A [n, out_h, out_w]
  int64_t n = 0, c = 0, in_h = 0, in_w = 0, out_h = 0, out_w = 0;
  int64_t pad_x = 0, pad_y = 0;
  int64_t noise_step = 0;  // elements between samples: 0 or out_h * out_w
  int64_t chunk = 1;       // pixels per sum, at least 1; independent of the threads, so that sums are too
  bool channels_last = false;
  double alpha = 0, gain = 1, clamp = -1;  // clamp < 0: no clamp
  Act act = Act::linear;                   // linear, relu or lrelu
  DType dtype = DType::float32;
};

void epilogue_cpu(const Epilogue &p, int threads);

// Returns null, or an error message. `stream` is a cudaStream_t of the current device.
const char *epilogue_cuda(const Epilogue &p, void *stream);

CAGC_HD int64_t chunks(const Epilogue &p) { return (p.out_h * p.out_w + p.chunk - 1) / p.chunk; }

// Calls f(ActTag<ACT>{}). Only linear, relu and lrelu are fused: smooth ones cost more than the pass over memory saves.
template <class F> CAGC_HD void with_fused_act(Act act, F &&f) {
  if (act == Act::lrelu) f(ActTag<Act::lrelu>{});
  else if (act == Act::relu) f(ActTag<Act::relu>{});
  else f(ActTag<Act::linear>{});
}

// The scalars of an epilogue in the accumulate type.
template <class A> struct EpilogueScalars {
  A alpha, gain, clamp;
  bool clamped;
  explicit EpilogueScalars(const Epilogue &p)
      : alpha(A(p.alpha)), gain(A(p.gain)), clamp(A(p.clamp)), clamped(p.clamp >= 0) {}
};

template <Act ACT, class A> CAGC_HD A epilogue_value(A v, const EpilogueScalars<A> &k) {
  A a = k.gain * act_value<ACT>(v, k.alpha);
  if (!k.clamped) return a;
  a = select(a > k.clamp, k.clamp, a);
  return select(a < -k.clamp, -k.clamp, a);
}

// Gradient of v for the gradient `ga` of a.
template <Act ACT, class A> CAGC_HD A epilogue_gradient(A v, A a, A ga, const EpilogueScalars<A> &k) {
  const A out = ga * k.gain * act_gradient<ACT>(v, k.alpha);
  return k.clamped ? select(a > -k.clamp && a < k.clamp, out, A(0)) : out;
}

}  // namespace cagc
