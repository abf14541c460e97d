#include "engine/ops/thread_pool.h"

#include <sched.h>

#include <algorithm>
#include <atomic>
#include <chrono>
#include <thread>
#include <vector>

#include "base/mutex.h"

namespace lanyard::ops {
namespace {

// An op lasts 5 to 500 us and the next follows at once; a sleep and a wake-up cost about 50 us on a virtual machine.
constexpr std::chrono::microseconds kSpin(40);

int UsableCpus() {
  cpu_set_t set;
  if (sched_getaffinity(0, sizeof(set), &set) != 0) return 1;
  return std::max(1, CPU_COUNT(&set));
}

inline void Pause() {
#if defined(__x86_64__)
  __builtin_ia32_pause();
#endif
}

// Waits until done() or `limit` has passed; returns done().
template <typename Done>
bool SpinUntil(std::chrono::microseconds limit, const Done& done) {
  if (done()) return true;
  if (limit.count() == 0) return false;
  const auto end = std::chrono::steady_clock::now() + limit;
  do {
    for (int i = 0; i < 16; ++i) {
      if (done()) return true;
      Pause();
    }
  } while (std::chrono::steady_clock::now() < end);
  return done();
}

}  // namespace

// A job is published by raising `epoch`; every worker runs its share once an epoch and lowers `running`. Sleepers are
// counted, so that nobody takes the lock while all are spinning; the counter and the value waited for are both
// sequentially consistent, so either the waker sees the sleeper or the sleeper sees the value.
struct ThreadPool::Impl {
  explicit Impl(int n) : n_threads(n), spin(n > UsableCpus() ? std::chrono::microseconds(0) : kSpin) {
    for (int i = 1; i < n; ++i) threads.emplace_back([this, i] { Work(i); });
  }
  ~Impl() {
    stop.store(true);
    Raise();
    for (std::thread& t : threads) t.join();
  }

  void Raise() {
    epoch.fetch_add(1);
    if (sleeping_workers.load() > 0) {
      MutexLock lock(&mu);
      work_cv.NotifyAll();
    }
  }

  void Work(int index) {
    uint64_t seen = 0;
    while (true) {
      if (!SpinUntil(spin, [&] { return epoch.load() != seen; })) {
        sleeping_workers.fetch_add(1);
        {
          MutexLock lock(&mu);
          while (epoch.load() == seen) work_cv.Wait(&mu);
        }
        sleeping_workers.fetch_sub(1);
      }
      ++seen;
      if (stop.load()) return;
      (*job)(index, n_threads);
      if (running.fetch_sub(1) == 1 && caller_sleeps.load()) {
        MutexLock lock(&mu);
        done_cv.NotifyAll();
      }
    }
  }

  void Run(const std::function<void(int, int)>& fn) {
    job = &fn;
    running.store(n_threads - 1);
    Raise();
    fn(0, n_threads);
    if (SpinUntil(spin, [&] { return running.load() == 0; })) return;
    caller_sleeps.store(true);
    {
      MutexLock lock(&mu);
      while (running.load() != 0) done_cv.Wait(&mu);
    }
    caller_sleeps.store(false);
  }

  const int n_threads;
  const std::chrono::microseconds spin;
  std::vector<std::thread> threads;
  // Written before epoch is raised, read after it was seen.
  const std::function<void(int, int)>* job = nullptr;
  alignas(64) std::atomic<uint64_t> epoch{0};
  std::atomic<bool> stop{false};
  std::atomic<int> sleeping_workers{0};
  alignas(64) std::atomic<int> running{0};
  std::atomic<bool> caller_sleeps{false};
  Mutex mu;  // guards nothing but the sleep itself
  CondVar work_cv;
  CondVar done_cv;
};

ThreadPool::ThreadPool(int n_threads) : impl_(std::make_unique<Impl>(std::max(1, n_threads))) {}
ThreadPool::~ThreadPool() = default;

int ThreadPool::size() const { return impl_->n_threads; }

void ThreadPool::Run(const std::function<void(int, int)>& fn) {
  if (impl_->n_threads == 1) {
    fn(0, 1);
    return;
  }
  impl_->Run(fn);
}

void ThreadPool::For(int64_t n, int64_t grain, const std::function<void(int64_t, int64_t)>& fn) {
  if (n <= 0) return;
  grain = std::max<int64_t>(1, grain);
  if (impl_->n_threads == 1 || n <= grain) {
    fn(0, n);
    return;
  }
  std::atomic<int64_t> next{0};
  Run([&](int, int) {
    while (true) {
      const int64_t begin = next.fetch_add(grain, std::memory_order_relaxed);
      if (begin >= n) return;
      fn(begin, std::min(n, begin + grain));
    }
  });
}

}  // namespace lanyard::ops
