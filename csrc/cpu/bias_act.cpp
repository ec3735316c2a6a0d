// bias_act on the CPU: one pass over memory, split evenly over OpenMP threads, one vector loop per channel run.
#include "cagc/bias_act.h"
#include <algorithm>
#include <omp.h>
#include <vector>

namespace cagc {
namespace {

// Waking a team costs more than 32k elements take on one thread (the grain of at::parallel_for).
constexpr int64_t kGrain = 32768;
// Elements of a tiled bias: long enough for a vector loop to pay, short enough for L1 beside the data.
constexpr int64_t kTile = 2048;

// A stretch of memory within which the channel stays (ACROSS false) or steps with each element (true).
template <class T> struct Run {
  const T *u, *b, *g, *h;
  T *out;
};

template <class T, Act ACT, Pass PASS, bool ACROSS>
CAGC_HD void bias_act_loop(const Run<T> &r, int64_t n, const BiasActScalars<acc_t<T>> &scalars) {
  using A = acc_t<T>;
  const A b0 = r.b ? static_cast<A>(*r.b) : A(0);
#pragma GCC ivdep
  for (int64_t i = 0; i < n; i++) {
    const A u = static_cast<A>(r.u[i]) + (ACROSS ? static_cast<A>(r.b[i]) : b0);
    const A g = PASS == Pass::value ? A(0) : static_cast<A>(r.g[i]);
    const A h = PASS == Pass::curvature ? static_cast<A>(r.h[i]) : A(0);
    r.out[i] = static_cast<T>(bias_act_element<ACT, PASS>(u, g, h, scalars));
  }
}

template <class T, Act ACT, Pass PASS, bool ACROSS>
CAGC_CLONES void bias_act_vector_loop(Run<T> r, int64_t n, BiasActScalars<acc_t<T>> scalars) {
  bias_act_loop<T, ACT, PASS, ACROSS>(r, n, scalars);
}

template <class T, Act ACT, Pass PASS, bool ACROSS>
void bias_act_run(const Run<T> &r, int64_t n, const BiasActScalars<acc_t<T>> &scalars) {
  // The smooth activations call the C library once per element: wider instructions would change nothing.
  if constexpr (piecewise_linear(ACT)) bias_act_vector_loop<T, ACT, PASS, ACROSS>(r, n, scalars);
  else bias_act_loop<T, ACT, PASS, ACROSS>(r, n, scalars);
}

// b, repeated as a whole until it has n elements: one vector loop then covers many channels_last pixels.
template <class T> std::vector<T> tile(const T *b, int64_t channels, int64_t n) {
  std::vector<T> tiled;
  do tiled.insert(tiled.end(), b, b + channels);
  while (static_cast<int64_t>(tiled.size()) < n);
  return tiled;
}

// Elements [begin, end), cut at the borders of channel runs.
template <class T, Act ACT, Pass PASS> void bias_act_range(const BiasAct &p, int64_t begin, int64_t end) {
  const BiasActScalars<acc_t<T>> scalars(p);
  const bool across = p.b && p.step == 1 && p.channels > 1;
  std::vector<T> tiled;
  if (across) tiled = tile(static_cast<const T *>(p.b), p.channels, std::min(end - begin, kTile));
  const int64_t run = !p.b ? p.numel : across ? static_cast<int64_t>(tiled.size()) : p.step;
  auto at = [](const void *base, int64_t i) { return base ? static_cast<const T *>(base) + i : nullptr; };
  // The slope of `linear` without clamp looks at neither x nor y; g keeps the loop free of a test.
  const void *u = p.y ? p.y : p.x ? p.x : p.g;
  for (int64_t i = begin; i < end;) {
    const int64_t offset = i % run, n = std::min(run - offset, end - i);
    const T *b = across ? tiled.data() + offset : static_cast<const T *>(at(p.b, (i / run) % p.channels));
    const Run<T> r{at(u, i), b, at(p.g, i), at(p.h, i), static_cast<T *>(p.out) + i};
    if (across) bias_act_run<T, ACT, PASS, true>(r, n, scalars);
    else bias_act_run<T, ACT, PASS, false>(r, n, scalars);
    i += n;
  }
}

template <class T, Act ACT, Pass PASS> void bias_act_threads(const BiasAct &p, int threads) {
  const int64_t team = std::max<int64_t>(1, std::min<int64_t>(threads, p.numel / kGrain));
  if (team == 1) return bias_act_range<T, ACT, PASS>(p, 0, p.numel);
#pragma omp parallel num_threads(team)
  {
    const int64_t t = omp_get_thread_num(), n = omp_get_num_threads();
    bias_act_range<T, ACT, PASS>(p, p.numel * t / n, p.numel * (t + 1) / n);
  }
}

template <class T, Act ACT> void bias_act_pass(const BiasAct &p, int threads) {
  switch (p.pass) {
    case Pass::value: return bias_act_threads<T, ACT, Pass::value>(p, threads);
    case Pass::slope: return bias_act_threads<T, ACT, Pass::slope>(p, threads);
    case Pass::curvature:
      if constexpr (!piecewise_linear(ACT)) bias_act_threads<T, ACT, Pass::curvature>(p, threads);
      else std::fill_n(static_cast<T *>(p.out), p.numel, T(0.f));
  }
}

}  // namespace

void bias_act_cpu(const BiasAct &p, int threads) {
  if (p.numel == 0) return;
  with_dtype(p.dtype, [&](auto type) {
    with_act(p.act, [&](auto tag) { bias_act_pass<typename decltype(type)::type, decltype(tag)::value>(p, threads); });
  });
}

}  // namespace cagc
