// The emulator catches what it is there to catch: planted missing barriers, and accesses that a GPU would refuse.
#include "check.h"
#include "planted.h"
#include <cstring>
#include <numeric>
#include <set>
#include <string>
#include <vector>

using cagc::Fault;

namespace {

constexpr int kTiles = 5, kTile = 64, kSeeds = 8;

std::vector<float> mirror(const char *(*planted)(const float *, float *, int), uint64_t seed) {
  std::vector<float> x(kTiles * kTile), out(kTiles * kTile, -1.f);
  std::iota(x.begin(), x.end(), 1.f);
  cagc::emulator::set_seed(seed);
  const char *error = planted(x.data(), out.data(), kTiles);
  CHECK(!error, "%s", error);
  return out;
}

std::vector<float> expected() {
  std::vector<float> out(kTiles * kTile);
  for (int tile = 0; tile < kTiles; tile++)
    for (int i = 0; i < kTile; i++) out[tile * kTile + i] = 2 * tile * kTile + kTile + 1;  // x[i] + x[63 - i]
  return out;
}

std::string bytes(const std::vector<float> &v) {  // NaN equals itself
  return std::string(reinterpret_cast<const char *>(v.data()), v.size() * sizeof(float));
}

void test_a_missing_barrier_shows(const char *name, const char *(*planted)(const float *, float *, int)) {
  std::set<std::string> results;
  int wrong = 0;
  for (int seed = 0; seed < kSeeds; seed++) {
    const auto out = mirror(planted, seed);
    results.insert(bytes(out));
    wrong += out != expected();
  }
  CHECK(wrong == kSeeds, "%s: only %d of %d seeds differ from the right result", name, wrong, kSeeds);
  CHECK(results.size() >= kSeeds - 1, "%s: only %zu results over %d seeds", name, results.size(), kSeeds);
}

void test_fault(Fault fault, const char *text) {
  alignas(16) float out[kTile] = {};
  for (int seed = 0; seed < 2; seed++) {
    cagc::emulator::set_seed(seed);
    const char *error = cagc::faulty(fault, out);
    CHECK(text ? error && std::strstr(error, text) : !error, "got %s, expected %s", error ? error : "no error",
          text ? text : "none");
  }
}

}  // namespace

int main() {
  for (int seed = 0; seed < kSeeds; seed++) CHECK(mirror(cagc::planted_none, seed) == expected(), "seed %d", seed);
  test_a_missing_barrier_shows("before reading", cagc::planted_before_reading);
  test_a_missing_barrier_shows("before overwriting", cagc::planted_before_overwriting);
  test_fault(Fault::half_a_barrier, "32 of 64 threads reach a barrier");
  test_fault(Fault::two_barriers, "wait at the barriers of lines");
  test_fault(Fault::past_the_array, "index 64 leaves its array");
  test_fault(Fault::past_dynamic, "byte 256 of 256 bytes of dynamic shared memory");
  test_fault(Fault::misaligned, "misaligned address");
  test_fault(Fault::too_many_threads, "invalid configuration");
  test_fault(Fault::none, nullptr);
  return report("emulator");
}
