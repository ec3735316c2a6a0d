// The two ways to start a team's threads, and the barrier of both.
#include "synthesis/team.h"
#if defined(_OPENMP)
#include <omp.h>
#endif
#if defined(_OPENMP) || defined(CAGC_STD_THREADS)
#define CAGC_THREADS 1
#include <condition_variable>
#include <mutex>
#include <system_error>
#include <thread>
#endif

namespace cagc {

bool Team::available() {
#if defined(CAGC_THREADS)
  return true;
#else
  return false;
#endif
}

#if defined(CAGC_THREADS)

namespace {

// Waking a thread that sleeps takes about as long.
constexpr std::chrono::microseconds kSpin{20};

void relax() {
#if defined(__x86_64__) || defined(__i386__)
  __builtin_ia32_pause();
#elif defined(__aarch64__)
  asm volatile("yield");
#endif
}

// Whether done() came true within kSpin.
template <class F> bool soon(F &&done) {
  const auto end = std::chrono::steady_clock::now() + kSpin;
  do {
    for (int i = 0; i < 16; i++) {
      if (done()) return true;
      relax();
    }
  } while (std::chrono::steady_clock::now() < end);
  return false;
}

// Sleeps until done() is true. In parts, because GCC 12 binds the unlimited wait to a symbol that older systems lack.
template <class F> void sleep(std::condition_variable &changed, std::mutex &mutex, F &&done) {
  std::unique_lock<std::mutex> lock(mutex);
  while (!changed.wait_for(lock, std::chrono::seconds(1), done)) {
  }
}

}  // namespace

struct Barrier::State {
  std::atomic<int64_t> arrived{0};
  alignas(64) std::atomic<unsigned> phase{0};
  std::mutex mutex;
  std::condition_variable changed;
};

Barrier::Barrier() : state_(new State) {}
Barrier::~Barrier() = default;

void Barrier::wait(int64_t threads) {
  State &s = *state_;
  const unsigned phase = s.phase.load(std::memory_order_acquire);
  const auto over = [&] { return s.phase.load(std::memory_order_acquire) != phase; };
  if (s.arrived.fetch_add(1, std::memory_order_acq_rel) + 1 == threads) {
    s.arrived.store(0, std::memory_order_relaxed);
    {
      const std::lock_guard<std::mutex> lock(s.mutex);
      s.phase.store(phase + 1, std::memory_order_release);
    }
    s.changed.notify_all();
  } else if (!soon(over)) {
    sleep(s.changed, s.mutex, over);
  }
}

#else

struct Barrier::State {};
Barrier::Barrier() = default;
Barrier::~Barrier() = default;
void Barrier::wait(int64_t) {}

#endif

#if defined(_OPENMP) || !defined(CAGC_THREADS)

struct Team::Crew {};

Team::Team(int threads) : threads_(threads), shares_(threads) {}

void Team::start(Call call, void *body) {
#if defined(_OPENMP)
  if (threads_ > 1) {
#pragma omp parallel num_threads(threads_)
    call(body, {*this, omp_get_thread_num(), omp_get_num_threads()});
    return;
  }
#endif
  call(body, {*this, 0, 1});
}

#else

// Threads of the team's own, which sleep between regions. They start with the first region.
struct Team::Crew {
  std::mutex mutex;
  std::condition_variable changed;
  std::atomic<unsigned> region{0};
  Call call = nullptr;  // null: the threads end
  void *body = nullptr;
  std::vector<std::thread> threads;

  void open(Call next, void *of) {
    {
      const std::lock_guard<std::mutex> lock(mutex);
      call = next, body = of;
      region.fetch_add(1, std::memory_order_release);
    }
    changed.notify_all();
  }

  void work(Team &team, int thread, unsigned seen) {
    for (;; seen++) {
      const auto opened = [&] { return region.load(std::memory_order_acquire) != seen; };
      if (!soon(opened)) sleep(changed, mutex, opened);
      if (!call) return;
      const int64_t count = threads.size() + 1;
      call(body, {team, thread, count});
      team.barrier_.wait(count);
    }
  }
};

Team::Team(int threads) : threads_(threads), shares_(threads) {}

void Team::start(Call call, void *body) {
  if (threads_ == 1) return call(body, {*this, 0, 1});
  if (!crew_) {
    crew_.reset(new Crew);
    crew_->threads.reserve(threads_ - 1);
    try {
      for (int i = 1; i < threads_; i++) crew_->threads.emplace_back([this, i] { crew_->work(*this, i, 0); });
    } catch (const std::system_error &) {  // the system gives no more
    }
  }
  const int64_t count = crew_->threads.size() + 1;
  crew_->open(call, body);
  call(body, {*this, 0, count});
  barrier_.wait(count);
}

#endif

Team::~Team() {
#if defined(CAGC_STD_THREADS) && !defined(_OPENMP)
  if (!crew_) return;
  crew_->open(nullptr, nullptr);
  for (std::thread &thread : crew_->threads) thread.join();
#endif
}

}  // namespace cagc
