// Fork-join over a fixed set of threads. Ops are short, so workers spin briefly before they sleep.
#pragma once

#include <cstdint>
#include <functional>
#include <memory>

namespace lanyard::ops {

class ThreadPool {
 public:
  // n_threads is at least 1 and counts the caller's own thread.
  explicit ThreadPool(int n_threads);
  ~ThreadPool();
  ThreadPool(const ThreadPool&) = delete;
  ThreadPool& operator=(const ThreadPool&) = delete;

  int size() const;
  // Calls fn(i, size()) once for every i in [0, size()) and returns when all are done. The caller
  // runs i = 0, and then those that no thread has begun: fn must not wait for another i. It is not
  // re-entrant, and there may be one caller at a time.
  void Run(const std::function<void(int, int)>& fn);
  // Splits [0, n) into units of `grain`, which are dealt dynamically, and calls fn(begin, end).
  void For(int64_t n, int64_t grain, const std::function<void(int64_t, int64_t)>& fn);

 private:
  struct Impl;
  std::unique_ptr<Impl> impl_;
};

}  // namespace lanyard::ops
