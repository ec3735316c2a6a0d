// The vector loops of an SN-GAN convolution on ranges of tiles, compiled once per instruction set; sngan.cpp divides
// them among threads.
#pragma once
#include "cagc/sngan.h"
#include "kernels.h"

namespace cagc {

struct ResidualJob {
  ConvJob conv;           // conv, x [batch, h, w, in], y [batch, r, r, out], size, side and tiles
  bool up;                // x is half as large as the output, and nearest up-sampled
  const float *shortcut;  // [batch, r / 2, r / 2, out] is added nearest up-sampled; or null
  const float *scale, *shift;  // [out], with a shortcut: of the normalisation of the sum
  float *raw;             // [batch, r, r, out]: the sum itself, or null
  float *image;           // [batch, 3, r, r] instead of y; or null
};

struct ResidualKernels {
  void (*input)(const ResidualJob &, const Block &, int64_t begin, int64_t end, float *scratch);
  void (*output)(const ResidualJob &, const Block &, int64_t begin, int64_t end, float *scratch);
};

}  // namespace cagc
