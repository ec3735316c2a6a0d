// What the passes of the epilogue on the CPU share: how work is split among threads, and absent factors.
#pragma once
#include "cagc/epilogue.h"
#include <algorithm>
#include "openmp.h"
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

}  // namespace
}  // namespace cagc
