// Normal deviates of a counter: the same for a key on every platform, to within the rounding of the C library's
// functions. The mixing function is SplitMix64's (Steele, Lea and Flood, "Fast splittable pseudorandom number
// generators", OOPSLA 2014), the deviates Box and Muller's.
#pragma once
#include <cmath>
#include <cstddef>
#include <cstdint>

namespace cagc {

inline uint64_t mixed(uint64_t x) {
  x += 0x9e3779b97f4a7c15u;
  x = (x ^ x >> 30) * 0xbf58476d1ce4e5b9u;
  x = (x ^ x >> 27) * 0x94d049bb133111ebu;
  return x ^ x >> 31;
}

inline void normal_deviates(uint64_t key, size_t count, float *values) {
  constexpr double unit = 1.0 / (uint64_t{1} << 53), turn = 6.283185307179586476925;
  for (size_t i = 0; i < count; i += 2) {
    const uint64_t a = mixed(key ^ mixed(2 * i)), b = mixed(key ^ mixed(2 * i + 1));
    const double radius = std::sqrt(-2 * std::log(static_cast<double>((a >> 11) + 1) * unit));
    const double angle = turn * static_cast<double>(b >> 11) * unit;
    values[i] = static_cast<float>(radius * std::cos(angle));
    if (i + 1 < count) values[i + 1] = static_cast<float>(radius * std::sin(angle));
  }
}

}  // namespace cagc
