// The threads that compute an image together, by OpenMP or, where the compiler was not given it, by std::thread
// (CAGC_STD_THREADS) or on the calling thread alone.
#pragma once
#include <atomic>
#include <chrono>
#include <cstdint>
#include <memory>
#include <type_traits>
#include <vector>
#include "pace.h"

namespace cagc {

// Threads that wait spin for a few microseconds and then sleep: on a machine that others use too, the one that they
// wait for may not be running.
class Barrier {
 public:
  Barrier();
  ~Barrier();
  void wait(int64_t threads);  // until as many have called it

 private:
  struct State;
  std::unique_ptr<State> state_;
};

class Team;

// One thread of a team, as the body of a parallel region sees it.
struct Member {
  Team &team;
  const int64_t thread, threads;  // as many as the system gave: at most those of the team

  // Calls body(0 .. count - 1), each once, by whichever thread is free, and returns when all have ended. Each thread
  // starts with its own share and then takes from the others: it thus mostly reads what it wrote itself. Reading cache
  // lines that another core wrote is slow, most of all across dies.
  template <class F> void each(int64_t count, F &&body);
};

class Team {
 public:
  explicit Team(int threads);
  ~Team();

  static bool available();  // whether teams of more than one thread can be had
  int threads() const { return threads_; }

  // Calls body(Member) on every thread of the team, the caller's among them.
  template <class F> void run(F &&body) {
    for (Share &share : shares_) share.loops = 0;  // the last region may have had fewer threads
    start([](void *f, Member member) { (*static_cast<std::remove_reference_t<F> *>(f))(member); }, &body);
  }

  // The same, on the caller's thread alone where `pace` says so.
  template <class F> void run(Pace &pace, F &&body) {
    if (threads_ == 1) return run(body);
    const auto start = std::chrono::steady_clock::now();
    if (pace.alone()) {
      shares_[0].loops = 0;
      body(Member{*this, 0, 1});
    } else {
      run(body);
    }
    pace.took(std::chrono::duration<double>(std::chrono::steady_clock::now() - start).count());
  }

 private:
  friend struct Member;
  struct alignas(64) Share {
    std::atomic<int64_t> taken[2] = {};
    int64_t loops = 0;
  };
  struct Crew;
  using Call = void (*)(void *body, Member);
  void start(Call call, void *body);

  const int threads_;
  std::vector<Share> shares_;
  Barrier barrier_;
  std::unique_ptr<Crew> crew_;  // of std::thread
};

template <class F> void Member::each(int64_t count, F &&body) {
  Team::Share &own = team.shares_[thread];
  const int turn = own.loops++ % 2;
  for (int64_t k = 0; k < threads; k++) {
    const int64_t t = (thread + k) % threads, begin = count * t / threads, end = count * (t + 1) / threads;
    for (int64_t i; (i = begin + team.shares_[t].taken[turn].fetch_add(1, std::memory_order_relaxed)) < end;) body(i);
  }
  if (threads > 1) team.barrier_.wait(threads);
  own.taken[turn] = 0;  // no thread reads it before the barrier of the next loop
}

// Accumulates the seconds between laps per stage; with a null pointer it measures nothing.
class Clock {
 public:
  Clock(double *seconds, int64_t count) : seconds_(seconds), start_(std::chrono::steady_clock::now()) {
    for (int64_t i = 0; seconds && i < count; i++) seconds[i] = 0;
  }

  void lap(int64_t i) {
    if (!seconds_) return;
    const auto now = std::chrono::steady_clock::now();
    seconds_[i] += std::chrono::duration<double>(now - start_).count();
    start_ = now;
  }

 private:
  double *seconds_;
  std::chrono::steady_clock::time_point start_;
};

}  // namespace cagc
