// Vectors by the compiler's vector extension, so that one source serves every row of levels.cpp. CAGC_LEVEL is the name
// of the row and of the namespace in which the file defines its entries of the table.
#pragma once
#include <cstdint>

#ifndef CAGC_LEVEL
#define CAGC_LEVEL generic
#endif

#define CAGC_INLINE inline __attribute__((always_inline))
#define CAGC_NOINLINE __attribute__((noinline))  // keeps the register allocation of a loop to itself
#define CAGC_LAMBDA __attribute__((always_inline))
#if defined(__clang__)
#define CAGC_UNROLL _Pragma("clang loop unroll(full)")
#else
#define CAGC_UNROLL _Pragma("GCC unroll 64")
#endif

namespace cagc {
namespace {

// kBytes: size of a register. kWide: floats of the widest vector in matrix products. kRegisters: how many such vectors
// the registers hold.
#if defined(__AVX512F__)
constexpr int kBytes = 64, kWide = 16, kRegisters = 32;
#elif defined(__AVX2__)
constexpr int kBytes = 32, kWide = 8, kRegisters = 16;
#elif defined(__aarch64__)
// GCC 12 keeps vectors wider than a register in memory. For Clang, two registers a vector take fewer instructions than
// one (benchmarks/results/instructions).
#if defined(__clang__)
constexpr int kBytes = 16, kWide = 8, kRegisters = 16;
#else
constexpr int kBytes = 16, kWide = 4, kRegisters = 32;
#endif
#elif defined(__SSE2__) && !defined(__clang__)
constexpr int kBytes = 16, kWide = 4, kRegisters = 16;
#else
constexpr int kBytes = 16, kWide = 8, kRegisters = 8;  // a vector of 8 takes two registers
#endif

template <int W> struct Vector { typedef float type __attribute__((vector_size(W * 4), aligned(4), may_alias)); };
template <int W> using vec = typename Vector<W>::type;

template <int W> CAGC_INLINE vec<W> load(const float *p) { return *reinterpret_cast<const vec<W> *>(p); }
template <int W> CAGC_INLINE void store(float *p, vec<W> v) { *reinterpret_cast<vec<W> *>(p) = v; }
// `s - 0` folds to a broadcast; `s + 0` does not, because -0 + 0 = +0.
template <int W> CAGC_INLINE vec<W> broadcast(float s) { return s - vec<W>{}; }

// Comparisons with NaN are false and then select `u`, so a NaN stays a NaN. Each compiles to one min or max.
template <class V> CAGC_INLINE V bounded(V u, V clamp) {
  u = clamp < u ? clamp : u;
  return -clamp > u ? -clamp : u;
}

// Leaky ReLU with slope 0.2, its gain already multiplied into the input, and the clamp of mixed-precision generators.
template <int W> CAGC_INLINE vec<W> activate(vec<W> u, vec<W> clamp) {
  const vec<W> low = u * 0.2f;
  u = low > u ? low : u;
  return bounded(u, clamp);
}

CAGC_INLINE vec<4> fold(vec<4> v) { return v; }
template <class V> CAGC_INLINE vec<4> fold(V v) {  // adds halves until four lanes are left
  constexpr int half = sizeof(V) / 8;
  vec<half> low, high;
  __builtin_memcpy(&low, &v, sizeof(low));
  __builtin_memcpy(&high, reinterpret_cast<const char *>(&v) + sizeof(low), sizeof(high));
  return fold(low + high);
}

// Returns the sums of four vectors of four.
CAGC_INLINE vec<4> sums(vec<4> a, vec<4> b, vec<4> c, vec<4> d) {
  const vec<4> p = vec<4>{a[0], b[0], a[1], b[1]} + vec<4>{a[2], b[2], a[3], b[3]};
  const vec<4> q = vec<4>{c[0], d[0], c[1], d[1]} + vec<4>{c[2], d[2], c[3], d[3]};
  return vec<4>{p[0], p[1], q[0], q[1]} + vec<4>{p[2], p[3], q[2], q[3]};
}

// Selects lanes of two vectors by constant indices.
#if defined(__clang__) || __GNUC__ >= 12
#define CAGC_SHUFFLE(W, a, b, ...) __builtin_shufflevector(a, b, __VA_ARGS__)
#else
template <int W> struct Index { typedef int32_t type __attribute__((vector_size(W * 4))); };
#define CAGC_SHUFFLE(W, a, b, ...) __builtin_shuffle(a, b, typename Index<W>::type{__VA_ARGS__})
#endif

template <int N> struct Width { static constexpr int value = N; };

// Calls f(Width<W>{}) for the widest vector that divides a channel count.
template <class F> CAGC_INLINE void with_width(int64_t channels, F &&f) {
  if (channels % kWide == 0) f(Width<kWide>{});
  else f(Width<8>{});
}

}  // namespace
}  // namespace cagc
