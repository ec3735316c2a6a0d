// The fingerprint of a tensor: each 64-bit word is mixed into one of several lanes by steps that can be inverted.
#include "cagc/fingerprint.h"
#include "synthesis/team.h"
#include <algorithm>
#include <cstring>
#include <vector>

namespace cagc {
namespace {

constexpr uint64_t kOdd = 0x9E3779B97F4A7C15;  // 2^64 divided by the golden ratio
constexpr int64_t kLanes = 8, kChunk = 1 << 18;  // words at a time, as many as hide a multiplication; floats of a task

uint64_t mixed(uint64_t state, uint64_t word) {
  state = (state ^ word) * kOdd;
  return state ^ state >> 32;
}

uint64_t of_chunk(const float *values, int64_t count) {
  uint64_t lanes[kLanes], words[kLanes];
  for (int64_t i = 0; i < kLanes; i++) lanes[i] = mixed(kOdd, i);
  const int64_t bytes = count * sizeof(float);
  const char *from = reinterpret_cast<const char *>(values);
  for (int64_t at = 0; at < bytes; at += sizeof(words)) {
    if (bytes - at < static_cast<int64_t>(sizeof(words))) std::memset(words, 0, sizeof(words));
    std::memcpy(words, from + at, std::min<int64_t>(sizeof(words), bytes - at));
    for (int64_t i = 0; i < kLanes; i++) lanes[i] = mixed(lanes[i], words[i]);
  }
  uint64_t all = mixed(kOdd, count);
  for (const uint64_t lane : lanes) all = mixed(mixed(all, lane), lane >> 32);
  return all;
}

}  // namespace

uint64_t fingerprint(const float *values, int64_t count, int threads) {
  const int64_t chunks = (count + kChunk - 1) / kChunk;
  std::vector<uint64_t> found(chunks);
  const auto one = [&](int64_t i) {
    found[i] = of_chunk(values + i * kChunk, std::min(kChunk, count - i * kChunk));
  };
  if (threads == 1 || chunks < 2) {
    for (int64_t i = 0; i < chunks; i++) one(i);
  } else {
    Team team(static_cast<int>(std::min<int64_t>(threads, chunks)));
    team.run([&](Member member) { member.each(chunks, one); });
  }
  uint64_t all = mixed(kOdd, count);
  for (const uint64_t part : found) all = mixed(all, part);
  return all;
}

}  // namespace cagc
