#include "cagc/upfirdn2d.h"
#include "entry.h"

CAGC_ENTRY const char *upfirdn2d(Pointer x, Pointer f, Pointer out, int64_t n, int64_t c, int64_t inner, int64_t in_h,
                                 int64_t in_w, int64_t out_h, int64_t out_w, int64_t stride_n, int64_t stride_c,
                                 int64_t stride_h, int64_t up_x, int64_t up_y, int64_t down_x, int64_t down_y,
                                 int64_t pad_x, int64_t pad_y, int64_t f_h, int64_t f_w, int separable, int flip,
                                 double gain, int dtype) {
  return cagc::upfirdn2d_cuda({in(x), in(f), out_of(out), n, c, inner, in_h, in_w, out_h, out_w, stride_n, stride_c,
                               stride_h, up_x, up_y, down_x, down_y, pad_x, pad_y, f_h, f_w, separable != 0, flip != 0,
                               gain, cagc::DType(dtype)},
                              nullptr);
}
