// upfirdn2d on the CPU. An output row takes two passes over a strip of columns that stays in the cache: rows of x are
// combined into one row of the accumulate type, padded with zeros, and that row is filtered into the output. A filter
// that is not the product of two vectors is a sum of such products, one per row of taps.
#include "upfirdn2d_avx512.h"
#include <algorithm>
#include <cmath>
#include <numeric>
#include "openmp.h"
#include <vector>

namespace cagc {

namespace CAGC_LEVEL { void upfirdn2d(const Upfirdn2d &, int threads); }

namespace {

// Starting the threads costs more than 32k elements on one thread (the grain size of at::parallel_for).
constexpr int64_t kGrain = 32768;
// Elements of the combined row: 64 kB of float, so that it stays in L2 together with the rows of x that it sums.
constexpr int64_t kStrip = 16384;
constexpr int64_t kBlock = 64;

// Output q * period + r is the sum of weight[begin[r] + j] times pixel q * step + first[r] + j over all
// j < begin[r + 1] - begin[r].
template <class A> struct Phases {
  int64_t period, step;
  std::vector<int64_t> first, begin, index;  // index: which tap a weight is
  std::vector<A> weight;

  Phases(const Axis &a, const std::vector<double> &taps) {
    const int64_t common = std::gcd(a.up, a.down);
    period = a.up / common, step = a.down / common;
    begin.push_back(0);
    for (int64_t r = 0; r < period; r++) {
      const Window w = window(a, r);
      first.push_back(w.first);
      for (int64_t j = 0; j < w.count; j++) index.push_back(w.k0 + j * a.up);
      begin.push_back(static_cast<int64_t>(index.size()));
    }
    for (int64_t k : index) weight.push_back(static_cast<A>(taps[k]));
  }

  int64_t count(int64_t r) const { return begin[r + 1] - begin[r]; }
  bool every(int64_t n) const {
    for (int64_t r = 0; r < period; r++)
      if (count(r) != n) return false;
    return true;
  }
  int64_t low() const { return *std::min_element(first.begin(), first.end()); }
  int64_t high() const {  // one past the last pixel that outputs 0 to period - 1 read
    int64_t h = low();
    for (int64_t r = 0; r < period; r++) h = std::max(h, first[r] + count(r));
    return h;
  }
};

using Taps = std::vector<std::vector<double>>;

template <class A> Taps correlation_taps(const Upfirdn2d &p) {
  if (!p.f) return {{p.gain}};
  Taps g(p.f_h, std::vector<double>(p.f_w));
  for (int64_t i = 0; i < p.f_h; i++)
    for (int64_t j = 0; j < p.f_w; j++) g[i][j] = tap<A>(p, i, j) * p.gain;
  return g;
}

// Finds the column and row whose product is g to within the rounding of A; false if there are none. The pivot is the
// largest tap, so rounding errors do not grow.
template <class A>
bool factor(const Upfirdn2d &p, const Taps &g, std::vector<double> &column, std::vector<double> &row) {
  if (p.f && p.separable) {
    const A *f = static_cast<const A *>(p.f);
    for (int64_t k = 0; k < p.f_w; k++) column.push_back(p.flip ? f[k] : f[p.f_w - 1 - k]);
    for (double t : column) row.push_back(t * p.gain);
    return true;
  }
  size_t i0 = 0, j0 = 0;
  for (size_t i = 0; i < g.size(); i++)
    for (size_t j = 0; j < g[i].size(); j++)
      if (std::abs(g[i][j]) > std::abs(g[i0][j0])) i0 = i, j0 = j;
  const double pivot = g[i0][j0], tolerance = sizeof(A) == 8 ? 1e-16 : 2.5e-7;
  row = g[i0];
  for (const auto &r : g) column.push_back(pivot == 0 ? 0 : r[j0] / pivot);
  for (size_t i = 0; i < g.size(); i++)
    for (size_t j = 0; j < row.size(); j++)
      if (!(std::abs(g[i][j] - column[i] * row[j]) <= tolerance * std::abs(pivot))) return false;
  return true;
}

// Returns the specialised loop for an axis: there is one where every output reads four pixels, or two with up 2.
template <class A> Shape shape_of(const Phases<A> &axis) {
  if (axis.period == 1 && axis.step == 1 && axis.every(4)) return Shape::same4;
  if (axis.period == 2 && axis.step == 1 && axis.every(2)) return Shape::up2;
  if (axis.period == 1 && axis.step == 2 && axis.every(4)) return Shape::down2;
  return Shape::general;
}

template <class T> struct Plan {
  using A = acc_t<T>;
  const Upfirdn2d p;
  Phases<A> y;
  std::vector<Phases<A>> x;  // one, or one per row of taps
  Shape shape = Shape::general;
  int64_t strip_width, strips, low, high;

  Plan(const Upfirdn2d &params, const std::vector<double> &column, const Taps &rows)
      : p(params), y(axis_y(params), column) {
    for (const auto &row : rows) x.emplace_back(axis_x(params), row);
    const Phases<A> &h = x[0];
    if (x.size() == 1) shape = shape_of(h);
    low = h.low(), high = h.high();
    const int64_t pixels = std::max<int64_t>(1, kStrip / p.inner / h.step);
    strip_width = std::max<int64_t>(1, std::min(pixels, (p.out_w + h.period - 1) / h.period)) * h.period;
    strips = (p.out_w + strip_width - 1) / strip_width;
  }

  int64_t row_elements() const { return (strip_width / x[0].period * x[0].step + high - low) * p.inner; }
};

// Runs upfirdn2d_avx512 if it supports the plan; returns whether it did.
template <class T> bool in_registers(const Plan<T> &plan, int threads) {
  const auto &x = plan.x[0], &y = plan.y;
  const bool staggered = plan.shape != Shape::up2 || (x.first[1] == x.first[0] + 1 && y.first[1] == y.first[0] + 1);
  if (plan.shape == Shape::general || shape_of(y) != plan.shape || !staggered) return false;
  Fir4 f{plan.shape, x.first[0], y.first[0], {}, {}};
  std::copy_n(x.weight.begin(), 4, f.x);
  std::copy_n(y.weight.begin(), 4, f.y);
  return CAGC_LEVEL::upfirdn2d_avx512(plan.p, f, threads);
}

// One strip of columns of one plane.
template <class T> struct Segment {
  const T *x;
  T *out;
  int64_t column, width;  // of the strip, in output pixels
  int64_t begin, end;
  acc_t<T> *row;    // row_elements()
  acc_t<T> *total;  // strip_width * inner, for sums over rows of taps
};

template <int N, bool ADD, class T, class A>
CAGC_HD void combine_n(const T *x, int64_t stride, const A *w, A *__restrict out, int64_t n) {
  const T *x0 = x, *x1 = x + (N > 1 ? stride : 0), *x2 = x + (N > 2 ? 2 * stride : 0);
  const T *x3 = x + (N > 3 ? 3 * stride : 0);
  const A w0 = w[0], w1 = N > 1 ? w[1] : A(0), w2 = N > 2 ? w[2] : A(0), w3 = N > 3 ? w[3] : A(0);
#pragma GCC ivdep
  for (int64_t i = 0; i < n; i++) {
    A sum = w0 * static_cast<A>(x0[i]);
    if (N > 1) sum += w1 * static_cast<A>(x1[i]);
    if (N > 2) sum += w2 * static_cast<A>(x2[i]);
    if (N > 3) sum += w3 * static_cast<A>(x3[i]);
    out[i] = ADD ? out[i] + sum : sum;
  }
}

// out = the weighted sum of `count` rows of x that are `stride` apart.
template <class T, class A>
CAGC_HD void combine(const T *x, int64_t stride, const A *w, int64_t count, A *out, int64_t n) {
  if (count == 4) return combine_n<4, false>(x, stride, w, out, n);
  if (count == 2) return combine_n<2, false>(x, stride, w, out, n);
  combine_n<1, false>(x, stride, w, out, n);
  for (int64_t j = 1; j < count; j++) combine_n<1, true>(x + j * stride, stride, w + j, out, n);
}

template <class T, class A>
CAGC_HD void filter_4(const A *t, const A *w, T *__restrict out, int64_t n, int64_t inner) {
  const A w0 = w[0], w1 = w[1], w2 = w[2], w3 = w[3];
#pragma GCC ivdep
  for (int64_t i = 0; i < n; i++)
    out[i] = static_cast<T>(w0 * t[i] + w1 * t[i + inner] + w2 * t[i + 2 * inner] + w3 * t[i + 3 * inner]);
}

template <class T, class A>
CAGC_HD void filter_2(const A *t, const A *w, T *__restrict out, int64_t n, int64_t inner) {
  const A w0 = w[0], w1 = w[1];
#pragma GCC ivdep
  for (int64_t i = 0; i < n; i++) out[i] = static_cast<T>(w0 * t[i] + w1 * t[i + inner]);
}

// Two interleaved phases of two taps each.
template <class T, class A>
CAGC_HD void filter_up2(const A *even, const A *odd, const A *w, T *__restrict out, int64_t n) {
  const A w0 = w[0], w1 = w[1], w2 = w[2], w3 = w[3];
#pragma GCC ivdep
  for (int64_t i = 0; i < n / 2; i++) {
    out[2 * i] = static_cast<T>(w0 * even[i] + w1 * even[i + 1]);
    out[2 * i + 1] = static_cast<T>(w2 * odd[i] + w3 * odd[i + 1]);
  }
  if (n % 2) out[n - 1] = static_cast<T>(w0 * even[n / 2] + w1 * even[n / 2 + 1]);
}

template <class T, class A> CAGC_HD void filter_down2(const A *t, const A *w, T *__restrict out, int64_t n) {
  const A w0 = w[0], w1 = w[1], w2 = w[2], w3 = w[3];
#pragma GCC ivdep
  for (int64_t i = 0; i < n; i++)
    out[i] = static_cast<T>(w0 * t[2 * i] + w1 * t[2 * i + 1] + w2 * t[2 * i + 2] + w3 * t[2 * i + 3]);
}

// Computes n outputs that are `period` apart; the inputs of adjacent outputs are `step` apart, those of adjacent taps
// `inner` apart.
template <int STEP, bool ADD, class T, class A>
CAGC_HD void filter_any(const A *t, const A *w, int64_t taps, T *out, int64_t n, int64_t step, int64_t period,
                        int64_t inner) {
  if (STEP) step = STEP;
  for (int64_t i0 = 0; i0 < n; i0 += kBlock) {
    A sum[kBlock] = {};
    const int64_t m = std::min(kBlock, n - i0);
    for (int64_t j = 0; j < taps; j++) {
      const A *s = t + i0 * step + j * inner, wj = w[j];
#pragma GCC ivdep
      for (int64_t i = 0; i < m; i++) sum[i] += wj * s[i * step];
    }
    for (int64_t i = 0; i < m; i++) {
      T &o = out[(i0 + i) * period];
      o = static_cast<T>(ADD ? static_cast<A>(o) + sum[i] : sum[i]);
    }
  }
}

// Filters the combined row `t`, which begins with pixel `low` of the strip, into `width` output pixels.
template <bool ADD, class T, class A>
CAGC_HD void filter_row(const Phases<A> &h, Shape shape, int64_t low, int64_t inner, const A *t, T *out,
                        int64_t width) {
  const A *w = h.weight.data();
  const int64_t *first = h.first.data(), *begin = h.begin.data();
  if (!ADD && shape == Shape::same4) return filter_4(t, w, out, width * inner, inner);
  if (!ADD && inner == 1 && shape == Shape::up2)
    return filter_up2(t + first[0] - low, t + first[1] - low, w, out, width);
  if (!ADD && inner == 1 && shape == Shape::down2) return filter_down2(t, w, out, width);
  if (inner == 1) {
    for (int64_t r = 0; r < h.period; r++) {
      const int64_t n = (width - r + h.period - 1) / h.period, taps = begin[r + 1] - begin[r];
      const A *s = t + first[r] - low, *v = w + begin[r];
      if (h.step == 1) filter_any<1, ADD>(s, v, taps, out + r, n, 1, h.period, 1);
      else filter_any<0, ADD>(s, v, taps, out + r, n, h.step, h.period, 1);
    }
    return;
  }
  for (int64_t o = 0, q = 0, r = 0; o < width; o++) {
    const A *s = t + (q * h.step + first[r] - low) * inner, *v = w + begin[r];
    T *d = out + o * inner;
    if (!ADD && shape == Shape::up2) filter_2(s, v, d, inner, inner);
    else if (!ADD && shape == Shape::down2) filter_4(s, v, d, inner, inner);
    else filter_any<1, ADD>(s, v, begin[r + 1] - begin[r], d, inner, 1, 1, inner);
    if (++r == h.period) r = 0, q++;
  }
}

template <class T> CAGC_NOINLINE void upfirdn2d_rows(const Plan<T> &plan, const Segment<T> s) {
  using A = acc_t<T>;
  const Upfirdn2d &p = plan.p;
  const Phases<A> &y = plan.y;
  // The strip reads pixels [low, high) of x, of which [x0, x1) exist.
  const int64_t low = s.column / plan.x[0].period * plan.x[0].step + plan.low;
  const int64_t high = low + plan.row_elements() / p.inner;
  const int64_t x0 = std::min(std::max<int64_t>(low, 0), p.in_w), x1 = std::max(x0, std::min(high, p.in_w));
  std::fill_n(s.row, plan.row_elements(), A(0));
  A *inside = s.row + (x0 - low) * p.inner;
  const int64_t n = (x1 - x0) * p.inner, outputs = s.width * p.inner;
  for (int64_t o = s.begin; o < s.end; o++) {
    const int64_t q = o / y.period, r = o % y.period, first = q * y.step + y.first[r];
    const int64_t j0 = std::max<int64_t>(0, -first), j1 = std::min(y.begin[r + 1] - y.begin[r], p.in_h - first);
    T *out = s.out + (o * p.out_w + s.column) * p.inner;
    const T *x = s.x + (first + j0) * p.stride_h + x0 * p.inner;
    if (j1 <= j0 || n <= 0) {
      std::fill_n(out, outputs, T(0.f));
    } else if (plan.x.size() == 1) {
      combine(x, p.stride_h, y.weight.data() + y.begin[r] + j0, j1 - j0, inside, n);
      filter_row<false>(plan.x[0], plan.shape, plan.low, p.inner, s.row, out, s.width);
    } else {
      const A one = A(1);
      std::fill_n(s.total, outputs, A(0));
      for (int64_t j = j0; j < j1; j++) {
        combine_n<1, false>(x + (j - j0) * p.stride_h, 0, &one, inside, n);
        filter_row<true>(plan.x[y.index[y.begin[r] + j]], Shape::general, plan.low, p.inner, s.row, s.total, s.width);
      }
      for (int64_t i = 0; i < outputs; i++) out[i] = static_cast<T>(s.total[i]);
    }
  }
}

// Computes rows [begin, end), counted over all strips of all planes, one strip after the other.
template <class T> void upfirdn2d_range(const Plan<T> &plan, int64_t begin, int64_t end) {
  const Upfirdn2d &p = plan.p;
  std::vector<acc_t<T>> row(plan.row_elements()), total(plan.x.size() > 1 ? plan.strip_width * p.inner : 0);
  while (begin < end) {
    const int64_t strip = begin / p.out_h % plan.strips, plane = begin / p.out_h / plan.strips;
    Segment<T> s;
    s.begin = begin % p.out_h;
    s.end = std::min(p.out_h, s.begin + end - begin);
    s.column = strip * plan.strip_width;
    s.width = std::min(plan.strip_width, p.out_w - s.column);
    s.x = static_cast<const T *>(p.x) + plane / p.c * p.stride_n + plane % p.c * p.stride_c;
    s.out = static_cast<T *>(p.out) + plane * p.out_h * p.out_w * p.inner;
    s.row = row.data(), s.total = total.data();
    upfirdn2d_rows(plan, s);
    begin += s.end - s.begin;
  }
}

template <class T> void upfirdn2d_threads(const Upfirdn2d &p, int threads) {
  const Taps g = correlation_taps<acc_t<T>>(p);
  std::vector<double> column, row;
  const bool product = factor<acc_t<T>>(p, g, column, row);
  const Plan<T> plan(p, column, product ? Taps{row} : g);
  if (in_registers(plan, threads)) return;
  const int64_t rows = p.n * p.c * plan.strips * p.out_h;
  const int64_t numel = p.n * p.c * p.inner * std::max(p.in_h * p.in_w, p.out_h * p.out_w);
  const int64_t team = std::max<int64_t>(1, std::min<int64_t>(threads, numel / kGrain));
  if (team == 1) return upfirdn2d_range(plan, 0, rows);
#pragma omp parallel num_threads(team)
  {
    const int64_t t = omp_get_thread_num(), n = omp_get_num_threads();
    upfirdn2d_range(plan, rows * t / n, rows * (t + 1) / n);
  }
}

}  // namespace

void CAGC_LEVEL::upfirdn2d(const Upfirdn2d &p, int threads) {
  const int64_t outputs = p.n * p.c * p.inner * p.out_h * p.out_w;
  if (outputs == 0) return;
  with_dtype(p.dtype, [&](auto type) {
    using T = typename decltype(type)::type;
    if (p.in_h * p.in_w > 0) upfirdn2d_threads<T>(p, threads);
    else std::fill_n(static_cast<T *>(p.out), outputs, T(0.f));  // all pixels are padding; x may be null
  });
}

}  // namespace cagc
