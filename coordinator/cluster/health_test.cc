#include "coordinator/cluster/health.h"

#include <gtest/gtest.h>

namespace lanyard::coordinator {
namespace {

const LoadFailure kWhy{Unavailable("disk full"), net::LoadCause::kDiskFull};

LoadFailure NotReached(const std::string& machine) {
  return {Unavailable("no answer"), net::LoadCause::kUnknown, machine};
}

TEST(MachineHealth, TwoFailuresInARowBenchAMachineForAMinuteThenForTwo) {
  MachineHealth health{{}};
  EXPECT_EQ(health.OnLoadFailed("w1", kWhy, 0), "");
  EXPECT_FALSE(health.Benched("w1", 0));
  const uint64_t before = health.revision();
  EXPECT_EQ(health.OnLoadFailed("w1", kWhy, kSecond), "w1");
  EXPECT_GT(health.revision(), before);
  EXPECT_TRUE(health.Benched("w1", 60 * kSecond));
  EXPECT_FALSE(health.Benched("w2", 60 * kSecond));
  const uint64_t benched = health.revision();
  health.OnTick(60 * kSecond);
  EXPECT_EQ(health.revision(), benched);
  health.OnTick(61 * kSecond);
  EXPECT_GT(health.revision(), benched);
  EXPECT_FALSE(health.Benched("w1", 61 * kSecond));
  // It is still not good: once is enough now, and it takes longer.
  EXPECT_EQ(health.OnLoadFailed("w1", kWhy, 100 * kSecond), "w1");
  EXPECT_TRUE(health.Benched("w1", 219 * kSecond));
  EXPECT_FALSE(health.Benched("w1", 220 * kSecond));
}

TEST(MachineHealth, ALossCountsHalfAsMuchAnHourLater) {
  MachineHealth health{{}};
  EXPECT_EQ(health.LossesLately("w1", 0), 0);
  health.OnLost("w1", kSecond);
  health.OnLost("w1", 3601 * kSecond);
  EXPECT_DOUBLE_EQ(health.LossesLately("w1", 3601 * kSecond), 1.5);
  EXPECT_DOUBLE_EQ(health.LossesLately("w1", 7201 * kSecond), 0.75);
  EXPECT_EQ(health.LossesLately("w2", 7201 * kSecond), 0);
  EXPECT_EQ(health.Find("w1")->losses, 2u);
  health.Forgive("w1");
  EXPECT_EQ(health.LossesLately("w1", 7201 * kSecond), 0);
}

TEST(MachineHealth, ServingForgetsFailures) {
  MachineHealth health{{}};
  health.OnLoadFailed("w1", kWhy, 0);
  health.OnServed("w1");
  EXPECT_EQ(health.OnLoadFailed("w1", kWhy, 1), "");
}

TEST(MachineHealth, WhoCannotBeReachedIsBlamedAndNotWhoTried) {
  MachineHealth health{{}};
  health.OnLoadFailed("w1", NotReached("w2"), 0);
  EXPECT_EQ(health.OnLoadFailed("w1", NotReached("w2"), 1), "w2");
  EXPECT_FALSE(health.Benched("w1", 2));
}

// A firewall in front of w1 itself: whoever comes after it seems to be unreachable.
TEST(MachineHealth, OneThatReachesNobodyIsToBlameItself) {
  MachineHealth health{{}};
  health.OnLoadFailed("w1", NotReached("w2"), 0);
  EXPECT_EQ(health.OnLoadFailed("w1", NotReached("w2"), 1), "w2");
  EXPECT_EQ(health.OnLoadFailed("w1", NotReached("w3"), 2), "");
  EXPECT_FALSE(health.Benched("w2", 3));
  EXPECT_EQ(health.OnLoadFailed("w1", NotReached("w2"), 3), "w1");
  EXPECT_TRUE(health.Benched("w1", 4));
}

TEST(MachineHealth, WhatPassesByItselfIsNotCounted) {
  MachineHealth health{{}};
  const LoadFailure again{Unavailable("the coordinator is busy"), net::LoadCause::kAgain};
  for (int i = 0; i < 10; ++i) EXPECT_EQ(health.OnLoadFailed("w1", again, i), "");
  EXPECT_FALSE(health.Benched("w1", 10));
  ASSERT_NE(health.Failing("w1"), nullptr);
  EXPECT_EQ(health.Failing("w1")->load_failures, 0u);
  EXPECT_EQ(health.OnLoadFailed("w1", kWhy, 11), "") << "the first one that counts";
  health.OnServed("w1");
  EXPECT_EQ(health.Failing("w1"), nullptr);
}

TEST(MachineHealth, RemembersTheCause) {
  MachineHealth health{{}};
  health.OnLoadFailed("w1", kWhy, 0);
  EXPECT_EQ(health.Find("w1")->cause, net::LoadCause::kDiskFull);
  EXPECT_EQ(health.Find("w1")->why, "disk full");
  health.OnLoadFailed("w2", NotReached("w3"), 0);
  EXPECT_EQ(health.Find("w3")->cause, net::LoadCause::kUnreachable);
  // Each cause has words of its own.
  std::set<std::string> ids, next;
  for (uint32_t i = 0; i <= 6; ++i) {
    const LoadCauseText text = TextOf(net::LoadCauseFromNumber(i));
    ids.insert(text.id);
    next.insert(text.next);
  }
  EXPECT_EQ(ids.size(), 7u);
  EXPECT_EQ(next.size(), 7u);
  EXPECT_EQ(net::LoadCauseFromNumber(99), net::LoadCause::kUnknown);
}

TEST(MachineHealth, ForgivenAtOnce) {
  MachineHealth health{{}};
  health.OnLoadFailed("w1", kWhy, 0);
  health.OnLoadFailed("w1", kWhy, 0);
  const uint64_t benched = health.revision();
  health.Forgive("w1");
  EXPECT_GT(health.revision(), benched);
  EXPECT_FALSE(health.Benched("w1", 1));
}

}  // namespace
}  // namespace lanyard::coordinator
