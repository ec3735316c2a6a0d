// bias_act: y = clamp(gain * act(x + b)), its gradient and its second gradient, element by element.
#pragma once
#include "cagc/common.h"
#if !defined(__CUDACC__)
#include <cmath>
#endif

namespace cagc {

// The order is that of ACTIVATIONS in cagc_kernels/reference/bias_act.py.
enum class Act : int { linear = 0, relu, lrelu, tanh, sigmoid, elu, selu, softplus, swish };

// What one pass computes. u = x + b, v = gain * act(u), inside = -clamp < v < clamp (always, without clamp).
//   value            out = clamp(v)
//   gradient         out = g * gain * act'(u)   inside, else 0
//   second_gradient  out = g * h * gain * act''(u)   inside, else 0
// The second derivative of the piecewise linear activations (linear, relu, lrelu) is zero, and their first one is
// computed from the saved output y, so that x and b need not be kept. This requires gain > 0 and, for lrelu,
// alpha >= 0: the sign of y is then that of u.
enum class Pass : int { value = 0, gradient, second_gradient };

struct BiasAct {
  const void *x = nullptr;  // [numel]    input; null where y is given
  const void *b = nullptr;  // [channels] bias, or null
  const void *y = nullptr;  // [numel]    saved output, for the gradient of piecewise linear activations only
  const void *g = nullptr;  // [numel]    gradient of the output (gradient, second_gradient)
  const void *h = nullptr;  // [numel]    second factor (second_gradient)
  void *out = nullptr;      // [numel]
  int64_t numel = 0;        // all tensors are dense and share one memory order
  int64_t step = 1;         // element i belongs to channel (i / step) % channels:
  int64_t channels = 1;     //   step = H*W for NCHW, 1 for channels_last
  double alpha = 0, gain = 1;
  double clamp = -1;  // < 0: no clamp
  Act act = Act::linear;
  Pass mode = Pass::value;
  DType dtype = DType::float32;
  // With Pass::gradient, partial sums of `out` in the accumulate type, or null. If step > 1, each run of one channel is
  // cut into pieces of at most `chunk` elements: sums are [numel / step, pieces]. If step is 1, the whole tensor is cut
  // into pieces of `chunk` elements, a multiple of the channels: sums are [pieces, channels].
  void *sums = nullptr;
  int64_t chunk = 0;
};

constexpr bool piecewise_linear(Act act) { return act == Act::linear || act == Act::relu || act == Act::lrelu; }

void bias_act_cpu(const BiasAct &p, int threads);

// Returns null, or an error message. `stream` is a cudaStream_t of the current device.
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

// Both branches are evaluated, because CPU kernels instantiate A with SIMD vectors (csrc/cpu/isa/elements.h).
template <class A> CAGC_HD A select(bool condition, A a, A b) { return condition ? a : b; }

namespace math {
#if defined(__CUDACC__)
using ::exp, ::expm1, ::log1p, ::tanh;
#else
using std::exp, std::expm1, std::log1p, std::tanh;
#endif
template <class A> CAGC_HD A sigmoid(A u) { return A(1) / (A(1) + exp(-u)); }
template <class A> CAGC_HD A softplus(A u) { return log1p(exp(u)); }
}  // namespace math

// Klambauer et al. 2017: constants for which zero mean and unit variance are a fixed point.
struct Selu {
  static constexpr double alpha = 1.6732632423543772848170429916717, scale = 1.0507009873554804934193349852946;
};

// Above this, softplus is the identity, as in PyTorch: otherwise float64 results would differ by 2e-9.
constexpr int kSoftplusThreshold = 20;

template <Act ACT, class A> CAGC_HD A act_value(A u, A alpha) {
  using namespace math;
  if constexpr (ACT == Act::relu) return select(u < A(0), A(0), u);  // a NaN stays
  if constexpr (ACT == Act::lrelu) return select(u > A(0), u, u * alpha);
  if constexpr (ACT == Act::tanh) return tanh(u);
  if constexpr (ACT == Act::sigmoid) return sigmoid(u);
  if constexpr (ACT == Act::elu) return select(u > A(0), u, expm1(u));
  if constexpr (ACT == Act::selu) return A(Selu::scale) * select(u > A(0), u, A(Selu::alpha) * expm1(u));
  if constexpr (ACT == Act::softplus) return select(u > A(kSoftplusThreshold), u, softplus(u));
  if constexpr (ACT == Act::swish) return u * sigmoid(u);
  return u;
}

// For piecewise linear activations, `u` may also be the output y.
template <Act ACT, class A> CAGC_HD A act_gradient(A u, A alpha) {
  using namespace math;
  if constexpr (ACT == Act::relu) return select(u > A(0), A(1), A(0));
  if constexpr (ACT == Act::lrelu) return select(u > A(0), A(1), alpha);
  if constexpr (ACT == Act::tanh) { const A t = tanh(u); return (A(1) - t) * (A(1) + t); }
  if constexpr (ACT == Act::sigmoid) return sigmoid(u) * sigmoid(-u);
  if constexpr (ACT == Act::elu) return select(u > A(0), A(1), exp(u));
  if constexpr (ACT == Act::selu) return A(Selu::scale) * select(u > A(0), A(1), A(Selu::alpha) * exp(u));
  if constexpr (ACT == Act::softplus) return select(u > A(kSoftplusThreshold), A(1), sigmoid(u));
  if constexpr (ACT == Act::swish) return sigmoid(u) * (A(1) + u * sigmoid(-u));
  return A(1);
}

template <Act ACT, class A> CAGC_HD A act_second_gradient(A u) {
  using namespace math;
  if constexpr (ACT == Act::tanh) { const A t = tanh(u); return A(-2) * t * (A(1) - t) * (A(1) + t); }
  if constexpr (ACT == Act::elu) return select(u >= A(0), A(0), exp(u));
  if constexpr (ACT == Act::selu) return select(u >= A(0), A(0), A(Selu::scale) * A(Selu::alpha) * exp(u));
  if constexpr (ACT == Act::sigmoid || ACT == Act::softplus || ACT == Act::swish) {
    const A s = sigmoid(u), s1 = s * sigmoid(-u), s2 = s1 * (A(1) - A(2) * s);
    if constexpr (ACT == Act::softplus) return select(u > A(kSoftplusThreshold), A(0), s1);
    return ACT == Act::sigmoid ? s2 : A(2) * s1 + u * s2;
  }
  return A(0);
}

// The scalars of a pass in the accumulate type.
template <class A> struct BiasActScalars {
  A alpha, gain, clamp;
  bool clamped;
  explicit BiasActScalars(const BiasAct &p)
      : alpha(A(p.alpha)), gain(A(p.gain)), clamp(A(p.clamp)), clamped(p.clamp >= 0) {}
};

// Computes one element. `u` is x + b, or y for the gradient of a piecewise linear activation.
template <Act ACT, Pass PASS, class A> CAGC_HD A bias_act_element(A u, A g, A h, const BiasActScalars<A> &s) {
  constexpr bool from_output = piecewise_linear(ACT) && PASS == Pass::gradient;
  A v = u;
  if (PASS == Pass::value || (s.clamped && !from_output)) v = s.gain * act_value<ACT>(u, s.alpha);
  if constexpr (PASS == Pass::value) {
    if (!s.clamped) return v;
    v = select(v > s.clamp, s.clamp, v);
    return select(v < -s.clamp, -s.clamp, v);
  } else {
    const A d = PASS == Pass::gradient ? act_gradient<ACT>(u, s.alpha) : h * act_second_gradient<ACT>(u);
    const A out = g * s.gain * d;
    return s.clamped ? select(v > -s.clamp && v < s.clamp, out, A(0)) : out;
  }
}

}  // namespace cagc
