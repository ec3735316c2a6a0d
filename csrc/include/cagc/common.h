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
using half_t = _Float16;

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
