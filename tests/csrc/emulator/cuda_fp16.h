// __half on the host: what the kernels use of it, with the conversions that CUDA's own type has.
#pragma once

struct __half {
  _Float16 value;
  __half() = default;
  __half(float v) : value(static_cast<_Float16>(v)) {}
  __half(double v) : value(static_cast<_Float16>(v)) {}
  operator float() const { return static_cast<float>(value); }
};

inline float __half2float(__half v) { return v; }
inline __half __float2half(float v) { return v; }
inline __half __float2half_rn(float v) { return v; }
