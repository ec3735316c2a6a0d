// Shared by all ops: the host/device macro, dtype codes, storage types and their accumulate types.
#pragma once
#include <cstdint>
#include <cstring>

#if defined(__CUDACC__)
#include <cuda_bf16.h>
#include <cuda_fp16.h>
#define CAGC_HD __host__ __device__ __forceinline__
#else
#define CAGC_HD inline __attribute__((always_inline))
#endif

namespace cagc {

// The codes are those of DTYPES in cagc_kernels/native/bias_act.py.
enum class DType : int { float32 = 0, float64 = 1, float16 = 2, bfloat16 = 3 };

#if defined(__CUDACC__)
using half_t = __half;
using bfloat_t = __nv_bfloat16;
#else
#if defined(__aarch64__) && !defined(__clang__)
using half_t = __fp16;  // GCC before 13 has no _Float16 here
#elif defined(__FLT16_MANT_DIG__)
using half_t = _Float16;
#else
// Of compilers that have no type for it: conversions through bits, rounded to nearest even.
struct half_t {
  uint16_t bits;
  half_t() = default;
  CAGC_HD explicit half_t(float value) {
    uint32_t u;
    std::memcpy(&u, &value, 4);
    const uint32_t sign = u >> 16 & 0x8000u, magnitude = u & 0x7fffffffu;
    if (magnitude > 0x7f800000u) {  // NaN, made quiet
      bits = static_cast<uint16_t>(sign | 0x7e00u | (magnitude >> 13 & 0x1ffu));
    } else if (magnitude >= 0x477ff000u) {  // rounds to infinity
      bits = static_cast<uint16_t>(sign | 0x7c00u);
    } else if (magnitude >= 0x38800000u) {
      bits = static_cast<uint16_t>(sign | ((magnitude + 0xfffu + (magnitude >> 13 & 1u)) - 0x38000000u) >> 13);
    } else {  // subnormal: the addition rounds at the last bit of a half
      float small;
      std::memcpy(&small, &magnitude, 4);
      small += 0.5f;
      uint32_t rounded;
      std::memcpy(&rounded, &small, 4);
      bits = static_cast<uint16_t>(sign | (rounded - 0x3f000000u));
    }
  }
  CAGC_HD explicit operator float() const {
    const uint32_t sign = static_cast<uint32_t>(bits & 0x8000u) << 16, exponent = bits >> 10 & 31u;
    const uint32_t mantissa = bits & 1023u;
    float value;
    if (exponent == 0) {
      value = static_cast<float>(mantissa) * 5.9604644775390625e-8f;  // 2^-24
      return sign ? -value : value;
    }
    const uint32_t u = sign | (exponent == 31 ? 0x7f800000u : (exponent + 112) << 23) | mantissa << 13;
    std::memcpy(&value, &u, 4);
    return value;
  }
};
#endif

struct bfloat_t {
  uint16_t bits;
  bfloat_t() = default;
  CAGC_HD explicit bfloat_t(float value) {
    uint32_t u;
    std::memcpy(&u, &value, 4);
    // Rounds to nearest even. A NaN is truncated and made quiet instead: the carry could turn it into infinity.
    const uint32_t rounded = (u + 0x7fffu + ((u >> 16) & 1u)) >> 16, quiet = (u >> 16) | 0x40u;
    bits = static_cast<uint16_t>((u & 0x7fffffffu) > 0x7f800000u ? quiet : rounded);
  }
  CAGC_HD explicit operator float() const {
    const uint32_t u = static_cast<uint32_t>(bits) << 16;
    float value;
    std::memcpy(&value, &u, 4);
    return value;
  }
};
#endif

template <class T> struct Accumulate { using type = float; };
template <> struct Accumulate<double> { using type = double; };
template <class T> using acc_t = typename Accumulate<T>::type;

template <class T> struct Type { using type = T; };

// Calls f(Type<T>{}) for the storage type of a dtype code; false if the code is unknown.
template <class F> bool with_dtype(DType dtype, F &&f) {
  switch (dtype) {
    case DType::float32: f(Type<float>{}); return true;
    case DType::float64: f(Type<double>{}); return true;
    case DType::float16: f(Type<half_t>{}); return true;
    case DType::bfloat16: f(Type<bfloat_t>{}); return true;
  }
  return false;
}

}  // namespace cagc
