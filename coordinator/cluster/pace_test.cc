#include "coordinator/cluster/pace.h"

#include <gtest/gtest.h>

namespace lanyard::coordinator {
namespace {

class PaceTest : public ::testing::Test {
 protected:
  // Stages of `ms` each, as predicted with what is known of the machines now.
  void Plan(const std::vector<double>& ms) {
    std::vector<sharding::PlannedStage> stages;
    for (size_t i = 0; i < ms.size(); ++i) {
      sharding::PlannedStage& stage = stages.emplace_back();
      stage.machine = Name(i);
      stage.slowness = pace_.Slowness(stage.machine);
      stage.ms_per_token = ms[i] * stage.slowness;
    }
    pace_.OnPlan(stages);
  }
  // So many frames, of `ms` on each machine; a heartbeat every 250 ms.
  void Run(uint64_t frames, const std::vector<double>& ms) {
    for (uint64_t done = 0; done <= frames; done += 2) {
      now_ += kSecond / 4;
      frames_ += 2;
      for (size_t i = 0; i < ms.size(); ++i)
        pace_.OnHeartbeat(Name(i), {0, 2 * ms[i] / 250, frames_}, now_);
    }
  }
  static std::string Name(size_t i) { return "w" + std::to_string(i + 1); }

  Pace pace_{{}};
  TimeNs now_ = kSecond;
  uint64_t frames_ = 0;
};

TEST_F(PaceTest, AStragglerIsMeasuredAgainstTheOthers) {
  Plan({10, 10, 20});
  Run(198, {30, 90, 60});
  EXPECT_EQ(pace_.revision(), 0u);  // not yet
  Run(10, {30, 90, 60});
  EXPECT_EQ(pace_.revision(), 1u);
  EXPECT_NEAR(pace_.Slowness("w2"), 3, 0.01);
  EXPECT_EQ(pace_.Slowness("w1"), 1);  // all of them take three times what was predicted
  EXPECT_EQ(pace_.Slowness("w3"), 1);
  EXPECT_EQ(pace_.Slowness("w9"), 1);
}

TEST_F(PaceTest, UnevennessIsNoStraggler) {
  Plan({10, 10, 1});
  Run(300, {10, 19, 8});  // the short stage misses its prediction, and holds nobody up
  EXPECT_EQ(pace_.revision(), 0u);
  Plan({10});
  Run(300, {90});  // alone there is nothing to measure it against
  EXPECT_EQ(pace_.revision(), 0u);
}

TEST_F(PaceTest, WithLessToDoItIsAStragglerStillUntilItIsAsFastAsItsSpeed) {
  Plan({10, 10, 10});
  Run(210, {10, 10, 40});
  ASSERT_NEAR(pace_.Slowness("w3"), 4, 0.01);
  Plan({13, 13, 3});
  Run(300, {13, 13, 12});
  EXPECT_NEAR(pace_.Slowness("w3"), 4, 0.01);
  EXPECT_EQ(pace_.revision(), 1u);
  Run(300, {13, 13, 3});
  EXPECT_EQ(pace_.Slowness("w3"), 1);
  EXPECT_EQ(pace_.revision(), 2u);
}

// A worker that was started again counts its frames from 0.
TEST_F(PaceTest, ARestartIsNoNegativeWork) {
  Plan({10, 10});
  Run(100, {10, 10});
  frames_ = 0;
  Run(300, {10, 10});
  EXPECT_EQ(pace_.revision(), 0u);
}

}  // namespace
}  // namespace lanyard::coordinator
