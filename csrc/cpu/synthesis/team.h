// The threads of a parallel region, and how a loop is shared among them.
#pragma once
#include <atomic>
#include <cstdint>
#include <omp.h>
#include <vector>

namespace cagc {

class Team {
 public:
  explicit Team(int threads) : shares_(threads) {}

  // Like a dynamic `omp for` with its barrier, except that each thread starts with its own share and then steals from
  // the others. It thus mostly reads what it wrote itself: reading cache lines that another core wrote is slow, most of
  // all across dies.
  template <class F> void each(int64_t count, F &&body) {
    const int64_t threads = omp_get_num_threads(), thread = omp_get_thread_num();
    Share &own = shares_[thread];
    const int turn = own.loops++ % 2;
    for (int64_t k = 0; k < threads; k++) {
      const int64_t t = (thread + k) % threads, begin = count * t / threads, end = count * (t + 1) / threads;
      for (int64_t i; (i = begin + shares_[t].taken[turn].fetch_add(1, std::memory_order_relaxed)) < end;) body(i);
    }
#pragma omp barrier
    own.taken[turn] = 0;  // no thread reads it before the barrier of the next loop
  }

 private:
  struct alignas(64) Share {
    std::atomic<int64_t> taken[2] = {};
    int64_t loops = 0;
  };
  std::vector<Share> shares_;
};

// Accumulates the seconds between laps per stage; with a null pointer it measures nothing.
class Clock {
 public:
  Clock(double *seconds, int64_t count) : seconds_(seconds), start_(omp_get_wtime()) {
    for (int64_t i = 0; seconds && i < count; i++) seconds[i] = 0;
  }

  void lap(int64_t i) {
    if (!seconds_) return;
    const double now = omp_get_wtime();
    seconds_[i] += now - start_;
    start_ = now;
  }

 private:
  double *seconds_, start_;
};

}  // namespace cagc
