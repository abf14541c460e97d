#include "engine/ops/thread_pool.h"

#include <gtest/gtest.h>

#include <atomic>
#include <chrono>
#include <numeric>
#include <thread>
#include <vector>

namespace lanyard::ops {
namespace {

TEST(ThreadPool, RunCallsEachIndexOnce) {
  for (int n : {1, 2, 3, 5}) {
    ThreadPool pool(n);
    ASSERT_EQ(pool.size(), n);
    for (int job = 0; job < 200; ++job) {
      std::vector<int> calls(static_cast<size_t>(n), 0);
      pool.Run([&](int i, int of) {
        EXPECT_EQ(of, n);
        ++calls[static_cast<size_t>(i)];
      });
      for (int c : calls) ASSERT_EQ(c, 1);
    }
  }
}

TEST(ThreadPool, CallerRunsIndexZero) {
  ThreadPool pool(3);
  std::thread::id zero;
  pool.Run([&](int i, int) {
    if (i == 0) zero = std::this_thread::get_id();
  });
  EXPECT_EQ(zero, std::this_thread::get_id());
}

TEST(ThreadPool, ForCoversTheRangeOnce) {
  ThreadPool pool(3);
  for (int64_t n : {0, 1, 2, 7, 64, 1000}) {
    for (int64_t grain : {0, 1, 3, 64, 5000}) {
      std::vector<int> hits(static_cast<size_t>(n), 0);
      pool.For(n, grain, [&](int64_t begin, int64_t end) {
        ASSERT_LT(begin, end);
        for (int64_t i = begin; i < end; ++i) ++hits[static_cast<size_t>(i)];
      });
      for (int h : hits) ASSERT_EQ(h, 1) << n << " by " << grain;
    }
  }
}

// Writes of one job are seen by the next one, on whatever thread it runs.
TEST(ThreadPool, JobsFollowEachOther) {
  ThreadPool pool(2);
  std::vector<int64_t> values(64, 0);
  for (int job = 0; job < 3000; ++job) {
    pool.For(64, 8, [&](int64_t begin, int64_t end) {
      for (int64_t i = begin; i < end; ++i)
        values[static_cast<size_t>(i)] += values[static_cast<size_t>(i)] + 1 - job;
    });
    pool.For(64, 8, [&](int64_t begin, int64_t end) {
      for (int64_t i = begin; i < end; ++i) values[static_cast<size_t>(i)] = job + 1;
    });
  }
  for (int64_t v : values) EXPECT_EQ(v, 3000);
}

TEST(ThreadPool, WakesThreadsThatWentToSleep) {
  ThreadPool pool(4);
  for (int job = 0; job < 20; ++job) {
    std::this_thread::sleep_for(std::chrono::milliseconds(2));  // longer than they spin
    std::atomic<int> calls{0};
    pool.Run([&](int i, int) {
      // The caller gives the others time to begin, then waits for the longest of them until it
      // sleeps, too.
      if (i == 0) std::this_thread::sleep_for(std::chrono::milliseconds(2));
      if (i == 3) std::this_thread::sleep_for(std::chrono::milliseconds(4));
      calls.fetch_add(1);
    });
    ASSERT_EQ(calls.load(), 4);
  }
}

TEST(ThreadPool, PoolsSideBySide) {
  std::vector<std::thread> callers;
  std::atomic<int64_t> total{0};
  for (int i = 0; i < 3; ++i) {
    callers.emplace_back([&] {
      ThreadPool pool(2);
      for (int job = 0; job < 200; ++job) {
        pool.For(100, 7, [&](int64_t begin, int64_t end) { total.fetch_add(end - begin); });
      }
    });
  }
  for (std::thread& t : callers) t.join();
  EXPECT_EQ(total.load(), 3 * 200 * 100);
}

TEST(ThreadPool, StartsAndStopsWithoutWork) {
  for (int i = 0; i < 50; ++i) ThreadPool pool(3);
}

}  // namespace
}  // namespace lanyard::ops
