// What the passes of the epilogue on the CPU share: how work is split among threads, absent factors, and the loop over
// adjacent values.
#pragma once
#pragma GCC diagnostic ignored "-Wpsabi"
#pragma GCC diagnostic ignored "-Wuninitialized"  // in the compiler's own headers of AVX-512
#pragma GCC diagnostic ignored "-Wmaybe-uninitialized"
#include "cagc/epilogue.h"
#include "isa/elements.h"
#include <algorithm>
#include "openmp.h"
#include <type_traits>
#include <vector>

namespace cagc {
namespace {

// Starting the threads costs more than 32k elements on one thread (the grain size of at::parallel_for).
constexpr int64_t kGrain = 32768;

// Factors of a sample (channels_last: vectors along channels) or of a channel (NCHW: scalars).
template <class A> struct Factors { const A *d, *b, *s; };

// Calls f(begin, end) for parts of [0, total), one per thread.
template <class F> void split(int64_t total, int64_t work, int threads, F &&f) {
  const int64_t team = std::max<int64_t>(1, std::min<int64_t>({threads, total, work / kGrain}));
  if (team == 1) return f(0, total);
#pragma omp parallel num_threads(team)
  {
    const int64_t t = omp_get_thread_num(), n = omp_get_num_threads();
    f(total * t / n, total * (t + 1) / n);
  }
}

// Vectors of ones and zeros replace absent factors.
template <class T> struct Operands {
  using A = acc_t<T>;
  const Epilogue &p;
  const std::vector<A> ones, zeros;
  explicit Operands(const Epilogue &p) : p(p), ones(p.c, A(1)), zeros(p.c, A(0)) {}

  const A *vector(const void *v, int64_t i, const std::vector<A> &absent, int64_t c) const {
    return v ? static_cast<const A *>(v) + i + c : absent.data() + c;
  }
  Factors<A> factors(int64_t n, int64_t c) const {
    return {vector(p.d, n * p.c, ones, c), vector(p.b, 0, zeros, c), vector(p.s, n * p.c, ones, c)};
  }
  const A *noise(int64_t n) const { return p.noise ? static_cast<const A *>(p.noise) + n * p.noise_step : nullptr; }
};

// A run of values is read by vectors V = Elements<A> or, if it is shorter than one, by numbers V = A.
template <class V, class T> CAGC_HD V read(const T *p) {
  if constexpr (std::is_same_v<V, acc_t<T>>) return static_cast<V>(*p);
  else return load(p);
}
template <class V, class T> CAGC_HD void write(T *p, V v) {
  if constexpr (std::is_same_v<V, acc_t<T>>) *p = static_cast<T>(v);
  else store(p, v);
}

// Factors of the values of a run. ACROSS: the values are the channels of one pixel; otherwise pixels of one channel.
template <class V, bool ACROSS, class A> struct RunFactors {
  const Factors<A> k;
  const A *const noise;
  const V d0, b0, s0, noise0;
  CAGC_HD RunFactors(const Factors<A> &k, const A *noise)
      : k(k), noise(noise), d0(*k.d), b0(*k.b), s0(*k.s), noise0(noise ? *noise : A(0)) {}

  CAGC_HD V d(int64_t i) const { return ACROSS ? read<V>(k.d + i) : d0; }
  CAGC_HD V s(int64_t i) const { return ACROSS ? read<V>(k.s + i) : s0; }
  CAGC_HD V bias(int64_t i) const {
    if (ACROSS) return noise0 + read<V>(k.b + i);
    return noise ? read<V>(noise + i) + b0 : b0;
  }
};

// Computes n adjacent values of the output. u(V(), i) returns those of u at i, as a V. Without VECTORS the compiler
// chooses them.
template <class T, Act ACT, bool ACROSS, bool VECTORS = true, class A, class U>
CAGC_HD void run(U &&u, const A *noise, const Factors<A> &factors, T *out, int64_t n, const Epilogue &p) {
  using V = Elements<A>;
  const auto value = [&](auto number, const auto &k, const auto &scalars, int64_t i) CAGC_LAMBDA {
    return epilogue_value<ACT>(u(number, i) * k.d(i) + k.bias(i), scalars) * k.s(i);
  };
  if (!VECTORS || n < V::lanes) {
    const RunFactors<A, ACROSS, A> k(factors, noise);
    const EpilogueScalars<A> scalars(p);
#pragma GCC ivdep
    for (int64_t i = 0; i < n; i++) write<A>(out + i, value(A(0), k, scalars, i));
    return;
  }
  const RunFactors<V, ACROSS, A> k(factors, noise);
  const EpilogueScalars<V> scalars(p);
  // The last vector overlaps the one before it. It is computed first, because `out` may be where u comes from.
  const V last = value(V(0), k, scalars, n - V::lanes);
  for (int64_t i = 0; i + V::lanes <= n; i += V::lanes) write<V>(out + i, value(V(0), k, scalars, i));
  write<V>(out + n - V::lanes, last);
}

}  // namespace
}  // namespace cagc
