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

// An op lasts 5 to 500 us and the next follows at once, also from one step to the next when frames
// wait (stage::LastTokens); a sleep and a wake-up cost about 50 us on a virtual machine.
constexpr std::chrono::microseconds kSpin(200);

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

// `ticket` holds the epoch of the current job, whether it is closed, and how many workers joined
// it. Each thread that takes part claims the next index until there is none. The caller then closes
// the job and waits for the threads that joined, not for a worker that has not woken up yet: on a
// busy machine that would cost more than the work. Sleepers are counted, so that no thread takes
// the lock while all are spinning. Counter and ticket are sequentially consistent: either the waker
// sees the sleeper, or the sleeper sees the job.
struct ThreadPool::Impl {
  explicit Impl(int n)
      : n_threads(n), spin(n > UsableCpus() ? std::chrono::microseconds(0) : kSpin) {
    for (int i = 1; i < n; ++i) threads.emplace_back([this] { Work(); });
  }
  ~Impl() {
    stop.store(true);
    Publish(kClosed);
    for (std::thread& t : threads) t.join();
  }

  static constexpr uint64_t kJoined = 0xffff;
  static constexpr uint64_t kClosed = uint64_t{1} << 16;
  static constexpr int kEpochShift = 17;

  void Publish(uint64_t flags) {
    const uint64_t epoch = (ticket.load() >> kEpochShift) + 1;
    ticket.store(epoch << kEpochShift | flags);
    if (sleeping_workers.load() > 0) {
      { MutexLock lock(&mu); }  // for a worker between its last look and its sleep
      work_cv.NotifyAll();
    }
  }

  bool Join() {
    uint64_t seen = ticket.load();
    while ((seen & kClosed) == 0) {
      if (ticket.compare_exchange_weak(seen, seen + 1)) return true;
    }
    return false;
  }

  void Claim() {
    for (int i = next.fetch_add(1); i < n_threads; i = next.fetch_add(1)) (*job)(i, n_threads);
  }

  void Work() {
    uint64_t seen = 0;
    const auto changed = [&] { return ticket.load() >> kEpochShift != seen; };
    while (true) {
      if (!SpinUntil(spin, changed)) {
        sleeping_workers.fetch_add(1);
        {
          MutexLock lock(&mu);
          while (!changed()) work_cv.Wait(&mu);
        }
        sleeping_workers.fetch_sub(1);
      }
      seen = ticket.load() >> kEpochShift;
      if (stop.load()) return;
      if (!Join()) continue;
      Claim();
      // The caller may go on, and even destroy this, once it has seen the count; but it joins the
      // threads first.
      done.fetch_add(1);
      if (caller_sleeps.load()) {
        { MutexLock lock(&mu); }
        done_cv.NotifyAll();
      }
    }
  }

  void Run(const std::function<void(int, int)>& fn) {
    job = &fn;
    next.store(1);
    done.store(0);
    Publish(0);
    fn(0, n_threads);
    Claim();
    const auto joined = static_cast<int>(ticket.fetch_or(kClosed) & kJoined);
    const auto all_done = [&] { return done.load() == joined; };
    if (SpinUntil(spin, all_done)) return;
    caller_sleeps.store(true);
    {
      MutexLock lock(&mu);
      while (!all_done()) done_cv.Wait(&mu);
    }
    caller_sleeps.store(false);
  }

  const int n_threads;
  const std::chrono::microseconds spin;
  std::vector<std::thread> threads;
  // It is written while no job is open, and read by the threads that joined.
  const std::function<void(int, int)>* job = nullptr;
  alignas(64) std::atomic<uint64_t> ticket{kClosed};
  std::atomic<bool> stop{false};
  std::atomic<int> sleeping_workers{0};
  alignas(64) std::atomic<int> next{0};
  alignas(64) std::atomic<int> done{0};
  std::atomic<bool> caller_sleeps{false};
  Mutex mu;  // guards only the sleep itself
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
