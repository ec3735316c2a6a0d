#include "cagc/modulated_conv2d.h"
#include "entry.h"

CAGC_ENTRY const char *modulated_conv2d(Pointer x, Pointer g, Pointer f, Pointer d, Pointer noise, Pointer b, Pointer s,
                                        Pointer out, Pointer sums, Pointer dnoise, int64_t n, int64_t c, int64_t in_h,
                                        int64_t in_w, int64_t out_h, int64_t out_w, int64_t pad_x, int64_t pad_y,
                                        int64_t noise_step, int64_t chunk, int channels_last, double alpha, double gain,
                                        double clamp, int act, int dtype) {
  return cagc::modulated_conv2d_cuda({in(x), in(g), in(f), in(d), in(noise), in(b), in(s), out_of(out), out_of(sums),
                                      out_of(dnoise), n, c, in_h, in_w, out_h, out_w, pad_x, pad_y, noise_step, chunk,
                                      channels_last != 0, alpha, gain, clamp, cagc::Act(act), cagc::DType(dtype)},
                                     nullptr);
}
