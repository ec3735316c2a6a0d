// What the CTest programs share: a check that counts, the test of barriers, and the exit status.
#pragma once
#include <cstdio>
#include <cuda_runtime.h>

inline int failures = 0;

#define CHECK(condition, ...)                              \
  do {                                                     \
    if (!(condition)) {                                    \
      std::printf("%s:%d: %s: ", __FILE__, __LINE__, #condition); \
      std::printf(__VA_ARGS__);                            \
      std::printf("\n");                                   \
      failures++;                                          \
    }                                                      \
  } while (0)

// Each barrier of the source is needed: without it `wrong()`, which counts wrong elements, counts some under one of
// the thread orders that the seeds 1 to `seeds` draw.
template <class F> void check_every_barrier(int seeds, F &&wrong) {
  for (int line : cagc::emulator::barriers_reached()) {
    int count = 0;
    for (int seed = 1; seed <= seeds; seed++) {
      cagc::emulator::set_seed(seed);
      cagc::emulator::skip_barrier(line);
      count += wrong();
      cagc::emulator::skip_barrier(0);
    }
    CHECK(count > 0, "without the barrier of line %d nothing is wrong", line);
  }
}

inline int report(const char *name) {
  std::printf("%s: %s\n", name, failures ? "FAILED" : "passed");
  return failures ? 1 : 0;
}
