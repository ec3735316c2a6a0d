// See bias_act_loops.h.
#pragma GCC diagnostic ignored "-Wpsabi"
#pragma GCC diagnostic ignored "-Wuninitialized"  // in the compiler's own headers of AVX-512
#pragma GCC diagnostic ignored "-Wmaybe-uninitialized"
#include "bias_act_loops.h"
#include "isa/elements.h"
#include <algorithm>

namespace cagc {

namespace {

// Vectors per partial sum: rounding errors grow with the length of a chain of additions, so sums are blocked.
constexpr int64_t kSummed = 16;

template <class T, Act ACT, Pass PASS>
CAGC_HD Elements<acc_t<T>> element(const T *u, const T *g, const T *h, const acc_t<T> *b,
                               const BiasActScalars<Elements<acc_t<T>>> &scalars) {
  Elements<acc_t<T>> gi(0), hi(0);
  if constexpr (PASS != Pass::value) gi = load(g);
  if constexpr (PASS == Pass::second_gradient) hi = load(h);
  return bias_act_element<ACT, PASS>(load(u) + load(b), gi, hi, scalars);
}

template <class T, Act ACT, Pass PASS> void loop(const BiasAct &p, const BiasActRun &r) {
  using A = acc_t<T>;
  constexpr int64_t lanes = Elements<A>::lanes;
  const BiasActScalars<Elements<A>> scalars(p);
  const T *u = static_cast<const T *>(r.u), *g = static_cast<const T *>(r.g), *h = static_cast<const T *>(r.h);
  const A *b = static_cast<const A *>(r.b);
  T *out = static_cast<T *>(r.out);
  A *sums = PASS == Pass::gradient ? static_cast<A *>(r.sums) : nullptr;
  Elements<A> total(0);
  const auto some = [&](int64_t i, int64_t n) {  // fewer elements than a vector
    T in[3][lanes] = {}, result[lanes];
    const T *from[3] = {u, g, h};
    for (int64_t k = 0; k < n; k++)
      for (int j = 0; j <= static_cast<int>(PASS); j++) in[j][k] = from[j][i + k];
    const Elements<A> y = element<T, ACT, PASS>(in[0], in[1], in[2], b + i * r.step, scalars);
    store(result, y);
    for (int64_t k = 0; k < n; k++) {
      out[i + k] = result[k];
      if (sums && r.step) sums[i + k] += y.v[k];
      else if (sums) total.v[k] += y.v[k];
    }
  };
  int64_t i = 0;
  // The order of summation must not depend on addresses, so with sums the loop does not align itself.
  if (r.stream && !sums) some(0, i = std::min(r.n, unaligned(out)));
  const auto vectors = [&](auto put) {
    while (i + lanes <= r.n) {
      const int64_t end = i + std::min(r.n - i, kSummed * lanes) / lanes * lanes;
      Elements<A> block(0);
#pragma GCC unroll 4
      for (; i < end; i += lanes) {
        const Elements<A> y = element<T, ACT, PASS>(u + i, g + i, h + i, b + i * r.step, scalars);
        put(out + i, y);
        if (sums && r.step) store(sums + i, load(sums + i) + y);
        else if (sums) block = block + y;
      }
      total = total + block;
    }
  };
  if (r.stream && !unaligned(out + i)) vectors([](T *p, Elements<A> y) { stream(p, y); });
  else vectors([](T *p, Elements<A> y) { store(p, y); });
  if (i < r.n) some(i, r.n - i);
  if (sums && !r.step) store(sums, load(sums) + total);
}

}  // namespace

#define CAGC_PASSES(T, ACT) \
  {loop<T, ACT, Pass::value>, loop<T, ACT, Pass::gradient>, loop<T, ACT, Pass::second_gradient>}
#define CAGC_ACTS(T)                                                                                                \
  {CAGC_PASSES(T, Act::linear),   CAGC_PASSES(T, Act::relu), CAGC_PASSES(T, Act::lrelu),                            \
   CAGC_PASSES(T, Act::tanh),     CAGC_PASSES(T, Act::sigmoid), CAGC_PASSES(T, Act::elu),                           \
   CAGC_PASSES(T, Act::selu),     CAGC_PASSES(T, Act::softplus), CAGC_PASSES(T, Act::swish)}

namespace CAGC_LEVEL {
#if defined(CAGC_ONLY_BFLOAT16)
extern const BiasActLoops bias_act_loops = {{{}, {}, {}, CAGC_ACTS(bfloat_t)}};
#else
extern const BiasActLoops bias_act_loops = {
    {CAGC_ACTS(float), CAGC_ACTS(double), CAGC_ACTS(half_t), CAGC_ACTS(bfloat_t)}};
#endif
}  // namespace CAGC_LEVEL

}  // namespace cagc
