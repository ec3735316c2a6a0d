// Convolution over chosen channels: correlates x, with up - 1 zeros inserted between its pixels and pad zeros around,
// with weight[out_channels][:, in_channels], which is read in place through the index vectors.
#pragma once
#include "cagc/common.h"

namespace cagc {

struct SparseChannelConv2d {
  const void *x = nullptr;                // [n, c_in, in_h, in_w], the chosen channels only
  const void *weight = nullptr;           // [o, i, k, k], the full weight
  const int64_t *in_channels = nullptr;   // [c_in], below i
  const int64_t *out_channels = nullptr;  // [c_out], below o
  const void *styles = nullptr;           // [n, c_in] factors of x in the accumulate type, dense; or null
  void *factors = nullptr;                // [n, c_out] in the accumulate type, scratch of CUDA with demodulate
  void *out = nullptr;                    // [n, c_out, out_h, out_w], with scatter [n, o, out_h, out_w]
  int64_t n = 0, c_in = 0, c_out = 0, in_h = 0, in_w = 0, out_h = 0, out_w = 0, k = 1;
  int64_t pad = 0, up = 1;
  int64_t x_stride[4] = {}, weight_stride[4] = {}, out_stride[4] = {};  // in elements
  bool flip = true;         // correlate; false mirrors the kernel
  bool demodulate = false;  // requires styles
  bool scatter = false;     // output j is written to channel out_channels[j]; others are not written
  DType dtype = DType::float32, weight_dtype = DType::float32;  // weight_dtype: dtype, or float32 beside half precision
};

void sparse_channel_conv2d_cpu(const SparseChannelConv2d &p, int threads);

// Returns null, or an error message. `stream` is a cudaStream_t of the current device.
const char *sparse_channel_conv2d_cuda(const SparseChannelConv2d &p, void *stream);

constexpr double kDemodulationEps = 1e-8;

// Offset of the weight's tap that a correlation multiplies at (ky, kx).
CAGC_HD int64_t kernel_offset(const SparseChannelConv2d &p, int64_t ky, int64_t kx) {
  if (!p.flip) ky = p.k - 1 - ky, kx = p.k - 1 - kx;
  return ky * p.weight_stride[2] + kx * p.weight_stride[3];
}

// Channel of the output tensor to which the chosen output j is written.
CAGC_HD int64_t output_channel(const SparseChannelConv2d &p, int64_t j) { return p.scatter ? p.out_channels[j] : j; }

CAGC_HD int64_t output_size(const SparseChannelConv2d &p, int64_t in) { return (in - 1) * p.up + 2 * p.pad + 2 - p.k; }

}  // namespace cagc
