// The emulated launchers under a C ABI, with the arguments of csrc/module.cpp: null, or the message of an error.
#include "cagc/bias_act.h"
#include "planted.h"

#define CAGC_ENTRY extern "C" __attribute__((visibility("default")))

using Pointer = std::uintptr_t;

namespace {
const void *in(Pointer p) { return reinterpret_cast<const void *>(p); }
void *out_of(Pointer p) { return reinterpret_cast<void *>(p); }
}  // namespace

CAGC_ENTRY void emulator_set(uint64_t seed, int multiprocessors) {
  cagc::emulator::set_seed(seed);
  cagc::emulator::set_multiprocessors(multiprocessors);
}

CAGC_ENTRY const char *bias_act(Pointer x, Pointer b, Pointer y, Pointer g, Pointer h, Pointer out, int64_t numel,
                                int64_t step, int64_t channels, double alpha, double gain, double clamp, int act,
                                int pass, int dtype) {
  return cagc::bias_act_cuda({in(x), in(b), in(y), in(g), in(h), out_of(out), numel, step, channels, alpha, gain, clamp,
                              cagc::Act(act), cagc::Pass(pass), cagc::DType(dtype)},
                             nullptr);
}

CAGC_ENTRY const char *planted(int removed, const float *x, float *out, int tiles) {
  return removed == 0   ? cagc::planted_none(x, out, tiles)
         : removed == 1 ? cagc::planted_before_reading(x, out, tiles)
                        : cagc::planted_before_overwriting(x, out, tiles);
}
