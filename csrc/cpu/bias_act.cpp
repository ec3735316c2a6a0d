// bias_act on the CPU: one pass over memory, split evenly among OpenMP threads, with one vector loop per channel run.
#include "bias_act_loops.h"
#include "isa/simd.h"
#include "stream.h"
#include <algorithm>
#include <numeric>
#include "openmp.h"
#include <vector>

namespace cagc {

namespace CAGC_LEVEL {
extern const BiasActLoops bias_act_loops;
void bias_act(const BiasAct &, int threads);
}
namespace bf16 { extern const BiasActLoops bias_act_loops; }

namespace {

// Starting the threads costs more than 32k elements on one thread (the grain size of at::parallel_for).
constexpr int64_t kGrain = 32768;
// Elements of a repeated bias: long enough for vector loops, short enough to stay in L1 with the data.
constexpr int64_t kTile = 2048;
constexpr int64_t kLine = 64;  // bytes of a cache line; work is divided at lines, so that a line has one thread

const BiasActLoops &loops([[maybe_unused]] DType dtype) {
#if defined(CAGC_X86_LEVELS) && defined(__AVX512F__)
  if (dtype == DType::bfloat16 && __builtin_cpu_supports("avx512bf16")) return bf16::bias_act_loops;
#endif
  return CAGC_LEVEL::bias_act_loops;
}

// A pass over elements of one dtype, on one thread. The channel is constant over a run of elements or, with `across`,
// changes with every element; b is then repeated as a whole, so that a vector loop covers many channels_last pixels.
template <class T> class Walk {
  using A = acc_t<T>;
  const BiasAct &p;
  const BiasActLoop loop;
  const bool across, stream;
  int64_t run;
  std::vector<A> b, sums;

 public:
  Walk(const BiasAct &params, int64_t n)
      : p(params), loop(loops(p.dtype).find(p.dtype, p.act, p.mode)), across(p.channels > 1 && p.step == 1),
        stream(streams(p.numel * sizeof(T))) {
    constexpr int64_t line = kLine / sizeof(T);
    int64_t whole = line / std::gcd(line, p.channels);  // fewest repetitions of b that fill cache lines
    if (whole * p.channels > 8 * kTile) whole = 1;
    const int64_t tiles = std::max<int64_t>(1, std::min(n, kTile) / p.channels / whole) * whole;
    run = across ? tiles * p.channels : p.channels > 1 ? p.step : p.numel;
    b.resize((across ? run : 0) + kMostLanes);
    sums.resize(p.sums ? b.size() : 0);
    if (!across || !p.b) return;
    for (int64_t i = 0; i < p.channels; i++) b[i] = static_cast<A>(static_cast<const T *>(p.b)[i]);
    for (int64_t i = p.channels; i < run; i += p.channels) std::copy_n(b.begin(), p.channels, b.begin() + i);
  }

  // Computes elements [begin, end), one vector loop per run.
  void go(int64_t begin, int64_t end) {
    const auto at = [](const void *base, int64_t i) { return base ? static_cast<const T *>(base) + i : nullptr; };
    // The gradient of `linear` without clamp needs neither x nor y; passing g avoids a null test in the loop.
    const void *u = p.y ? p.y : p.x ? p.x : p.g;
    for (int64_t i = begin; i < end;) {
      const int64_t offset = i % run, n = std::min(run - offset, end - i);
      if (!across && p.b) std::fill_n(b.begin(), kMostLanes, static_cast<A>(*at(p.b, i / run % p.channels)));
      const int64_t first = across ? offset : 0;
      loop(p, {at(u, i), at(p.g, i), at(p.h, i), b.data() + first, static_cast<T *>(p.out) + i,
               p.sums ? sums.data() + first : nullptr, n, across, stream});
      i += n;
    }
    if (stream) end_stream();
  }

  // Computes elements [begin, end) and the sums of the results: one sum per channel with `across`, where begin is a
  // multiple of the channels, and one sum otherwise.
  void go(int64_t begin, int64_t end, A *total) {
    std::fill(sums.begin(), sums.end(), A(0));
    go(begin, end);
    const int64_t channels = across ? p.channels : 1, n = across ? run : kMostLanes;
    std::fill_n(total, channels, A(0));
    for (int64_t i = 0; i < n; i += channels)
      for (int64_t c = 0; c < channels; c++) total[c] += sums[i + c];
  }
};

int64_t team_of(const BiasAct &p, int threads) {
  return std::max<int64_t>(1, std::min<int64_t>(threads, p.numel / kGrain));
}

template <class T> void pass(const BiasAct &p, int threads) {
  const int64_t team = team_of(p, threads);
  if (team == 1) return Walk<T>(p, p.numel).go(0, p.numel);
#pragma omp parallel num_threads(team)
  {
    const int64_t t = omp_get_thread_num(), n = omp_get_num_threads();
    const auto cut = [&](int64_t i) { return i == n ? p.numel : p.numel * i / n / kLine * kLine; };
    Walk<T>(p, p.numel / n).go(cut(t), cut(t + 1));
  }
}

// Each piece is summed by one thread, so the sums do not depend on the number of threads.
template <class T> void pass_with_sums(const BiasAct &p, int threads) {
  const bool across = p.channels > 1 && p.step == 1;
  const int64_t run = across ? p.numel : p.channels > 1 ? p.step : p.numel, pieces = (run + p.chunk - 1) / p.chunk;
  const int64_t all = p.numel / run * pieces, values = across ? p.channels : 1;
  acc_t<T> *sums = static_cast<acc_t<T> *>(p.sums);
#pragma omp parallel num_threads(team_of(p, threads))
  {
    Walk<T> walk(p, p.chunk);
#pragma omp for schedule(static)
    for (int64_t i = 0; i < all; i++) {
      const int64_t first = i / pieces * run, begin = first + i % pieces * p.chunk;
      walk.go(begin, std::min(first + run, begin + p.chunk), sums + i * values);
    }
  }
}

}  // namespace

void CAGC_LEVEL::bias_act(const BiasAct &p, int threads) {
  if (p.numel == 0) return;
  with_dtype(p.dtype, [&](auto type) {
    using T = typename decltype(type)::type;
    if (p.sums) pass_with_sums<T>(p, threads);
    else if (p.mode != Pass::second_gradient || !piecewise_linear(p.act)) pass<T>(p, threads);
    else std::fill_n(static_cast<T *>(p.out), p.numel, T(0.f));
  });
}

}  // namespace cagc
