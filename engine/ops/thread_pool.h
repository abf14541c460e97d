// Fork-join over a fixed set of threads; ops are short, so workers spin briefly before they sleep.
#pragma once

#include <cstdint>
#include <functional>
#include <memory>

namespace lanyard::ops {

class ThreadPool {
 public:
  // n_threads >= 1, the caller's own thread included.
  explicit ThreadPool(int n_threads);
  ~ThreadPool();
  ThreadPool(const ThreadPool&) = delete;
  ThreadPool& operator=(const ThreadPool&) = delete;

  int size() const;
  // Calls fn(i, size()) once for every i in [0, size()); returns when all are done. The caller runs
  // i = 0, and those that no thread has begun when it is through: fn must not wait for another i.
  // Not re-entrant; one caller at a time.
  void Run(const std::function<void(int, int)>& fn);
  // Splits [0, n) into units of `grain`, dealt dynamically; fn(begin, end).
  void For(int64_t n, int64_t grain, const std::function<void(int64_t, int64_t)>& fn);

 private:
  struct Impl;
  std::unique_ptr<Impl> impl_;
};

}  // namespace lanyard::ops
