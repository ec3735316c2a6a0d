// bias_act: y = clamp(gain * act(x + b)), its gradient and the gradient of its gradient, element by element.
#pragma once
#include "cagc/common.h"
#if !defined(__CUDACC__)
#include <cmath>
#endif

namespace cagc {

// The order is that of ACTIVATIONS in cagc_kernels/reference/bias_act.py.
enum class Act : int { linear = 0, relu, lrelu, tanh, sigmoid, elu, selu, softplus, swish };

// What one pass computes. u = x + b, v = gain * act(u), inside = -clamp < v < clamp (always, without clamp).
//   value         out = clamp(v)
//   slope         out = g * gain * act'(u)   inside, else 0
//   curvature     out = g * h * gain * act''(u)   inside, else 0
// The piecewise linear activations (linear, relu, lrelu) have no curvature, and their slope is read off the
// saved output y, so that neither x nor b need to be kept. That asks for gain > 0 and, for lrelu, alpha >= 0:
// the sign of y is then that of u.
enum class Pass : int { value = 0, slope, curvature };

struct BiasAct {
  const void *x;     // [numel]    input; null where y is given
  const void *b;     // [channels] bias, or null
  const void *y;     // [numel]    saved output, slope of piecewise linear activations only
  const void *g;     // [numel]    gradient of the output (slope, curvature)
  const void *h;     // [numel]    second factor (curvature)
  void *out;         // [numel]
  int64_t numel;     // all tensors are dense and share one memory order
  int64_t step;      // element i belongs to channel (i / step) % channels:
  int64_t channels;  //   step = H*W for NCHW, 1 for channels_last
  double alpha, gain;
  double clamp;      // < 0: none
  Act act;
  Pass pass;
  DType dtype;
};

constexpr bool piecewise_linear(Act act) { return act == Act::linear || act == Act::relu || act == Act::lrelu; }

void bias_act_cpu(const BiasAct &p, int threads);

// Null, or a message. `stream` is a cudaStream_t of the current device.
const char *bias_act_cuda(const BiasAct &p, void *stream);

template <Act ACT> struct ActTag { static constexpr Act value = ACT; };

// Calls f(ActTag<ACT>{}): the activation as a compile-time constant.
template <class F> CAGC_HD void with_act(Act act, F &&f) {
  switch (act) {
    case Act::linear: f(ActTag<Act::linear>{}); break;
    case Act::relu: f(ActTag<Act::relu>{}); break;
    case Act::lrelu: f(ActTag<Act::lrelu>{}); break;
    case Act::tanh: f(ActTag<Act::tanh>{}); break;
    case Act::sigmoid: f(ActTag<Act::sigmoid>{}); break;
    case Act::elu: f(ActTag<Act::elu>{}); break;
    case Act::selu: f(ActTag<Act::selu>{}); break;
    case Act::softplus: f(ActTag<Act::softplus>{}); break;
    case Act::swish: f(ActTag<Act::swish>{}); break;
  }
}

namespace math {
#if defined(__CUDACC__)
using ::exp, ::expm1, ::log1p, ::tanh;
#else
using std::exp, std::expm1, std::log1p, std::tanh;
#endif
template <class A> CAGC_HD A sigmoid(A u) { return A(1) / (A(1) + exp(-u)); }
}  // namespace math

// Klambauer et al. 2017: the fixed point of zero mean and unit variance.
template <class A> struct Selu {
  static constexpr A alpha = A(1.6732632423543772848170429916717), scale = A(1.0507009873554804934193349852946);
};

// PyTorch takes softplus for the identity above this; so do we, or float64 results would differ by 2e-9.
template <class A> constexpr A kSoftplusThreshold = A(20);

template <Act ACT, class A> CAGC_HD A act_value(A u, A alpha) {
  if constexpr (ACT == Act::relu) return u < A(0) ? A(0) : u;  // a NaN stays
  if constexpr (ACT == Act::lrelu) return u > A(0) ? u : u * alpha;
  if constexpr (ACT == Act::tanh) return math::tanh(u);
  if constexpr (ACT == Act::sigmoid) return math::sigmoid(u);
  if constexpr (ACT == Act::elu) return u > A(0) ? u : math::expm1(u);
  if constexpr (ACT == Act::selu) return Selu<A>::scale * (u > A(0) ? u : Selu<A>::alpha * math::expm1(u));
  if constexpr (ACT == Act::softplus) return u > kSoftplusThreshold<A> ? u : math::log1p(math::exp(u));
  if constexpr (ACT == Act::swish) return u * math::sigmoid(u);
  return u;
}

// Of the piecewise linear activations, `u` may be the output y instead.
template <Act ACT, class A> CAGC_HD A act_slope(A u, A alpha) {
  if constexpr (ACT == Act::relu) return u > A(0) ? A(1) : A(0);
  if constexpr (ACT == Act::lrelu) return u > A(0) ? A(1) : alpha;
  if constexpr (ACT == Act::tanh) { const A t = math::tanh(u); return (A(1) - t) * (A(1) + t); }
  if constexpr (ACT == Act::sigmoid) return math::sigmoid(u) * math::sigmoid(-u);
  if constexpr (ACT == Act::elu) return u > A(0) ? A(1) : math::exp(u);
  if constexpr (ACT == Act::selu) return Selu<A>::scale * (u > A(0) ? A(1) : Selu<A>::alpha * math::exp(u));
  if constexpr (ACT == Act::softplus) return u > kSoftplusThreshold<A> ? A(1) : math::sigmoid(u);
  if constexpr (ACT == Act::swish) return math::sigmoid(u) * (A(1) + u * math::sigmoid(-u));
  return A(1);
}

template <Act ACT, class A> CAGC_HD A act_curvature(A u) {
  if constexpr (ACT == Act::tanh) { const A t = math::tanh(u); return A(-2) * t * (A(1) - t) * (A(1) + t); }
  if constexpr (ACT == Act::elu) return u >= A(0) ? A(0) : math::exp(u);
  if constexpr (ACT == Act::selu) return u >= A(0) ? A(0) : Selu<A>::scale * Selu<A>::alpha * math::exp(u);
  if constexpr (ACT == Act::sigmoid || ACT == Act::softplus || ACT == Act::swish) {
    const A s = math::sigmoid(u), s1 = s * math::sigmoid(-u), s2 = s1 * (A(1) - A(2) * s);
    if constexpr (ACT == Act::softplus) return u > kSoftplusThreshold<A> ? A(0) : s1;
    return ACT == Act::sigmoid ? s2 : A(2) * s1 + u * s2;
  }
  return A(0);
}

// The scalars of a pass in the accumulate type.
template <class A> struct BiasActScalars {
  A alpha, gain, clamp;
  explicit BiasActScalars(const BiasAct &p) : alpha(A(p.alpha)), gain(A(p.gain)), clamp(A(p.clamp)) {}
};

// One element. `u` is x + b, or y where a slope is read off the output.
template <Act ACT, Pass PASS, class A> CAGC_HD A bias_act_element(A u, A g, A h, const BiasActScalars<A> &s) {
  constexpr bool from_output = piecewise_linear(ACT) && PASS == Pass::slope;
  const bool clamped = s.clamp >= A(0);
  A v = u;
  if (PASS == Pass::value || (clamped && !from_output)) v = s.gain * act_value<ACT>(u, s.alpha);
  if constexpr (PASS == Pass::value) {
    if (!clamped) return v;
    v = v > s.clamp ? s.clamp : v;
    return v < -s.clamp ? -s.clamp : v;
  } else {
    const A d = PASS == Pass::slope ? act_slope<ACT>(u, s.alpha) : h * act_curvature<ACT>(u);
    const A out = g * s.gain * d;
    return !clamped || (v > -s.clamp && v < s.clamp) ? out : A(0);
  }
}

}  // namespace cagc
