// When a kernel writes past the caches: such stores spare memory the reading of what they overwrite, a third of an
// elementwise kernel's traffic. But the op that comes next has to fetch what they wrote: below half the last-level
// cache it loses more than was won.
#pragma once
#include <cstdint>
#include <fstream>
#if defined(__SSE__)
#include <xmmintrin.h>
#endif

namespace cagc {

inline bool streams(int64_t bytes) {
  static const int64_t least = [] {
    int64_t kilobytes = 0;  // glibc's sysconf is far off on some processors
    std::ifstream("/sys/devices/system/cpu/cpu0/cache/index3/size") >> kilobytes;
    return (kilobytes > 0 ? kilobytes : 32768) * 1024 / 2;
  }();
  return bytes >= least;
}

// Before another thread may read: streamed stores are ordered with nothing else.
inline void end_stream() {
#if defined(__SSE__)
  _mm_sfence();
#endif
}

}  // namespace cagc
