// What a pool machine does when workers are drained.
#include "coordinator/pool.h"
#include "coordinator/testing/pool_fixture.h"

namespace lanyard::coordinator {
namespace {

using ::testing::HasSubstr;

class DrainTest : public PoolTest {
 protected:
  DrainTest() {
    options_.deployment.rollout.expect_workers = 0;
    options_.deployment.rollout.improve_every = 0;
    make_plan_ = [this](const sharding::PlanRequest& request) {
      sharding::Plan plan;
      plan.context = context_;
      plan.group_blocks = {16};
      plan.fits = request.machines.size() >= 2;
      if (!plan.fits) plan.why = {"4 layers of 10 MiB need 2 machines, 1 is there"};
      if (plan.fits) AddStages(request, 2, &plan);
      return absl::StatusOr<sharding::Plan>(plan);
    };
    options_.deployment.pipeline.first_timeout = 1000 * kSecond;
    options_.deployment.pipeline.step_timeout = 1000 * kSecond;
    pool_ = std::make_unique<PoolMachine>(options_);
  }
  void Pass(TimeNs time, std::initializer_list<uint64_t> links = {1, 2, 3}) {
    for (const TimeNs end = now_ + time; now_ < end;) {
      now_ += 50 * kMillisecond;
      Beat(links);
      Tick();
      pool_->Pump(now_);
    }
  }
  void ServeWithSpare() {
    for (uint64_t link : {1, 2, 3}) Join(link, absl::StrCat("w", link));
    Pass(2 * kSecond);
    Ready(1);
    Ready(2);
    ASSERT_TRUE(pool_->serving());
  }
  std::string StateOf(size_t node) { return pool_->Status(now_).nodes[node].state; }
  std::string WhyOf(size_t node) { return pool_->Status(now_).nodes[node].why; }

  uint32_t context_ = 256;
};

TEST_F(DrainTest, AnIdlePoolMovesAtOnceAndComesBackAfterUndrain) {
  ServeWithSpare();
  const Epoch epoch = pool_->rollout().epoch();
  TakeAll();
  ASSERT_TRUE(Drain("w2").ok());
  ASSERT_TRUE(Drain("w2").ok());
  EXPECT_EQ(StateOf(1), "draining");
  Pass(50 * kMillisecond);
  EXPECT_EQ(StateOf(1), "drained");
  EXPECT_GT(pool_->rollout().epoch(), epoch);
  bool released = false;
  for (const PoolAction::Any& action : TakeAll()) {
    if (const auto* assign = std::get_if<PoolAction::Assign>(&action)) {
      EXPECT_NE(assign->link, net::LinkId(2));
    }
    const auto* release = std::get_if<PoolAction::Release>(&action);
    released = released || (release != nullptr && release->link == net::LinkId(2));
  }
  EXPECT_TRUE(released);
  Ready(1);
  Ready(3);
  ASSERT_TRUE(pool_->serving());
  // Nothing hangs on it, and it stays out when it comes again.
  pool_->OnWorkerGone(net::LinkId(2), Unavailable("reset"), now_);
  EXPECT_TRUE(pool_->serving());
  EXPECT_EQ(pool_->Status(now_).nodes.back().state, "lost");
  EXPECT_TRUE(pool_->Status(now_).nodes.back().drained);
  Join(4, "w2");
  Pass(10 * kSecond, {1, 3, 4});
  EXPECT_EQ(StateOf(1), "drained");
  // The others alone are too few for another drain; the arithmetic is the planner's.
  const absl::Status refused = Drain("w3");
  EXPECT_TRUE(absl::IsFailedPrecondition(refused));
  EXPECT_THAT(std::string(refused.message()),
              HasSubstr("4 layers of 10 MiB need 2 machines, 1 is there"));
  EXPECT_THAT(std::string(refused.message()), HasSubstr("node drain --disable w2"));
  EXPECT_TRUE(pool_->serving());
  EXPECT_EQ(StateOf(2), "ready");
  pool_->Undrain("w2", now_);
  EXPECT_EQ(StateOf(1), "joined");
  EXPECT_TRUE(Drain("w3").ok());
}

// A worker without layers always says who left it out, and one with layers says nothing.
TEST_F(DrainTest, WhoHasNoLayersSaysWhy) {
  const auto check = [&](const char* when) {
    for (const NodeStatus& node : pool_->Status(now_).nodes) {
      const bool used = node.has_stage && !node.drained;
      EXPECT_EQ(node.why.empty(), used) << when << ": " << node.name << ": " << node.why;
    }
  };
  Join(1, "w1");
  check("waiting");
  EXPECT_THAT(WhyOf(0), HasSubstr("nothing is served now"));
  for (uint64_t link : {2, 3}) Join(link, absl::StrCat("w", link));
  Pass(2 * kSecond);
  check("loading");
  EXPECT_THAT(WhyOf(2), HasSubstr("the plan that is being loaded does without it"));
  Ready(1);
  Ready(2);
  ASSERT_TRUE(pool_->serving());
  Pass(10 * kSecond);
  check("serving");
  EXPECT_THAT(WhyOf(2), HasSubstr("no plan with it is enough better"));
  ASSERT_TRUE(Drain("w2").ok());
  EXPECT_THAT(WhyOf(1), HasSubstr("an administrator drained it, and its layers go to other"));
  Pass(50 * kMillisecond);
  check("drained");
  EXPECT_THAT(WhyOf(1), HasSubstr("`lanyard node drain --disable w2` takes it back"));
  Ready(1);
  Ready(3);
  pool_->Undrain("w2", now_);
  EXPECT_EQ(StateOf(1), "joined");
  check("taken back");
  EXPECT_THAT(WhyOf(1), HasSubstr("soon looks whether a plan with it is better"));
  Pass(10 * kSecond);
  check("spare");
  EXPECT_THAT(WhyOf(1), HasSubstr("takes over when a worker that has layers leaves"));
}

TEST_F(DrainTest, WhatRunsEndsFirstAndWhatComesWaits) {
  ServeWithSpare();
  SubmitOne();
  ASSERT_TRUE(Drain("w2").ok());
  Pass(kSecond);
  EXPECT_TRUE(pool_->serving());
  SequenceSpec second;
  second.id = SeqId(2);
  second.prompt = {1, 2};
  second.max_tokens = 5;
  ASSERT_TRUE(pool_->Submit(second, now_).ok());
  Pass(kSecond);
  EXPECT_EQ(pool_->scheduler().n_waiting(), 1u);
  stage::StepResult result;
  result.plan = pool_->rollout().plan_id();
  result.epoch = pool_->rollout().epoch();
  result.step = StepId(1);
  result.stage = 1;
  result.worker = "w2";
  result.tokens.push_back({SeqId(1), 2, 5, 0, 0, {}, {}});
  pool_->Cancel(SeqId(1));
  pool_->OnResult(result, now_);
  Pass(50 * kMillisecond);
  EXPECT_FALSE(pool_->serving());
  SequenceSpec third = second;
  third.id = SeqId(3);
  EXPECT_TRUE(pool_->Submit(third, now_).ok());  // also while the layers move
  Pass(2 * DeploymentOptions().queue_timeout);   // a slow load ends no request
  Ready(1);
  Ready(3);
  ASSERT_TRUE(pool_->serving());
  Pass(100 * kMillisecond);
  EXPECT_EQ(pool_->scheduler().n_running(), 2u);
  EXPECT_TRUE(Take<PoolAction::Fail>().empty());
}

TEST_F(DrainTest, WhatRunsOnIsCarriedOver) {
  ServeWithSpare();
  SubmitOne();
  ASSERT_TRUE(Drain("w2").ok());
  Pass(DeploymentOptions().drain_patience - 100 * kMillisecond);
  EXPECT_TRUE(pool_->serving());
  Pass(200 * kMillisecond);
  EXPECT_FALSE(pool_->serving());
  TakeAll();
  Ready(1);
  Ready(3);
  Pass(100 * kMillisecond);
  const auto actions = Take<PoolAction::Send>();
  ASSERT_EQ(actions.size(), 1u);  // its tokens again, from the first
  EXPECT_EQ(actions[0].frame.batch.TotalRows(), 3u);
  EXPECT_EQ(pool_->scheduler().n_running(), 1u);
}

TEST_F(DrainTest, WhatDoesNotLoadElsewhereStays) {
  ServeWithSpare();
  SubmitOne();
  ASSERT_TRUE(Drain("w2").ok());
  Pass(DeploymentOptions().drain_patience + 100 * kMillisecond);
  ASSERT_FALSE(pool_->serving());
  pool_->OnWorkerEvent(net::LinkId(3),
                       net::StageFailed{pool_->rollout().plan_id(), pool_->rollout().epoch(),
                                        absl::DataLossError("bad disk")},
                       now_);
  Pass(kSecond);
  Ready(1);
  Ready(2);
  ASSERT_TRUE(pool_->serving());
  Pass(20 * kSecond);
  EXPECT_TRUE(pool_->serving());  // not tried again and again
  EXPECT_EQ(StateOf(1), "draining");
  EXPECT_EQ(pool_->scheduler().n_running(), 1u);
  EXPECT_TRUE(Take<PoolAction::Fail>().empty());
  Join(4, "w4");  // it may be able to
  Pass(DeploymentOptions().drain_patience + 100 * kMillisecond, {1, 2, 3, 4});
  EXPECT_FALSE(pool_->serving());
  EXPECT_EQ(StateOf(1), "drained");
}

TEST_F(DrainTest, NobodyIsCarriedIntoAShorterContext) {
  ServeWithSpare();
  SubmitOne();
  context_ = 128;
  ASSERT_TRUE(Drain("w2").ok());
  Pass(20 * DeploymentOptions().drain_patience);
  EXPECT_TRUE(pool_->serving());
  EXPECT_EQ(StateOf(1), "draining");
  pool_->Undrain("w2", now_);
  EXPECT_EQ(StateOf(1), "ready");
}

TEST_F(DrainTest, WhoWasDrainedInAnEarlierLifeIsNotWaitedFor) {
  options_.deployment.rollout.expect_workers = 3;
  options_.drained = {"w1"};
  pool_ = std::make_unique<PoolMachine>(options_);
  for (uint64_t link : {1, 2}) Join(link, absl::StrCat("w", link));
  Pass(2 * kSecond, {1, 2});
  EXPECT_EQ(pool_->rollout().why(), "1 of 2 workers have joined");
  Join(3, "w3");
  EXPECT_EQ(pool_->rollout().state(), RolloutState::kLoading);
  EXPECT_EQ(StateOf(0), "drained");
}

// A worker that is lost in the middle of an answer, again and again: the guard ends a request that
// may be the reason, and no other.

}  // namespace
}  // namespace lanyard::coordinator
