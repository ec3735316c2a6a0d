// The epilogue of a modulated convolution behind a 4 x 4 filter on the CPU: one pass over memory.
#include "epilogue_operands.h"
#include <cmath>

namespace cagc {

namespace CAGC_LEVEL { void filtered_epilogue(const Epilogue &, int threads); }

namespace {

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

// Numbers of two bytes are read by explicit vectors: the compiler takes them one by one. For floats it chooses vectors
// of 32 bytes, which take 20 % less time than those of 64: fewer of them cross a cache line.
template <class T> constexpr bool kVectors = sizeof(T) == 2;

// The weighted sum of four rows of x at one place.
template <class V, class T, class A> CAGC_HD V combined(const T *x, int64_t step, const A *w) {
  return V(w[0]) * read<V>(x) + V(w[1]) * read<V>(x + step) + V(w[2]) * read<V>(x + 2 * step) +
         V(w[3]) * read<V>(x + 3 * step);
}

// row = the weighted sum of four rows of x; rows outside the image, of which [j0, j1) lie inside, are skipped.
template <class T, class A>
CAGC_NOINLINE void combine(const T *x, int64_t step, const A *w, int64_t j0, int64_t j1, A *row, int64_t n) {
  using V = Elements<A>;
  const A w4[4] = {w[0], w[1], w[2], w[3]};
  int64_t i = 0;
  if (j0 == 0 && j1 == 4) {
    for (; kVectors<T> && i + V::lanes <= n; i += V::lanes) write<V>(row + i, combined<V>(x + i, step, w4));
#pragma GCC ivdep
    for (int64_t k = i; k < n; k++) row[k] = combined<A>(x + k, step, w4);
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

// The sum of four adjacent pixels of a combined row, `step` apart, from t on.
template <class V, class A> CAGC_HD V taps(const A *t, const V (&w)[4], int64_t step) {
  return w[0] * read<V>(t) + w[1] * read<V>(t + step) + w[2] * read<V>(t + 2 * step) + w[3] * read<V>(t + 3 * step);
}

// Computes one output row of one (column, row) product; `inner` is the distance of pixels in the combined row.
template <class A> CAGC_NOINLINE void filter_row(const A *t, const A *row, A *sum, int64_t n, int64_t inner) {
  const A w[4] = {row[0], row[1], row[2], row[3]};
#pragma GCC ivdep
  for (int64_t i = 0; i < n; i++) sum[i] += taps(t + i, w, inner);
}

template <class T, Act ACT, bool ACROSS, class A>
CAGC_HD void filtered_loop(const A *t, const A *w, int64_t inner, const A *noise, const Factors<A> &k, T *out,
                           int64_t n, const Epilogue &p) {
  const A w0 = w[0], w1 = w[1], w2 = w[2], w3 = w[3];
  run<T, ACT, ACROSS, kVectors<T>>(
      [=](auto number, int64_t i) CAGC_LAMBDA {
        using V = decltype(number);
        const V each[4] = {V(w0), V(w1), V(w2), V(w3)};
        return taps(t + i, each, inner);
      },
      noise, k, out, n, p);
}

template <class T, Act ACT, class A>
CAGC_NOINLINE void filtered_row(const A *t, const A *row, const A *noise, Factors<A> k, T *out, int64_t width,
                                int64_t inner, const Epilogue &p) {
  if (inner == 1) return filtered_loop<T, ACT, false>(t, row, 1, noise, k, out, width, p);
  for (int64_t i = 0; i < width; i++)
    filtered_loop<T, ACT, true>(t + i * inner, row, inner, noise ? noise + i : nullptr, k, out + i * inner, inner, p);
}

// Computes output rows of all planes; for channels_last, a sample with all its channels is one plane.
template <class T, Act ACT> void filtered(const Epilogue &p, int threads) {
  using A = acc_t<T>;
  const Operands<T> operands(p);
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
                           noise ? noise + o * p.out_w : nullptr, operands.factors(n, c), out, p.out_w, inner, p);
    }
  });
}

}  // namespace

void CAGC_LEVEL::filtered_epilogue(const Epilogue &p, int threads) {
  with_dtype(p.dtype, [&](auto type) {
    using T = typename decltype(type)::type;
    with_fused_act(p.act, [&](auto tag) { filtered<T, decltype(tag)::value>(p, threads); });
  });
}

}  // namespace cagc
