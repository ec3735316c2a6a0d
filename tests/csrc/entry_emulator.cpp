#include "entry.h"
#include "planted.h"

CAGC_ENTRY void emulator_set(uint64_t seed, int multiprocessors) {
  cagc::emulator::set_seed(seed);
  cagc::emulator::set_multiprocessors(multiprocessors);
}

CAGC_ENTRY const char *planted(int removed, const float *x, float *out, int tiles) {
  const auto run = removed == 0   ? cagc::planted_none
                   : removed == 1 ? cagc::planted_before_reading
                                  : cagc::planted_before_overwriting;
  return run(x, out, tiles);
}
