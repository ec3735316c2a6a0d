// __nv_bfloat16 on the host: what the kernels use of it, with the conversions that CUDA's own type has.
#pragma once
#include <cmath>
#include <cstdint>
#include <cstring>

struct __nv_bfloat16 {
  uint16_t bits;
  __nv_bfloat16() = default;
  __nv_bfloat16(float v) {
    uint32_t u;
    std::memcpy(&u, &v, 4);
    // CUDA's conversion: to nearest even, and one NaN for all.
    bits = std::isnan(v) ? 0x7fff : static_cast<uint16_t>((u + 0x7fffu + ((u >> 16) & 1u)) >> 16);
  }
  __nv_bfloat16(double v) : __nv_bfloat16(static_cast<float>(v)) {}
  operator float() const {
    const uint32_t u = static_cast<uint32_t>(bits) << 16;
    float v;
    std::memcpy(&v, &u, 4);
    return v;
  }
};

inline float __bfloat162float(__nv_bfloat16 v) { return v; }
inline __nv_bfloat16 __float2bfloat16(float v) { return v; }
inline __nv_bfloat16 __float2bfloat16_rn(float v) { return v; }
