// Vectors by the compiler's vector extension, so that one source serves every row of levels.cpp. CAGC_LEVEL is the name
// of the row and of the namespace in which the file defines its entries of the table.
#pragma once
#include <cstdint>
#if defined(__SSE2__)
#include <immintrin.h>
#elif defined(__wasm_simd128__)
#include <wasm_simd128.h>
#endif

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
#if defined(CAGC_WIDE)
constexpr int kBytes = 16, kWide = CAGC_WIDE, kRegisters = CAGC_REGISTERS;  // what benchmarks/instructions.py tries
#elif defined(__AVX512F__)
constexpr int kBytes = 64, kWide = 16, kRegisters = 32;
#elif defined(__AVX2__)
constexpr int kBytes = 32, kWide = 8, kRegisters = 16;
#elif defined(__aarch64__)
// By count of instructions (docs/edge.md). GCC 12 keeps vectors wider than a register in memory; for Clang, vectors of
// two registers take fewer instructions than those of one.
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

template <int W> struct Vector {
  typedef float type __attribute__((vector_size(W * 4), aligned(4), may_alias));
  typedef uint32_t words __attribute__((vector_size(W * 4)));
  typedef int32_t signed_words __attribute__((vector_size(W * 4)));
  typedef int16_t shorts __attribute__((vector_size(W * 2)));
  typedef int8_t bytes __attribute__((vector_size(W)));
};
template <int W> using vec = typename Vector<W>::type;

template <int W> CAGC_INLINE vec<W> load(const float *p) { return *reinterpret_cast<const vec<W> *>(p); }
template <int W> CAGC_INLINE void store(float *p, vec<W> v) { *reinterpret_cast<vec<W> *>(p) = v; }

// Numbers of fewer bytes, widened. GCC 12 takes bytes apart one by one where it converts vectors of them, hence the
// intrinsics.
enum half_bits : uint16_t {};  // IEEE binary16

template <int W> CAGC_INLINE vec<W> load(const half_bits *p) {
#if defined(__AVX512F__)
  if constexpr (W == 16) return _mm512_cvtph_ps(_mm256_loadu_si256(reinterpret_cast<const __m256i *>(p)));
#endif
#if defined(__F16C__)
  if constexpr (W == 8) return _mm256_cvtph_ps(_mm_loadu_si128(reinterpret_cast<const __m128i *>(p)));
#endif
  // Moved to the place of a float's exponent and fraction, a number is 2^112 times too small. The sign is extended to
  // the top bit, and its copies in the exponent are cleared. Not for infinities.
  using Words = typename Vector<W>::words;
  typename Vector<W>::shorts h;
  __builtin_memcpy(&h, p, sizeof(h));
  const Words w = (Words)__builtin_convertvector(h, typename Vector<W>::signed_words);
  return (vec<W>)((w << 13) & 0x8fffffff) * 0x1p112f;
}

template <int W> CAGC_INLINE vec<W> load(const int8_t *p) {
#if defined(__AVX512F__)
  if constexpr (W == 16)
    return _mm512_cvtepi32_ps(_mm512_cvtepi8_epi32(_mm_loadu_si128(reinterpret_cast<const __m128i *>(p))));
#endif
#if defined(__AVX2__)
  if constexpr (W == 8)
    return _mm256_cvtepi32_ps(_mm256_cvtepi8_epi32(_mm_loadl_epi64(reinterpret_cast<const __m128i *>(p))));
#endif
#if defined(__SSE2__)
  if constexpr (W == 8) {  // a byte at the top of each word, shifted down with its sign
    const __m128i b = _mm_loadl_epi64(reinterpret_cast<const __m128i *>(p)), pairs = _mm_unpacklo_epi8(b, b);
    const __m128i low = _mm_unpacklo_epi16(pairs, pairs), high = _mm_unpackhi_epi16(pairs, pairs);
    const __m128 halves[] = {_mm_cvtepi32_ps(_mm_srai_epi32(low, 24)), _mm_cvtepi32_ps(_mm_srai_epi32(high, 24))};
    vec<W> v;
    __builtin_memcpy(&v, halves, sizeof(v));
    return v;
  }
#elif defined(__wasm_simd128__)
  if constexpr (W == 8) {  // likewise; where the bytes are extended step by step, Clang 22 takes them apart one by one
    const v128_t b = wasm_v128_load64_zero(p);
    const v128_t low = wasm_i8x16_shuffle(b, b, 0, 0, 0, 0, 1, 1, 1, 1, 2, 2, 2, 2, 3, 3, 3, 3);
    const v128_t high = wasm_i8x16_shuffle(b, b, 4, 4, 4, 4, 5, 5, 5, 5, 6, 6, 6, 6, 7, 7, 7, 7);
    const v128_t halves[] = {wasm_f32x4_convert_i32x4(wasm_i32x4_shr(low, 24)),
                             wasm_f32x4_convert_i32x4(wasm_i32x4_shr(high, 24))};
    vec<W> v;
    __builtin_memcpy(&v, halves, sizeof(v));
    return v;
  }
#endif
  typename Vector<W>::bytes b;
  __builtin_memcpy(&b, p, sizeof(b));
  return __builtin_convertvector(b, vec<W>);
}

// To nearest, ties to even, of a number that is in range.
inline half_bits to_half(float value) {
  uint32_t u;
  __builtin_memcpy(&u, &value, 4);
  const uint32_t sign = u >> 16 & 0x8000, magnitude = u & 0x7fffffff;
  if (magnitude < 0x38800000) {  // subnormal: multiples of 2^-24
    float absolute;
    __builtin_memcpy(&absolute, &magnitude, 4);
    absolute += 0.5f;  // whose last place is 2^-24
    __builtin_memcpy(&u, &absolute, 4);
    return half_bits(sign | (u - 0x3f000000));
  }
  return half_bits(sign | ((magnitude - 0x38000000 + 0xfff + (magnitude >> 13 & 1)) >> 13));
}

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
