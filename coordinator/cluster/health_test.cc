#include "coordinator/cluster/health.h"

#include <gtest/gtest.h>

namespace lanyard::coordinator {
namespace {

const absl::Status kWhy = Unavailable("disk full");

TEST(MachineHealth, TwoFailuresInARowBenchAMachineForAMinuteThenForTwo) {
  MachineHealth health{{}};
  EXPECT_EQ(health.OnLoadFailed("w1", "", kWhy, 0), "");
  EXPECT_FALSE(health.Benched("w1", 0));
  const uint64_t before = health.revision();
  EXPECT_EQ(health.OnLoadFailed("w1", "", kWhy, kSecond), "w1");
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
  EXPECT_EQ(health.OnLoadFailed("w1", "", kWhy, 100 * kSecond), "w1");
  EXPECT_TRUE(health.Benched("w1", 219 * kSecond));
  EXPECT_FALSE(health.Benched("w1", 220 * kSecond));
}

TEST(MachineHealth, ServingForgetsFailures) {
  MachineHealth health{{}};
  health.OnLoadFailed("w1", "", kWhy, 0);
  health.OnServed("w1");
  EXPECT_EQ(health.OnLoadFailed("w1", "", kWhy, 1), "");
}

TEST(MachineHealth, WhoCannotBeReachedIsBlamedAndNotWhoTried) {
  MachineHealth health{{}};
  health.OnLoadFailed("w1", "w2", kWhy, 0);
  EXPECT_EQ(health.OnLoadFailed("w1", "w2", kWhy, 1), "w2");
  EXPECT_FALSE(health.Benched("w1", 2));
}

// A firewall in front of w1 itself: whoever comes after it seems to be unreachable.
TEST(MachineHealth, OneThatReachesNobodyIsToBlameItself) {
  MachineHealth health{{}};
  health.OnLoadFailed("w1", "w2", kWhy, 0);
  EXPECT_EQ(health.OnLoadFailed("w1", "w2", kWhy, 1), "w2");
  EXPECT_EQ(health.OnLoadFailed("w1", "w3", kWhy, 2), "");
  EXPECT_FALSE(health.Benched("w2", 3));
  EXPECT_EQ(health.OnLoadFailed("w1", "w2", kWhy, 3), "w1");
  EXPECT_TRUE(health.Benched("w1", 4));
}

TEST(MachineHealth, ForgivenAtOnce) {
  MachineHealth health{{}};
  health.OnLoadFailed("w1", "", kWhy, 0);
  health.OnLoadFailed("w1", "", kWhy, 0);
  const uint64_t benched = health.revision();
  health.Forgive("w1");
  EXPECT_GT(health.revision(), benched);
  EXPECT_FALSE(health.Benched("w1", 1));
}

}  // namespace
}  // namespace lanyard::coordinator
