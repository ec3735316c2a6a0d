// What the CTest programs share: a check that counts, and the exit status.
#pragma once
#include <cstdio>

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

inline int report(const char *name) {
  std::printf("%s: %s\n", name, failures ? "FAILED" : "passed");
  return failures ? 1 : 0;
}
