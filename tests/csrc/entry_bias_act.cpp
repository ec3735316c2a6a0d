#include "cagc/bias_act.h"
#include "entry.h"

CAGC_ENTRY const char *bias_act(Pointer x, Pointer b, Pointer y, Pointer g, Pointer h, Pointer out, int64_t numel,
                                int64_t step, int64_t channels, double alpha, double gain, double clamp, int act,
                                int pass, int dtype) {
  return cagc::bias_act_cuda({in(x), in(b), in(y), in(g), in(h), out_of(out), numel, step, channels, alpha, gain, clamp,
                              cagc::Act(act), cagc::Pass(pass), cagc::DType(dtype)},
                             nullptr);
}

CAGC_ENTRY const char *bias_act_slope(Pointer x, Pointer b, Pointer y, Pointer g, Pointer out, int64_t numel,
                                      int64_t step, int64_t channels, double alpha, double gain, double clamp, int act,
                                      int dtype, Pointer sums, int64_t chunk) {
  return cagc::bias_act_cuda({in(x), in(b), in(y), in(g), nullptr, out_of(out), numel, step, channels, alpha, gain,
                              clamp, cagc::Act(act), cagc::Pass::slope, cagc::DType(dtype), out_of(sums), chunk},
                             nullptr);
}
