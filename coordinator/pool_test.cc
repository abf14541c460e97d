// The pool machine as a whole, where its parts meet; tests/sim drives it through thousands of
// lives.
#include "coordinator/pool.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include "base/version.h"

namespace lanyard::coordinator {
namespace {

using ::testing::HasSubstr;

class PoolTest : public ::testing::Test {
 protected:
  PoolTest() {
    auto manifest = std::make_shared<model::Manifest>();
    manifest->shape.n_layers = 4;
    manifest->shape.n_vocab = 100;
    manifest->shape.groups = {{model::StateKind::kFull, 0, {0, 1, 2, 3}}};
    PoolOptions& options = options_;
    options.placement.manifest = manifest;
    options.placement.context = 256;
    options.placement.expect_workers = 2;
    options.placement.make_plan = [](const sharding::PlanRequest& request) {
      sharding::Plan plan;
      plan.context = 256;
      plan.group_blocks = {16};
      plan.fits = request.machines.size() == 2;
      plan.why = {"two machines are needed"};
      for (uint32_t i = 0; i < request.machines.size(); ++i) {
        plan.stages.push_back({.machine = request.machines[i].name,
                               .device = "cpu",
                               .layers = {2 * i, 2 * i + 2},
                               .embeds = i == 0,
                               .samples = i == 1});
      }
      return absl::StatusOr<sharding::Plan>(plan);
    };
    pool_ = std::make_unique<PoolMachine>(options);
  }

  void Join(uint64_t link, const std::string& name) {
    net::WorkerHello hello;
    hello.name = name;
    hello.version = kVersion;
    hello.protocol = kProtocolVersion;
    hello.stage_address = name + ":7";
    hello.memory_bytes = 1 << 30;
    pool_->OnWorkerEvent(net::LinkId(link), hello, now_);
  }
  void Ready(uint64_t link) {
    net::StageReady ready;
    ready.plan = pool_->placement().plan_id();
    ready.epoch = pool_->placement().epoch();
    pool_->OnWorkerEvent(net::LinkId(link), ready, now_);
  }
  void Serve() {
    Join(1, "w1");
    Join(2, "w2");
    Ready(1);
    Ready(2);
    ASSERT_TRUE(pool_->serving());
  }
  void Beat(std::initializer_list<uint64_t> links) {
    for (const uint64_t link : links) {
      pool_->OnWorkerEvent(net::LinkId(link), net::Heartbeat{}, now_);
    }
  }
  template <typename A>
  std::vector<A> Take() {
    std::vector<A> out;
    for (PoolAction::Any& action : pool_->TakeActions()) {
      if (auto* a = std::get_if<A>(&action)) out.push_back(std::move(*a));
    }
    return out;
  }
  void SubmitOne() {
    SequenceSpec spec;
    spec.id = SeqId(1);
    spec.prompt = {1, 2, 3};
    spec.max_tokens = 50;
    ASSERT_TRUE(pool_->Submit(spec, now_).ok());
    pool_->Pump(now_);
  }

  PoolOptions options_;
  std::unique_ptr<PoolMachine> pool_;
  TimeNs now_ = kSecond;
};

TEST_F(PoolTest, AssignsServesAndSendsToTheFirstStage) {
  Join(1, "w1");
  Join(2, "w2");
  EXPECT_EQ(Take<PoolAction::Assign>().size(), 2u);
  Ready(1);
  EXPECT_TRUE(absl::IsUnavailable(pool_->Submit({}, now_)));
  Ready(2);
  const auto ports = Take<PoolAction::OpenPort>();
  ASSERT_EQ(ports.size(), 1u);
  EXPECT_EQ(ports[0].address, "w1:7");
  SubmitOne();
  const auto sent = Take<PoolAction::Send>();
  ASSERT_EQ(sent.size(), 1u);
  EXPECT_EQ(sent[0].frame.epoch, ports[0].epoch);
  const PoolStatus status = pool_->Status(now_);
  EXPECT_EQ(status.state, "ready");
  EXPECT_EQ(status.nodes[1].layers, (stage::LayerRange{2, 4}));
  EXPECT_TRUE(status.nodes[1].samples);
  ASSERT_EQ(status.requests.size(), 1u);
  EXPECT_EQ(status.requests[0].state, "prefill");
}

TEST_F(PoolTest, TheOneThatDiedIsNamedAlthoughItsNeighbourSpokeFirst) {
  Serve();
  SubmitOne();
  pool_->TakeActions();
  pool_->OnWorkerEvent(net::LinkId(1),
                       net::StageFailed{pool_->placement().plan_id(), pool_->placement().epoch(),
                                        Unavailable("lost its link to w2")},
                       now_);
  EXPECT_TRUE(Take<PoolAction::Fail>().empty());
  now_ += 10 * kMillisecond;
  pool_->OnWorkerGone(net::LinkId(2), Unavailable("worker 'w2': connection reset"), now_);
  const auto failed = Take<PoolAction::Fail>();
  ASSERT_EQ(failed.size(), 1u);
  EXPECT_EQ(failed[0].status.message(), "worker 'w2' (layers 2-3) was lost: connection reset");
  EXPECT_EQ(pool_->Status(now_).nodes[1].state, "lost");
  EXPECT_FALSE(pool_->serving());
}

TEST_F(PoolTest, ForARevokedWorkerNobodyWaits) {
  Serve();
  SubmitOne();
  pool_->TakeActions();
  pool_->OnWorkerGone(net::LinkId(2), absl::PermissionDeniedError("this machine was revoked"), now_);
  EXPECT_EQ(pool_->placement().state(), PlacementState::kNoFit);  // planned at once, and one machine is too few
  EXPECT_EQ(Take<PoolAction::Fail>().size(), 1u);
}

TEST_F(PoolTest, AFaultWithoutADeathEndsItsRequestsAndTriesAgain) {
  Serve();
  SubmitOne();
  const Epoch epoch = pool_->placement().epoch();
  pool_->OnPortClosed(Epoch(epoch.value - 1), Unavailable("an old port"), now_);
  pool_->OnPortClosed(epoch, Unavailable("broken pipe"), now_);
  pool_->TakeActions();
  now_ += PoolOptions().fault_patience - 1;
  Beat({1, 2});
  pool_->OnTick(now_);
  EXPECT_TRUE(Take<PoolAction::Fail>().empty());
  pool_->OnTick(++now_);
  const auto failed = Take<PoolAction::Fail>();
  ASSERT_EQ(failed.size(), 1u);
  EXPECT_THAT(std::string(failed[0].status.message()),
              HasSubstr("the link to worker 'w1' (layers 0-1) broke: broken pipe"));
  now_ += kSecond / 2;
  Beat({1, 2});
  pool_->OnTick(now_);
  EXPECT_EQ(Take<PoolAction::Assign>().size(), 2u);
  EXPECT_GT(pool_->placement().epoch(), epoch);
}

TEST_F(PoolTest, ASilentWorkerIsGivenUpWithinTwoSeconds) {
  Serve();
  SubmitOne();
  pool_->TakeActions();
  const TimeNs start = now_;
  std::vector<PoolAction::Fail> failed;
  while (failed.empty() && now_ < start + 10 * kSecond) {
    now_ += 50 * kMillisecond;
    Beat({1});
    pool_->OnTick(now_);
    failed = Take<PoolAction::Fail>();
  }
  ASSERT_EQ(failed.size(), 1u);
  EXPECT_THAT(std::string(failed[0].status.message()),
              HasSubstr("'w2' (layers 2-3) was lost: not a word"));
  EXPECT_LT(now_ - start, 2 * kSecond);
}

// The plan of two is made better by a third; nobody's answer is ended for it.
TEST_F(PoolTest, ABetterPlanWaitsUntilNoRequestWasHereForAWhile) {
  options_.placement.expect_workers = 0;
  options_.placement.make_plan = [](const sharding::PlanRequest& request) {
    sharding::Plan plan;
    plan.context = 128 * static_cast<uint32_t>(request.machines.size());
    plan.group_blocks = {16};
    plan.fits = true;
    sharding::PlannedStage& stage = plan.stages.emplace_back();
    stage.machine = request.machines[0].name;
    stage.layers = {0, 4};
    stage.embeds = stage.samples = true;
    return absl::StatusOr<sharding::Plan>(plan);
  };
  options_.pipeline.step_timeout = 1000 * kSecond;
  pool_ = std::make_unique<PoolMachine>(options_);
  Join(1, "w1");
  const auto pass = [&](TimeNs time) {
    for (const TimeNs end = now_ + time; now_ < end; now_ += 100 * kMillisecond) {
      Beat({1, 2});
      pool_->OnTick(now_);
    }
  };
  pass(2 * kSecond);
  Ready(1);
  ASSERT_TRUE(pool_->serving());
  EXPECT_EQ(pool_->scheduler().context(), 128u);
  SubmitOne();
  Join(2, "w2");
  pass(200 * kSecond);
  EXPECT_TRUE(pool_->serving());
  pool_->Cancel(SeqId(1));
  stage::StepResult result;
  result.plan = pool_->placement().plan_id();
  result.epoch = pool_->placement().epoch();
  result.step = StepId(1);
  result.worker = "w1";
  result.tokens.push_back({SeqId(1), 2, 5, 0, 0, {}, {}});
  pool_->OnResult(result, now_);
  ASSERT_TRUE(pool_->scheduler().idle());
  pass(PoolOptions().quiet_after - kSecond);
  EXPECT_TRUE(pool_->serving());
  pass(2 * kSecond);
  EXPECT_FALSE(pool_->serving());
  std::string said;
  for (const PoolAction::Any& action : pool_->TakeActions()) {
    EXPECT_FALSE(std::holds_alternative<PoolAction::Fail>(action));
    if (const auto* log = std::get_if<PoolAction::Log>(&action)) absl::StrAppend(&said, log->text, "\n");
  }
  EXPECT_THAT(said, HasSubstr("a better plan waits for a quiet moment: a context of 256 tokens instead of 128"));
  EXPECT_THAT(said, HasSubstr("planning again while no request runs: a context of 256"));
  Ready(1);
  ASSERT_TRUE(pool_->serving());
  EXPECT_EQ(pool_->scheduler().context(), 256u);
}

TEST_F(PoolTest, AQueueThatNothingServesIsGivenUp) {
  Serve();
  SequenceSpec spec;
  spec.id = SeqId(7);
  spec.prompt = {1};
  spec.max_tokens = 5;
  ASSERT_TRUE(pool_->Submit(spec, now_).ok());  // queued: no rows of it were sent
  pool_->OnWorkerGone(net::LinkId(2), Unavailable("reset"), now_);
  EXPECT_TRUE(Take<PoolAction::Fail>().empty());
  now_ += PoolOptions().queue_timeout;
  Beat({1});
  pool_->OnTick(now_);
  const auto failed = Take<PoolAction::Fail>();
  ASSERT_EQ(failed.size(), 1u);
  EXPECT_TRUE(absl::IsUnavailable(failed[0].status));
}

}  // namespace
}  // namespace lanyard::coordinator
