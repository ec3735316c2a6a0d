// When a kernel uses non-temporal stores. They avoid reading the lines that are overwritten, a third of an elementwise
// kernel's memory traffic, but the next op then has to fetch the result from memory: for outputs below half the
// last-level cache this costs more than it saves.
#pragma once
#include <cstdint>
#include <fstream>
#if defined(__SSE__)
#include <xmmintrin.h>
#endif

namespace cagc {

inline bool streams(int64_t bytes) {
  static const int64_t least = [] {
    int64_t kilobytes = 0;  // not sysconf: glibc reports a wrong size on some processors
    std::ifstream("/sys/devices/system/cpu/cpu0/cache/index3/size") >> kilobytes;
    return (kilobytes > 0 ? kilobytes : 32768) * 1024 / 2;
  }();
  return bytes >= least;
}

// Fence before other threads may read: non-temporal stores are not ordered with other stores.
inline void end_stream() {
#if defined(__SSE__)
  _mm_sfence();
#endif
}

}  // namespace cagc
