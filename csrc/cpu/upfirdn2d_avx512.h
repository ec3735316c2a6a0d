// The four-tap cases of upfirdn2d on processors with AVX-512; see upfirdn2d_avx512.cpp.
#pragma once
#include "cagc/upfirdn2d.h"
#include "isa/simd.h"

namespace cagc {

enum class Shape { general, same4, up2, down2 };

// A filter that is the product of two vectors of four taps, with the same resampling on both axes. Output o is the sum
// of tap j times pixel o * step + first + j; with up2, output 2 * q + r sums taps 2 * r and 2 * r + 1 times pixels
// q + first + r and q + first + r + 1.
struct Fir4 {
  Shape shape;
  int64_t first_x, first_y;
  float x[4], y[4];
};

// Returns false and does nothing if it was compiled without AVX-512 or the dtype is float64.
namespace CAGC_LEVEL { bool upfirdn2d_avx512(const Upfirdn2d &p, const Fir4 &f, int threads); }

}  // namespace cagc
