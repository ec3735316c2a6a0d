// The threads of a team in a browser: Web Workers, each with an instance of the module that shares its memory and waits
// in cagc_web_worker(). It takes the place of csrc/cpu/team.cpp in the variant of csrc/web/build.py with threads.
//
// The page starts the workers, and waits until cagc_web_workers() counts them all, before it opens a generator. All
// generators of a page share them, and one draws at a time.
#include "../cpu/synthesis/team.h"
#include <algorithm>

namespace cagc {
namespace {

constexpr int kSpins = 50000;  // about 20 µs (0.35 ns each in V8, Zen 4), before a thread sleeps

// Returns when `word` is no longer `old`.
void wait_while(std::atomic<int> &word, int old) {
  for (int i = 0; i < kSpins; i++)
    if (word.load(std::memory_order_acquire) != old) return;
  while (word.load(std::memory_order_acquire) == old)
    __builtin_wasm_memory_atomic_wait32(reinterpret_cast<int *>(&word), old, -1);
}

void advance(std::atomic<int> &word) {
  word.fetch_add(1, std::memory_order_acq_rel);
  __builtin_wasm_memory_atomic_notify(reinterpret_cast<int *>(&word), 64);
}

// Of the parallel region that is open.
struct Region {
  void (*call)(void *body, Member) = nullptr;
  void *body = nullptr;
  Team *team = nullptr;
  int64_t threads = 0;
};

Region region;
alignas(64) std::atomic<int> opened{0};
alignas(64) std::atomic<int> workers{0};
alignas(64) std::atomic<int> left{0};    // how many workers have left the region
alignas(64) std::atomic<int> closed{0};  // regions that all workers have left

}  // namespace

struct Barrier::State {
  alignas(64) std::atomic<int> arrived{0};
  alignas(64) std::atomic<int> phase{0};
};

Barrier::Barrier() : state_(new State) {}
Barrier::~Barrier() = default;

void Barrier::wait(int64_t threads) {
  State &s = *state_;
  const int phase = s.phase.load(std::memory_order_acquire);
  if (s.arrived.fetch_add(1, std::memory_order_acq_rel) + 1 < threads) return wait_while(s.phase, phase);
  s.arrived.store(0, std::memory_order_relaxed);
  advance(s.phase);
}

struct Team::Crew {};

bool Team::available() { return true; }

Team::Team(int threads) : threads_(threads), shares_(threads) {}
Team::~Team() = default;

void Team::start(Call call, void *body) {
  const int present = workers.load(std::memory_order_acquire);
  const int64_t count = std::min<int64_t>(threads_, present + 1);
  if (count == 1) return call(body, {*this, 0, 1});
  region = {call, body, this, count};
  const int before = closed.load(std::memory_order_acquire);
  left.store(0, std::memory_order_relaxed);
  advance(opened);
  call(body, {*this, 0, count});
  wait_while(closed, before);
}

}  // namespace cagc

extern "C" {

// Runs the worker `number`, from 1 on, for ever.
void cagc_web_worker(int32_t number) {
  using namespace cagc;
  int seen = opened.load(std::memory_order_acquire);
  advance(workers);
  for (;;) {
    wait_while(opened, seen);
    seen++;  // no region opens before every worker has left the one before it
    if (number < region.threads) region.call(region.body, {*region.team, number, region.threads});
    if (left.fetch_add(1, std::memory_order_acq_rel) + 1 == workers.load(std::memory_order_relaxed)) advance(closed);
  }
}

int32_t cagc_web_workers(void) { return cagc::workers.load(std::memory_order_acquire); }
}
