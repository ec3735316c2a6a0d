// A modulated 3x3 convolution of images in planes with frozen, packed weights: float32, by Winograd's algorithm.
//
//   y[n, o] = demod[n, o] * sum over i of scale[n, i] * x[n, i] correlated with weight[o, i]
//
// With up = 2 it is the transposed convolution of stride 2, of 2 h + 1 by 2 w + 1 pixels:
//
//   y[n, o, 2 u + k, 2 v + l] = demod[n, o] * sum of scale[n, i] * x[n, i, u, v] * weight[o, i, k, l]
#pragma once
#include "cagc/memory.h"
#include "cagc/synthesis.h"

namespace cagc {

struct PlanarKernels;

// Returns the kernels of an instruction set, or null if it is not one of instruction_sets().
const PlanarKernels *find_planar_kernels(const char *instructions);

struct PlanarCall {
  const float *x = nullptr;      // [n, in, h, w]
  const float *scale = nullptr;  // [n, in], or null: ones
  const float *demod = nullptr;  // [n, out], or null: ones
  float *y = nullptr;            // [n, out, h + 2 padding - 2, w + 2 padding - 2], or [n, out, 2 h + 1, 2 w + 1]
  float *workspace = nullptr;
  int64_t n = 0, h = 0, w = 0;
  int64_t padding = 1;           // zeros around x, 0 or more; with up = 2 it is 1
};

class PlanarConv {
 public:
  // weight [out, in, 3, 3], which may be freed afterwards; up is 1 or 2.
  PlanarConv(const Kernels &kernels, const PlanarKernels &loops, const double *weight, int64_t in, int64_t out,
             int64_t up);

  size_t bytes() const { return 36 * in_ * out_padded_ * sizeof(float); }
  int64_t in() const { return in_; }
  int64_t out() const { return out_; }
  int64_t up() const { return up_; }
  // Products of an input and an output channel in one call, padding included.
  int64_t multiplications(const PlanarCall &call) const;
  int64_t workspace(const PlanarCall &call, int threads) const;  // floats; x, y and workspace of the call are not read
  void run(const PlanarCall &call, int threads) const;

 private:
  struct Layout;
  Layout lay_out(const PlanarCall &call, int threads) const;

  const Kernels &kernels_;
  const PlanarKernels &loops_;
  int64_t in_, out_, up_, in_padded_, out_padded_;
  AlignedFloats weight_;  // 36 packed matrices [in, out_padded]
};

}  // namespace cagc
