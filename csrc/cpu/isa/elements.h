// A SIMD register of adjacent floats or doubles that the scalar formulas of csrc/include accept as a number:
// comparisons select per lane, and exp, tanh and related functions are provided.
#pragma once
#include "cagc/common.h"
#include "simd.h"
#include <cmath>
#if defined(__AVX__)
#include <immintrin.h>
#endif

namespace cagc {
namespace {

template <class A> struct Bits;
template <> struct Bits<float> { using type = int32_t; };
template <> struct Bits<double> { using type = int64_t; };

template <class A> struct Elements {
  static constexpr int lanes = kBytes / sizeof(A);
  typedef A Vector __attribute__((vector_size(kBytes)));
  typedef typename Bits<A>::type Mask __attribute__((vector_size(kBytes)));
  Vector v;

  Elements() = default;
  CAGC_HD Elements(Vector w) : v(w) {}
  // `s - 0` folds to a broadcast; `s + 0` does not, because -0 + 0 = +0.
  CAGC_HD explicit Elements(int s) : v(static_cast<A>(s) - Vector{}) {}
  CAGC_HD explicit Elements(float s) : v(static_cast<A>(s) - Vector{}) {}
  CAGC_HD explicit Elements(double s) : v(static_cast<A>(s) - Vector{}) {}
  CAGC_HD Elements operator-() const { return -v; }
};

template <class A> struct Selection {
  typename Elements<A>::Mask m;
  CAGC_HD Selection operator&&(Selection b) const { return {m & b.m}; }
};

template <class A> CAGC_HD Elements<A> operator+(Elements<A> a, Elements<A> b) { return a.v + b.v; }
template <class A> CAGC_HD Elements<A> operator-(Elements<A> a, Elements<A> b) { return a.v - b.v; }
template <class A> CAGC_HD Elements<A> operator*(Elements<A> a, Elements<A> b) { return a.v * b.v; }
template <class A> CAGC_HD Elements<A> operator/(Elements<A> a, Elements<A> b) { return a.v / b.v; }
template <class A> CAGC_HD Selection<A> operator<(Elements<A> a, Elements<A> b) { return {a.v < b.v}; }
template <class A> CAGC_HD Selection<A> operator>(Elements<A> a, Elements<A> b) { return {a.v > b.v}; }
template <class A> CAGC_HD Selection<A> operator>=(Elements<A> a, Elements<A> b) { return {a.v >= b.v}; }
template <class A> CAGC_HD Elements<A> select(Selection<A> c, Elements<A> a, Elements<A> b) { return c.m ? a.v : b.v; }

using Floats = Elements<float>;
using Doubles = Elements<double>;

// e^u = 2^n (1 + q) with q = e^r - 1, |r| <= log(2) / 2. 2^n is multiplied in two halves, so that results overflow and
// underflow correctly.
struct Exponential {
  Floats q, low, high;
  CAGC_HD explicit Exponential(Floats u) {
    u = select(u < Floats(-104), Floats(-104), select(u > Floats(89), Floats(89), u));  // a NaN stays
    const Floats magic(12582912.f), t = u * Floats(1.44269504f) + magic, n = t - magic;
    const Floats r = u - n * Floats(0.693359375f) + n * Floats(2.12194440e-4f);
    // Fitted to (e^r - 1 - r) / r^2 at Chebyshev nodes: the error is 1.1e-8, and floats are 6e-8 apart.
    const Floats p = Floats(0.041666463f) + r * (Floats(0.00836320501f) + r * Floats(0.00139336882f));
    q = r + r * r * (Floats(0.5f) + r * (Floats(0.166665763f) + r * p));
    const Floats::Mask whole = (Floats::Mask)t.v - (Floats::Mask)magic.v, half = whole >> 1;
    low = (Floats::Vector)((half + 127) << 23), high = (Floats::Vector)((whole - half + 127) << 23);
  }
};

CAGC_HD Floats exp(Floats u) {
  const Exponential e(u);
  return (Floats(1) + e.q) * e.low * e.high;
}

CAGC_HD Floats expm1(Floats u) {
  const Exponential e(u);
  const Floats power = e.low * e.high;
  return e.q * power + (power - Floats(1));
}

CAGC_HD Floats tanh(Floats u) {
  const Floats a = select(u < Floats(0), -u, u), e = expm1(select(a > Floats(10), Floats(20), a + a));
  const Floats t = e / (e + Floats(2));
  return select(u < Floats(0), -t, t);
}

// max(u, 0) + log(1 + z) with z = e^-|u|, and log(1 + z) = 2 artanh(z / (2 + z)).
CAGC_HD Floats softplus(Floats u) {
  const Floats z = exp(select(u < Floats(0), u, -u)), s = z / (z + Floats(2)), t = s * s;
  // Fitted to (artanh(s) / s - 1) / t at Chebyshev nodes: the error is 1.6e-8.
  const Floats p = Floats(0.200038478f) + t * (Floats(0.14116618f) + t * Floats(0.134363905f));
  return select(u > Floats(0), u, Floats(0)) + (s + s) * (Floats(1) + t * (Floats(0.333333194f) + t * p));
}

// float64 calls the C library for each lane, for accuracy.
template <class F> CAGC_HD Doubles each(Doubles u, F &&f) {
  for (int i = 0; i < Doubles::lanes; i++) u.v[i] = f(u.v[i]);
  return u;
}
CAGC_HD Doubles exp(Doubles u) { return each(u, [](double s) { return std::exp(s); }); }
CAGC_HD Doubles expm1(Doubles u) { return each(u, [](double s) { return std::expm1(s); }); }
CAGC_HD Doubles tanh(Doubles u) { return each(u, [](double s) { return std::tanh(s); }); }
CAGC_HD Doubles softplus(Doubles u) { return each(u, [](double s) { return std::log1p(std::exp(s)); }); }

template <class A> CAGC_HD Elements<A> load(const A *p) {
  Elements<A> u;
  std::memcpy(&u.v, p, kBytes);
  return u;
}
template <class A> CAGC_HD void store(A *p, Elements<A> u) { std::memcpy(p, &u.v, kBytes); }

typedef uint16_t Shorts __attribute__((vector_size(kBytes / 2)));
typedef uint32_t Words __attribute__((vector_size(kBytes)));

CAGC_HD Floats load(const bfloat_t *p) {
  Shorts s;
  std::memcpy(&s, p, sizeof(s));
  return (Floats::Vector)(__builtin_convertvector(s, Words) << 16);
}
CAGC_HD void store(bfloat_t *p, Floats u) {  // rounds as bfloat_t(float)
#if defined(__AVX512BF16__)
  // The instruction flushes subnormal numbers to zero, so it is used only where there are none.
  if (__builtin_expect(!_mm512_fpclass_ps_mask(u.v, 0x20), 1))
    return _mm256_storeu_si256(reinterpret_cast<__m256i *>(p), (__m256i)_mm512_cvtneps_pbh(u.v));
#endif
  const Words w = (Words)u.v, top = w >> 16, rounded = (w + 0x7fff + (top & 1)) >> 16;
  const Shorts s = __builtin_convertvector((w & 0x7fffffff) > 0x7f800000 ? top | 0x40 : rounded, Shorts);
  std::memcpy(p, &s, sizeof(s));
}

CAGC_HD Floats load(const half_t *p) {
#if defined(__AVX512F__)
  return _mm512_cvtph_ps(_mm256_loadu_si256(reinterpret_cast<const __m256i *>(p)));
#elif defined(__F16C__)
  return _mm256_cvtph_ps(_mm_loadu_si128(reinterpret_cast<const __m128i *>(p)));
#else
  Floats u;
  for (int i = 0; i < Floats::lanes; i++) u.v[i] = static_cast<float>(p[i]);
  return u;
#endif
}
CAGC_HD void store(half_t *p, Floats u) {
#if defined(__AVX512F__)
  _mm256_storeu_si256(reinterpret_cast<__m256i *>(p), _mm512_cvtps_ph(u.v, _MM_FROUND_TO_NEAREST_INT));
#elif defined(__F16C__)
  _mm_storeu_si128(reinterpret_cast<__m128i *>(p), _mm256_cvtps_ph(u.v, _MM_FROUND_TO_NEAREST_INT));
#else
  for (int i = 0; i < Floats::lanes; i++) p[i] = static_cast<half_t>(u.v[i]);
#endif
}

// Returns the number of elements from p to the first address to which stream() may write.
template <class T> CAGC_HD int64_t unaligned(const T *p) {
  constexpr int64_t lanes = Elements<acc_t<T>>::lanes;
  return -static_cast<int64_t>(reinterpret_cast<uintptr_t>(p) / sizeof(T)) & (lanes - 1);
}

// A non-temporal store() where the instruction set has one; unaligned() of the address must be 0.
template <class T, class A> CAGC_HD void stream(T *p, Elements<A> u) {
#if defined(__AVX__)
  alignas(kBytes) T values[Elements<A>::lanes];
  store(values, u);
#if defined(__AVX512F__)
  if constexpr (sizeof(values) == 64)
    return _mm512_stream_si512(reinterpret_cast<__m512i *>(p), *reinterpret_cast<__m512i *>(values));
#endif
  if constexpr (sizeof(values) == 32)
    return _mm256_stream_si256(reinterpret_cast<__m256i *>(p), *reinterpret_cast<__m256i *>(values));
  else return _mm_stream_si128(reinterpret_cast<__m128i *>(p), *reinterpret_cast<__m128i *>(values));
#else
  store(p, u);
#endif
}

}  // namespace
}  // namespace cagc
