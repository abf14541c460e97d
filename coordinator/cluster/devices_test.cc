// What a worker's cards have for stages changes while it is in the pool: the next plan is made of
// it.
#include <gtest/gtest.h>

#include "base/version.h"
#include "coordinator/cluster/rollout.h"

namespace lanyard::coordinator {
namespace {

constexpr uint64_t kMiB = 1 << 20;

class DevicesTest : public ::testing::Test {
 protected:
  DevicesTest() {
    RolloutOptions options;
    options.expect_workers = 1;
    make_plan_ = [this](const sharding::PlanRequest& request) {
      seen_.push_back(
          request.machines.at(0).devices.empty() ? 0 : request.machines[0].devices[0].memory_bytes);
      sharding::Plan plan;
      plan.fits = seen_.back() >= 100 * kMiB;
      plan.why = {"the card is too small"};
      plan.context = 256;
      plan.group_blocks = {16};
      plan.stages.push_back({.machine = "w1",
                             .device = "cuda:0+cpu",
                             .layers = {0, 2},
                             .embeds = true,
                             .samples = true});
      return absl::StatusOr<sharding::Plan>(plan);
    };
    rollout_ = std::make_unique<Rollout>(options);
    net::WorkerHello hello;
    hello.name = "w1";
    hello.version = kVersion;
    hello.protocol = kProtocolVersion;
    hello.stage_address = "w1:7";
    hello.memory_bytes = 1 << 30;
    hello.devices = {{"cuda", "cuda:0", "a card", 400 * kMiB, 20}};
    EXPECT_TRUE(members_.OnHello(kLink, hello, now_).status.ok());
    rollout_->OnJoined("w1", now_);
  }
  void Tell(uint64_t bytes) {
    members_.OnDevices(kLink, {{{"cuda", "cuda:0", "a card", bytes, 20}}});
    ++revision_;
  }
  ClusterView View() { return {members_, drained_, health_, revision_}; }
  // Plans are made at once.
  RolloutActions Poll(TimeNs now) {
    RolloutActions actions = rollout_->Poll(View(), now);
    if (!actions.plan) return actions;
    const PlanJob job = *actions.plan;
    return rollout_->OnPlanned(job.id, make_plan_(job.request), View(), now);
  }
  // The stage could not be made ready; the next attempt, after the wait.
  RolloutActions FailAndTryAgain() {
    rollout_->OnFailed(kLink,
                       {rollout_->plan_id(), rollout_->epoch(), ResourceExhausted("no room")},
                       View(), now_);
    now_ += 60 * kSecond;
    members_.OnMessage(kLink, now_);
    return Poll(now_);
  }

  const net::LinkId kLink{1};
  TimeNs now_ = kSecond;
  std::vector<uint64_t> seen_;
  Membership members_{MembershipOptions{}};
  const std::set<std::string> drained_;
  const MachineHealth health_{{}};
  uint64_t revision_ = 1;
  std::function<absl::StatusOr<sharding::Plan>(const sharding::PlanRequest&)> make_plan_;
  std::unique_ptr<Rollout> rollout_;
};

TEST_F(DevicesTest, ACardThatHasLessIsPlannedByWhatItHas) {
  EXPECT_EQ(Poll(now_).assign.size(), 1u);
  ASSERT_EQ(seen_, std::vector<uint64_t>{400 * kMiB});
  Tell(390 * kMiB);
  EXPECT_EQ(FailAndTryAgain().assign.size(), 1u);
  EXPECT_EQ(seen_.size(), 1u) << "the old plan is good enough";
  Tell(200 * kMiB);
  EXPECT_EQ(FailAndTryAgain().assign.size(), 1u);
  ASSERT_EQ(seen_.size(), 2u);
  EXPECT_EQ(seen_[1], 200 * kMiB);
}

TEST_F(DevicesTest, WhatDidNotFitIsTriedAgainWhenACardHasMore) {
  Tell(50 * kMiB);
  EXPECT_TRUE(Poll(now_).assign.empty());
  EXPECT_EQ(rollout_->state(), RolloutState::kNoFit);
  EXPECT_TRUE(Poll(now_ + kSecond).assign.empty());
  EXPECT_EQ(seen_.size(), 1u);
  Tell(150 * kMiB);
  EXPECT_EQ(Poll(now_ + 2 * kSecond).assign.size(), 1u);
}

}  // namespace
}  // namespace lanyard::coordinator
