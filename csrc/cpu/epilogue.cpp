// The epilogue of a modulated convolution on the CPU and its gradient: one pass over memory, split among threads.
#include "epilogue_operands.h"

namespace cagc {

namespace CAGC_LEVEL {
void epilogue(const Epilogue &, int threads);
void filtered_epilogue(const Epilogue &, int threads);
}

namespace {

template <class T, Act ACT, bool ACROSS, class A>
CAGC_HD void value_loop(const T *x, const A *noise, const Factors<A> &k, T *out, int64_t n, const Epilogue &p) {
  run<T, ACT, ACROSS>([x](auto number, int64_t i) CAGC_LAMBDA { return read<decltype(number)>(x + i); }, noise, k, out,
                      n, p);
}

// Pixels [begin, end) of a sample that is channels_last.
template <class T, Act ACT, class A>
CAGC_NOINLINE void value_pixels(const T *x, const A *noise, Factors<A> k, T *out, int64_t begin, int64_t end,
                                const Epilogue &p) {
  for (int64_t i = begin; i < end; i++)
    value_loop<T, ACT, true>(x + i * p.c, noise ? noise + i : nullptr, k, out + i * p.c, p.c, p);
}

template <class T, Act ACT, class A>
CAGC_NOINLINE void value_plane(const T *x, const A *noise, Factors<A> k, T *out, int64_t n, const Epilogue &p) {
  value_loop<T, ACT, false>(x, noise, k, out, n, p);
}

template <class T, Act ACT> void value(const Epilogue &p, int threads) {
  const Operands<T> operands(p);
  const int64_t pixels = p.out_h * p.out_w, numel = p.n * p.c * pixels;
  const T *x = static_cast<const T *>(p.x);
  T *out = static_cast<T *>(p.out);
  const int64_t run = p.channels_last ? pixels : p.c;  // work items per sample
  split(p.n * run, numel, threads, [&](int64_t begin, int64_t end) {
    while (begin < end) {
      const int64_t n = begin / run, i = begin % run, count = p.channels_last ? std::min(run - i, end - begin) : 1;
      const int64_t at = n * p.c * pixels;
      if (p.channels_last)
        value_pixels<T, ACT>(x + at, operands.noise(n), operands.factors(n, 0), out + at, i, i + count, p);
      else
        value_plane<T, ACT>(x + at + i * pixels, operands.noise(n), operands.factors(n, i), out + at + i * pixels,
                            pixels, p);
      begin += count;
    }
  });
}

// Where the terms of a run are added: of a channel, or of one channel per value (ACROSS); of a pixel, or of one each.
template <class A> struct Sums { A *du_u, *du_1, *g_a, *dnoise; };

// Terms of adjacent values, and their sums along the run.
template <class V> struct Terms {
  V u{0}, one{0}, a{0};
};

template <class V, class A> CAGC_HD void add(A *to, V terms) { write<V>(to, read<V>(to) + terms); }

// Writes the gradient of x for the values at i, and returns the terms of their gv, the gradient of v.
template <class T, Act ACT, class V, class K>
CAGC_HD Terms<V> terms_at(const T *x, const T *g, const K &k, T *out, int64_t i, const EpilogueScalars<V> &scalars) {
  const V d = k.d(i), u = read<V>(x + i), gi = read<V>(g + i), v = u * d + k.bias(i);
  const V a = epilogue_value<ACT>(v, scalars), gv = epilogue_gradient<ACT>(v, a, gi * k.s(i), scalars);
  write<V>(out + i, gv * d);
  return {gv * u, gv, gi * a};
}

// Adds the terms of the values at i as far as `kept` selects them.
template <class T, Act ACT, bool ACROSS, class V, class A, class Kept>
CAGC_HD void gradient_at(const T *x, const T *g, const RunFactors<V, ACROSS, A> &k, T *out, const Sums<A> &to,
                         Terms<V> &total, int64_t i, const EpilogueScalars<V> &scalars, Kept &&kept) {
  const Terms<V> terms = terms_at<T, ACT>(x, g, k, out, i, scalars);
  const V one = kept(terms.one), by_u = kept(terms.u), by_a = kept(terms.a);
  total.one = total.one + one;
  if (ACROSS) {
    add(to.du_u + i, by_u), add(to.du_1 + i, one), add(to.g_a + i, by_a);
  } else {
    total.u = total.u + by_u, total.a = total.a + by_a;
    add(to.dnoise + i, one);
  }
}

template <class A> CAGC_HD A sum(A number) { return number; }
template <class A> CAGC_HD A sum(Elements<A> u) {
  A total(0);
  for (int i = 0; i < Elements<A>::lanes; i++) total += u.v[i];
  return total;
}

template <bool ACROSS, class V, class A> CAGC_HD void finish(const Terms<V> &total, const Sums<A> &to) {
  if (ACROSS) *to.dnoise += sum(total.one);
  else *to.du_u += sum(total.u), *to.du_1 += sum(total.one), *to.g_a += sum(total.a);
}

template <class T, Act ACT, bool ACROSS, class A>
CAGC_HD void gradient_loop(const T *x, const T *g, const A *noise, const Factors<A> &factors, T *out,
                           const Sums<A> &to, int64_t n, const Epilogue &p) {
  using V = Elements<A>;
  constexpr int64_t lanes = V::lanes;
  if (n < lanes) {
    const RunFactors<A, ACROSS, A> k(factors, noise);
    const EpilogueScalars<A> scalars(p);
    Terms<A> total;
    for (int64_t i = 0; i < n; i++)
      gradient_at<T, ACT>(x, g, k, out, to, total, i, scalars, [](A term) { return term; });
    return finish<ACROSS>(total, to);
  }
  const RunFactors<V, ACROSS, A> k(factors, noise);
  const EpilogueScalars<V> scalars(p);
  Terms<V> total;
  int64_t i = 0;
  for (; i + lanes <= n; i += lanes)
    gradient_at<T, ACT>(x, g, k, out, to, total, i, scalars, [](V terms) CAGC_LAMBDA { return terms; });
  if (i < n) {  // the last vector overlaps the one before it
    V position;
    for (int j = 0; j < lanes; j++) position.v[j] = A(j);
    const Selection<A> fresh = position >= V(A(lanes - (n - i)));
    gradient_at<T, ACT>(x, g, k, out, to, total, n - lanes, scalars,
                        [&](V terms) CAGC_LAMBDA { return select(fresh, terms, V(0)); });
  }
  finish<ACROSS>(total, to);
}

// Factors of two adjacent pixels, of as many channels as half of a vector has lanes.
template <class V, class A> struct PairFactors {
  static constexpr int half = V::lanes / 2;
  V d0, b0, s0;
  const A *const noise;
  CAGC_HD PairFactors(const Factors<A> &k, const A *noise) : noise(noise) {
    for (int j = 0; j < V::lanes; j++) d0.v[j] = k.d[j % half], b0.v[j] = k.b[j % half], s0.v[j] = k.s[j % half];
  }

  CAGC_HD V d(int64_t) const { return d0; }
  CAGC_HD V s(int64_t) const { return s0; }
  CAGC_HD V bias(int64_t i) const {
    if (!noise) return b0;
    V of_pixel;
    for (int j = 0; j < V::lanes; j++) of_pixel.v[j] = noise[i / half + j / half];
    return of_pixel + b0;
  }
};

// Pixels whose channels fill half of a vector, two at a time: alone, each of them would be computed by numbers. Returns
// how many were computed.
template <class T, Act ACT, class A>
CAGC_HD int64_t gradient_pairs(const T *x, const T *g, const A *noise, const Factors<A> &factors, T *out,
                               const Sums<A> &to, int64_t pixels, const Epilogue &p) {
  using V = Elements<A>;
  constexpr int half = V::lanes / 2;
  const PairFactors<V, A> k(factors, noise);
  const EpilogueScalars<V> scalars(p);
  Terms<V> total;
  const int64_t even = pixels / 2 * 2;
  for (int64_t i = 0; i < even; i += 2) {
    const Terms<V> terms = terms_at<T, ACT>(x, g, k, out, i * half, scalars);
    total.u = total.u + terms.u, total.one = total.one + terms.one, total.a = total.a + terms.a;
    A first(0), second(0);
    for (int j = 0; j < half; j++) first += terms.one.v[j], second += terms.one.v[half + j];
    to.dnoise[i] += first, to.dnoise[i + 1] += second;
  }
  for (int j = 0; j < V::lanes; j++)
    to.du_u[j % half] += total.u.v[j], to.du_1[j % half] += total.one.v[j], to.g_a[j % half] += total.a.v[j];
  return even;
}

template <class T, Act ACT, class A>
CAGC_NOINLINE void gradient_pixels(const T *x, const T *g, const A *noise, Factors<A> k, T *out, Sums<A> to,
                                   int64_t pixels, const Epilogue &p) {
  const bool pairs = 2 * p.c == Elements<A>::lanes;
  const int64_t done = pairs ? gradient_pairs<T, ACT>(x, g, noise, k, out, to, pixels, p) : 0;
  to.dnoise += done;
  for (int64_t i = done; i < pixels; i++, to.dnoise++)
    gradient_loop<T, ACT, true>(x + i * p.c, g + i * p.c, noise ? noise + i : nullptr, k, out + i * p.c, to, p.c, p);
}

template <class T, Act ACT, class A>
CAGC_NOINLINE void gradient_plane(const T *x, const T *g, const A *noise, Factors<A> k, T *out, Sums<A> to, int64_t n,
                                  const Epilogue &p) {
  gradient_loop<T, ACT, false>(x, g, noise, k, out, to, n, p);
}

template <class T, Act ACT> void gradient(const Epilogue &p, int threads) {
  using A = acc_t<T>;
  const Operands<T> operands(p);
  const int64_t pixels = p.out_h * p.out_w, count = chunks(p), width = p.chunk;
  const T *x = static_cast<const T *>(p.x), *g = static_cast<const T *>(p.g);
  A *sums = static_cast<A *>(p.sums), *dnoise = static_cast<A *>(p.dnoise);
  T *out = static_cast<T *>(p.out);
  std::fill_n(sums, 3 * p.n * count * p.c, A(0));
  std::fill_n(dnoise, p.n * pixels, A(0));
  split(p.n * count, p.n * p.c * pixels, threads, [&](int64_t begin, int64_t end) {
    for (; begin < end; begin++) {
      const int64_t n = begin / count, i = begin % count * width, m = std::min(width, pixels - i);
      const int64_t at = n * p.c * pixels, part = p.n * count * p.c;
      const A *noise = p.noise ? operands.noise(n) + i : nullptr;
      Sums<A> to{sums + begin * p.c, sums + part + begin * p.c, sums + 2 * part + begin * p.c,
                 dnoise + n * pixels + i};
      if (p.channels_last) {
        const int64_t first = at + i * p.c;
        gradient_pixels<T, ACT>(x + first, g + first, noise, operands.factors(n, 0), out + first, to, m, p);
        continue;
      }
      for (int64_t c = 0; c < p.c; c++, to.du_u++, to.du_1++, to.g_a++) {
        const int64_t first = at + c * pixels + i;
        gradient_plane<T, ACT>(x + first, g + first, noise, operands.factors(n, c), out + first, to, m, p);
      }
    }
  });
}

}  // namespace

void CAGC_LEVEL::epilogue(const Epilogue &p, int threads) {
  if (p.n * p.c * p.out_h * p.out_w == 0) return;
  if (p.f && !p.g) return filtered_epilogue(p, threads);
  with_dtype(p.dtype, [&](auto type) {
    using T = typename decltype(type)::type;
    with_fused_act(p.act, [&](auto tag) {
      constexpr Act act = decltype(tag)::value;
      if (p.g) gradient<T, act>(p, threads);
      else value<T, act>(p, threads);
    });
  });
}

}  // namespace cagc
