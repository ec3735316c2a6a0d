#include "cagc/sparse_channel_conv2d.h"
#include "entry.h"

CAGC_ENTRY const char *sparse_channel_conv2d(Pointer x, Pointer weight, Pointer in_channels, Pointer out_channels,
                                             Pointer styles, Pointer factors, Pointer out, int64_t n, int64_t c_in,
                                             int64_t c_out, int64_t in_h, int64_t in_w, int64_t out_h, int64_t out_w,
                                             int64_t k, int64_t pad, int64_t up, int64_t x0, int64_t x1, int64_t x2,
                                             int64_t x3, int64_t w0, int64_t w1, int64_t w2, int64_t w3, int64_t o0,
                                             int64_t o1, int64_t o2, int64_t o3, int flip, int demodulate, int scatter,
                                             int dtype, int weight_dtype) {
  return cagc::sparse_channel_conv2d_cuda(
      {in(x), in(weight), static_cast<const int64_t *>(in(in_channels)), static_cast<const int64_t *>(in(out_channels)),
       in(styles), out_of(factors), out_of(out), n, c_in, c_out, in_h, in_w, out_h, out_w, k, pad, up, {x0, x1, x2, x3},
       {w0, w1, w2, w3}, {o0, o1, o2, o3}, flip != 0, demodulate != 0, scatter != 0, cagc::DType(dtype),
       cagc::DType(weight_dtype)},
      nullptr);
}
