// The epilogue of a modulated convolution on the CPU: one pass over memory, split among OpenMP threads.
#include "cagc/epilogue.h"
#include "isa/simd.h"
#include <algorithm>
#include <cmath>
#include "openmp.h"
#include <vector>

namespace cagc {

namespace CAGC_LEVEL { void epilogue(const Epilogue &, int threads); }

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

// ACROSS: the n values are the channels of one pixel; otherwise they are pixels of one channel.
template <class T, Act ACT, bool ACROSS, class A>
CAGC_HD void value_loop(const T *x, const A *noise, const Factors<A> &k, T *out, int64_t n,
                        const EpilogueScalars<A> &scalars) {
  const A d0 = *k.d, b0 = *k.b, s0 = *k.s, noise0 = noise ? *noise : A(0);
#pragma GCC ivdep
  for (int64_t i = 0; i < n; i++) {
    const A bias = (ACROSS ? noise0 : noise ? noise[i] : A(0)) + (ACROSS ? k.b[i] : b0);
    const A v = static_cast<A>(x[i]) * (ACROSS ? k.d[i] : d0) + bias;
    out[i] = static_cast<T>(epilogue_value<ACT>(v, scalars) * (ACROSS ? k.s[i] : s0));
  }
}

// Pixels [begin, end) of a sample that is channels_last.
template <class T, Act ACT, class A>
CAGC_NOINLINE void value_pixels(const T *x, const A *noise, Factors<A> k, T *out, int64_t begin, int64_t end, int64_t c,
                              EpilogueScalars<A> scalars) {
  for (int64_t i = begin; i < end; i++)
    value_loop<T, ACT, true>(x + i * c, noise ? noise + i : nullptr, k, out + i * c, c, scalars);
}

template <class T, Act ACT, class A>
CAGC_NOINLINE void value_plane(const T *x, const A *noise, Factors<A> k, T *out, int64_t n,
                               EpilogueScalars<A> scalars) {
  value_loop<T, ACT, false>(x, noise, k, out, n, scalars);
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

template <class T, Act ACT> void value(const Epilogue &p, int threads) {
  using A = acc_t<T>;
  const Operands<T> operands(p);
  const EpilogueScalars<A> scalars(p);
  const int64_t pixels = p.out_h * p.out_w, numel = p.n * p.c * pixels;
  const T *x = static_cast<const T *>(p.x);
  T *out = static_cast<T *>(p.out);
  const int64_t run = p.channels_last ? pixels : p.c;  // work items per sample
  split(p.n * run, numel, threads, [&](int64_t begin, int64_t end) {
    while (begin < end) {
      const int64_t n = begin / run, i = begin % run, count = p.channels_last ? std::min(run - i, end - begin) : 1;
      const int64_t at = n * p.c * pixels;
      if (p.channels_last)
        value_pixels<T, ACT>(x + at, operands.noise(n), operands.factors(n, 0), out + at, i, i + count, p.c, scalars);
      else
        value_plane<T, ACT>(x + at + i * pixels, operands.noise(n), operands.factors(n, i), out + at + i * pixels,
                            pixels, scalars);
      begin += count;
    }
  });
}

// A 4 x 4 filter as a sum of (column, row) products: one if it is separable to within the rounding of A, else one per
// row of taps.
template <class A> struct Filter {
  struct Pair { A column[4], row[4]; };
  std::vector<Pair> pairs;

  explicit Filter(const A *f) {
    int pivot = 0;
    for (int i = 0; i < 16; i++)
      if (std::abs(f[i]) > std::abs(f[pivot])) pivot = i;
    const A *row = f + pivot / 4 * 4;
    Pair product{};
    bool separable = f[pivot] != A(0);
    for (int i = 0; i < 4 && separable; i++) product.column[i] = f[i * 4 + pivot % 4] / f[pivot];
    for (int j = 0; j < 4; j++) product.row[j] = row[j];
    const double tolerance = (sizeof(A) == 8 ? 1e-16 : 2.5e-7) * std::abs(double(f[pivot]));
    for (int i = 0; i < 16 && separable; i++)
      separable = std::abs(double(f[i]) - double(product.column[i / 4]) * product.row[i % 4]) <= tolerance;
    if (separable) pairs.push_back(product);
    for (int i = 0; i < 4 && !separable; i++) {
      Pair p{};
      p.column[i] = A(1);
      std::copy_n(f + i * 4, 4, p.row);
      pairs.push_back(p);
    }
  }
};

// row = the weighted sum of four rows of x; rows outside the image are skipped.
template <class T, class A>
CAGC_NOINLINE void combine(const T *x, int64_t step, const A *w, int64_t j0, int64_t j1, A *row, int64_t n) {
  if (j0 == 0 && j1 == 4) {
    const A w0 = w[0], w1 = w[1], w2 = w[2], w3 = w[3];
    const T *x0 = x, *x1 = x + step, *x2 = x + 2 * step, *x3 = x + 3 * step;
#pragma GCC ivdep
    for (int64_t i = 0; i < n; i++)
      row[i] = w0 * static_cast<A>(x0[i]) + w1 * static_cast<A>(x1[i]) + w2 * static_cast<A>(x2[i]) +
               w3 * static_cast<A>(x3[i]);
    return;
  }
  std::fill_n(row, n, A(0));
  for (int64_t j = j0; j < j1; j++) {
    const T *xj = x + j * step;
    const A wj = w[j];
#pragma GCC ivdep
    for (int64_t i = 0; i < n; i++) row[i] += wj * static_cast<A>(xj[i]);
  }
}

template <class A> CAGC_HD A taps(const A *t, const A *w, int64_t step) {
  return w[0] * t[0] + w[1] * t[step] + w[2] * t[2 * step] + w[3] * t[3 * step];
}

// Computes one output row of one (column, row) product; `inner` is the distance of pixels in the combined row.
template <class A> CAGC_NOINLINE void filter_row(const A *t, const A *row, A *sum, int64_t n, int64_t inner) {
  const A w[4] = {row[0], row[1], row[2], row[3]};
#pragma GCC ivdep
  for (int64_t i = 0; i < n; i++) sum[i] += taps(t + i, w, inner);
}

template <class T, Act ACT, bool ACROSS, class A>
CAGC_HD void filtered_loop(const A *t, const A *w, int64_t inner, A noise0, const A *noise, const Factors<A> &k,
                           T *out, int64_t n, const EpilogueScalars<A> &scalars) {
  const A d0 = *k.d, b0 = *k.b, s0 = *k.s, w0 = w[0], w1 = w[1], w2 = w[2], w3 = w[3];
#pragma GCC ivdep
  for (int64_t i = 0; i < n; i++) {
    const A u = w0 * t[i] + w1 * t[i + inner] + w2 * t[i + 2 * inner] + w3 * t[i + 3 * inner];
    const A bias = (ACROSS ? noise0 : noise ? noise[i] : A(0)) + (ACROSS ? k.b[i] : b0);
    out[i] = static_cast<T>(epilogue_value<ACT>(u * (ACROSS ? k.d[i] : d0) + bias, scalars) * (ACROSS ? k.s[i] : s0));
  }
}

template <class T, Act ACT, class A>
CAGC_NOINLINE void filtered_row(const A *t, const A *row, const A *noise, Factors<A> k, T *out, int64_t width,
                              int64_t inner, EpilogueScalars<A> scalars) {
  if (inner == 1) return filtered_loop<T, ACT, false>(t, row, 1, A(0), noise, k, out, width, scalars);
  for (int64_t i = 0; i < width; i++)
    filtered_loop<T, ACT, true>(t + i * inner, row, inner, noise ? noise[i] : A(0), noise, k, out + i * inner, inner,
                                scalars);
}

// Computes output rows of all planes; for channels_last, a sample with all its channels is one plane.
template <class T, Act ACT> void filtered(const Epilogue &p, int threads) {
  using A = acc_t<T>;
  const Operands<T> operands(p);
  const EpilogueScalars<A> scalars(p);
  const Filter<A> filter(static_cast<const A *>(p.f));
  const int64_t planes = p.channels_last ? 1 : p.c, inner = p.channels_last ? p.c : 1;
  // A row reads pixels [-pad_x, out_w + 3 - pad_x) of x, of which [x0, x1) exist.
  const int64_t x0 = std::max<int64_t>(0, -p.pad_x), x1 = std::max(x0, std::min(p.in_w, p.out_w + 3 - p.pad_x));
  const A identity[4] = {A(1), A(0), A(0), A(0)};
  const bool product = filter.pairs.size() == 1;
  split(p.n * planes * p.out_h, p.n * p.c * p.out_h * p.out_w, threads, [&](int64_t begin, int64_t end) {
    std::vector<A> row((p.out_w + 3) * inner), sum((p.out_w + 3) * inner);
    for (; begin < end; begin++) {
      const int64_t o = begin % p.out_h, plane = begin / p.out_h, n = plane / planes, c = plane % planes;
      const int64_t y = o - p.pad_y, j0 = std::max<int64_t>(0, -y), j1 = std::max(j0, std::min<int64_t>(4, p.in_h - y));
      const T *x = static_cast<const T *>(p.x) + ((plane * p.in_h + y) * p.in_w + x0) * inner;
      const A *noise = operands.noise(n);
      T *out = static_cast<T *>(p.out) + (plane * p.out_h + o) * p.out_w * inner;
      if (!product) std::fill(sum.begin(), sum.end(), A(0));
      for (const auto &pair : filter.pairs) {
        combine(x, p.in_w * inner, pair.column, j0, j1, row.data() + (x0 + p.pad_x) * inner, (x1 - x0) * inner);
        if (!product) filter_row(row.data(), pair.row, sum.data(), p.out_w * inner, inner);
      }
      filtered_row<T, ACT>(product ? row.data() : sum.data(), product ? filter.pairs[0].row : identity,
                           noise ? noise + o * p.out_w : nullptr, operands.factors(n, c), out, p.out_w, inner, scalars);
    }
  });
}

// Computes gv, the gradient of v, for n values and adds their terms to the sums.
template <class T, Act ACT, bool ACROSS, class A>
CAGC_HD void gradient_loop(const T *x, const T *g, const A *noise, const Factors<A> &k, T *out, A *du_u, A *du_1,
                           A *g_a, A *dnoise, int64_t n, const EpilogueScalars<A> &scalars) {
  const A d0 = *k.d, b0 = *k.b, s0 = *k.s, noise0 = noise ? *noise : A(0);
  A sum_u = A(0), sum = A(0), sum_a = A(0);
#pragma omp simd reduction(+ : sum_u, sum, sum_a)
  for (int64_t i = 0; i < n; i++) {
    const A d = ACROSS ? k.d[i] : d0, u = static_cast<A>(x[i]), gi = static_cast<A>(g[i]);
    const A v = u * d + ((ACROSS ? noise0 : noise ? noise[i] : A(0)) + (ACROSS ? k.b[i] : b0));
    const A a = epilogue_value<ACT>(v, scalars);
    const A gv = epilogue_gradient<ACT>(v, a, gi * (ACROSS ? k.s[i] : s0), scalars);
    out[i] = static_cast<T>(gv * d);
    if (ACROSS) {
      du_u[i] += gv * u, du_1[i] += gv, g_a[i] += gi * a, sum += gv;
    } else {
      sum_u += gv * u, sum += gv, sum_a += gi * a;
      dnoise[i] += gv;
    }
  }
  if (ACROSS) *dnoise += sum;
  else *du_u += sum_u, *du_1 += sum, *g_a += sum_a;
}

template <class T, Act ACT, class A>
CAGC_NOINLINE void gradient_pixels(const T *x, const T *g, const A *noise, Factors<A> k, T *out, A *du_u, A *du_1,
                                 A *g_a, A *dnoise, int64_t pixels, int64_t c, EpilogueScalars<A> scalars) {
  for (int64_t i = 0; i < pixels; i++)
    gradient_loop<T, ACT, true>(x + i * c, g + i * c, noise ? noise + i : nullptr, k, out + i * c, du_u, du_1, g_a,
                                dnoise + i, c, scalars);
}

template <class T, Act ACT, class A>
CAGC_NOINLINE void gradient_plane(const T *x, const T *g, const A *noise, Factors<A> k, T *out, A *du_u, A *du_1,
                                  A *g_a, A *dnoise, int64_t n, EpilogueScalars<A> scalars) {
  gradient_loop<T, ACT, false>(x, g, noise, k, out, du_u, du_1, g_a, dnoise, n, scalars);
}

template <class T, Act ACT> void gradient(const Epilogue &p, int threads) {
  using A = acc_t<T>;
  const Operands<T> operands(p);
  const EpilogueScalars<A> scalars(p);
  const int64_t pixels = p.out_h * p.out_w, count = chunks(p), width = p.chunk;
  const T *x = static_cast<const T *>(p.x), *g = static_cast<const T *>(p.g);
  A *sums = static_cast<A *>(p.sums), *dnoise = static_cast<A *>(p.dnoise);
  T *out = static_cast<T *>(p.out);
  std::fill_n(sums, 3 * p.n * count * p.c, A(0));
  std::fill_n(dnoise, p.n * pixels, A(0));
  split(p.n * count, p.n * p.c * pixels, threads, [&](int64_t begin, int64_t end) {
    for (; begin < end; begin++) {
      const int64_t n = begin / count, i = begin % count * width, m = std::min(width, pixels - i);
      const int64_t at = n * p.c * pixels;
      A *du_u = sums + begin * p.c, *du_1 = du_u + p.n * count * p.c, *g_a = du_1 + p.n * count * p.c;
      const A *noise = p.noise ? operands.noise(n) + i : nullptr;
      A *dn = dnoise + n * pixels + i;
      if (p.channels_last)
        gradient_pixels<T, ACT>(x + at + i * p.c, g + at + i * p.c, noise, operands.factors(n, 0), out + at + i * p.c,
                                du_u, du_1, g_a, dn, m, p.c, scalars);
      else
        for (int64_t c = 0; c < p.c; c++)
          gradient_plane<T, ACT>(x + at + c * pixels + i, g + at + c * pixels + i, noise, operands.factors(n, c),
                                 out + at + c * pixels + i, du_u + c, du_1 + c, g_a + c, dn, m, scalars);
    }
  });
}

}  // namespace

void CAGC_LEVEL::epilogue(const Epilogue &p, int threads) {
  if (p.n * p.c * p.out_h * p.out_w == 0) return;
  with_dtype(p.dtype, [&](auto type) {
    using T = typename decltype(type)::type;
    with_fused_act(p.act, [&](auto tag) {
      constexpr Act act = decltype(tag)::value;
      if (p.g) gradient<T, act>(p, threads);
      else if (p.f) filtered<T, act>(p, threads);
      else value<T, act>(p, threads);
    });
  });
}

}  // namespace cagc
