// The pool machine as a whole, where its parts meet; tests/sim drives it through thousands of
// lives.
#include "coordinator/pool.h"

#include "coordinator/testing/pool_fixture.h"

namespace lanyard::coordinator {
namespace {

using ::testing::HasSubstr;

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
  TakeAll();
  pool_->OnWorkerEvent(net::LinkId(1),
                       net::StageFailed{pool_->rollout().plan_id(), pool_->rollout().epoch(),
                                        Unavailable("lost its link to w2")},
                       now_);
  EXPECT_TRUE(Take<PoolAction::Fail>().empty());
  now_ += 10 * kMillisecond;
  pool_->OnWorkerGone(net::LinkId(2), Unavailable("worker 'w2': connection reset"), now_);
  EXPECT_TRUE(Take<PoolAction::Fail>().empty());  // it runs again
  EXPECT_THAT(pool_->rollout().why(),
              HasSubstr("worker 'w2' (layers 2-3) was lost: connection reset"));
  EXPECT_EQ(pool_->Status(now_).nodes[1].state, "lost");
  EXPECT_FALSE(pool_->serving());
}

TEST_F(PoolTest, ForARevokedWorkerNobodyWaits) {
  Serve();
  SubmitOne();
  TakeAll();
  pool_->OnWorkerGone(net::LinkId(2), absl::PermissionDeniedError("this machine was revoked"),
                      now_);
  Plan();
  // Planned at once, and one machine is too few: then no request waits for nothing.
  EXPECT_EQ(pool_->rollout().state(), RolloutState::kNoFit);
  Tick();
  EXPECT_EQ(Take<PoolAction::Fail>().size(), 1u);
}

TEST_F(PoolTest, AfterAFaultWithoutADeathItsRequestsRunAgain) {
  Serve();
  SubmitOne();
  const Epoch epoch = pool_->rollout().epoch();
  const PlanId plan = pool_->rollout().plan_id();
  pool_->OnPortClosed(DeploymentId(1), Epoch(epoch.value - 1), Unavailable("an old port"), now_);
  pool_->OnPortClosed(DeploymentId(1), epoch, Unavailable("broken pipe"), now_);
  TakeAll();
  now_ += DeploymentOptions().fault_patience - 1;
  Beat({1, 2});
  Tick();
  EXPECT_TRUE(pool_->serving());
  ++now_;
  Tick();
  EXPECT_FALSE(pool_->serving());
  EXPECT_THAT(pool_->rollout().why(),
              HasSubstr("the link to worker 'w1' (layers 0-1) broke: broken pipe"));
  now_ += kSecond / 2;
  Beat({1, 2});
  Tick();
  EXPECT_EQ(Take<PoolAction::Assign>().size(), 2u);
  EXPECT_GT(pool_->rollout().epoch(), epoch);
  EXPECT_EQ(pool_->rollout().plan_id(), plan);  // the same cut
  Ready(1);
  Ready(2);
  pool_->Pump(now_);
  EXPECT_EQ(pool_->scheduler().n_running(), 1u);
  EXPECT_EQ(Take<PoolAction::Send>().size(), 1u);
}

// Whatever a silent machine is doing, nothing is lost as long as it may come back soon.
TEST_F(PoolTest, AStallIsNoLoss) {
  Serve();
  SubmitOne();
  const Epoch epoch = pool_->rollout().epoch();
  const auto pass = [&](TimeNs time, std::initializer_list<uint64_t> links) {
    for (const TimeNs end = now_ + time; now_ < end;) {
      now_ += 50 * kMillisecond;
      Beat(links);
      Tick();
      pool_->Pump(now_);
    }
  };
  pass(4 * kSecond, {1});
  EXPECT_TRUE(pool_->serving());
  TakeAll();
  SequenceSpec second;
  second.id = SeqId(2);
  second.prompt = {4};
  second.max_tokens = 5;
  ASSERT_TRUE(pool_->Submit(second, now_).ok());
  pass(kSecond / 2, {1});
  EXPECT_TRUE(Take<PoolAction::Send>().empty());  // nothing more is sent to a machine that stands
  Beat({2});
  pass(50 * kMillisecond, {1, 2});
  EXPECT_EQ(Take<PoolAction::Send>().size(), 1u);
  EXPECT_EQ(pool_->rollout().epoch(), epoch);
  EXPECT_EQ(pool_->health().Find("w2")->stalls, 1u);
}

TEST_F(PoolTest, ASilentWorkerIsGivenUpAfterFiveSeconds) {
  Serve();
  SubmitOne();
  TakeAll();
  const TimeNs start = now_;
  while (pool_->serving() && now_ < start + 20 * kSecond) {
    now_ += 50 * kMillisecond;
    Beat({1});
    Tick();
  }
  EXPECT_THAT(pool_->rollout().why(), HasSubstr("'w2' (layers 2-3) was lost: not a word"));
  EXPECT_LT(now_ - start, 5100 * kMillisecond);
  EXPECT_TRUE(Take<PoolAction::Fail>().empty());
  // It comes back, and its request goes on.
  Join(3, "w2");
  Ready(1);
  Ready(3);
  ASSERT_TRUE(pool_->serving());
  pool_->Pump(now_);
  EXPECT_EQ(Take<PoolAction::Send>().size(), 1u);
}

// w1 serves alone, and each machine more makes the plan better.
class NewcomerTest : public PoolTest {
 protected:
  void SetUp() override {
    PoolTest::SetUp();
    options_.deployment.rollout.expect_workers = 0;
    options_.deployment.pipeline.step_timeout = 1000 * kSecond;
    options_.deployment.pipeline.first_timeout = 1000 * kSecond;
    make_plan_ = [](const sharding::PlanRequest& request) {
      sharding::Plan plan;
      const auto n = static_cast<uint32_t>(request.machines.size());
      plan.context = 128 * n;
      plan.group_blocks = {16};
      plan.fits = true;
      AddStages(request, n, &plan);
      return absl::StatusOr<sharding::Plan>(plan);
    };
    pool_ = std::make_unique<PoolMachine>(options_);
    Join(1, "w1");
    now_ += 2 * kSecond;
    Tick();
    Ready(1);
    ASSERT_TRUE(pool_->serving());
    SubmitOne();
    ASSERT_EQ(Take<PoolAction::Send>().size(), 1u);
    Token(1, 2);
  }
  // Time passes, and the pool serves all along.
  void Pass(TimeNs time) {
    for (const TimeNs end = now_ + time; now_ < end; now_ += 100 * kMillisecond) {
      Beat({1, 2});
      Tick();
      pool_->Pump(now_);
      ASSERT_TRUE(pool_->serving());
    }
  }
  void Token(uint64_t step, uint32_t pos) {
    stage::StepResult result;
    result.plan = pool_->rollout().plan_id();
    result.epoch = pool_->rollout().epoch();
    result.step = StepId(step);
    result.worker = "w1";
    result.tokens.push_back({SeqId(1), pos, 5, 0, 0, {}, {}});
    pool_->OnResult(result, now_);
    pool_->Pump(now_);
  }
  // w2 joins, and both are to load. The plan beside.
  stage::StageSpec Newcomer() {
    Join(2, "w2");
    TakeAll();
    Pass(3 * kSecond);
    const auto assigned = Take<PoolAction::Assign>();
    EXPECT_EQ(assigned.size(), 2u);
    if (assigned.size() < 2) return {};
    EXPECT_EQ(assigned[1].assignment.mode, net::AssignMode::kBeside);
    return assigned[0].assignment.spec;
  }
  void BothReady(const stage::StageSpec& spec) {
    for (const uint64_t link : {1, 2}) {
      pool_->OnWorkerEvent(net::LinkId(link), net::StageReady{spec.plan, spec.epoch, 1, 1, 1, 0},
                           now_);
    }
  }
};

TEST_F(NewcomerTest, ThePoolServesWhileItLoads) {
  const stage::StageSpec spec = Newcomer();
  pool_->OnWorkerEvent(net::LinkId(2), net::LoadProgress{spec.plan, 30, 100}, now_);
  const NodeStatus node = pool_->Status(now_).nodes[1];
  EXPECT_EQ(node.state, "loading");
  EXPECT_EQ(node.load_done_bytes, 30u);
  EXPECT_FALSE(node.has_stage);
  EXPECT_EQ(pool_->Status(now_).nodes[0].layers, (stage::LayerRange{0, 4}));
  Pass(15 * kSecond);
}

// A step is on its way when the last stage is ready: the change waits for it.
TEST_F(NewcomerTest, TheBetterPlanIsTakenBetweenTwoSteps) {
  const Epoch before = pool_->rollout().epoch();
  const stage::StageSpec spec = Newcomer();
  BothReady(spec);
  const uint32_t in_flight = pool_->scheduler().steps_in_flight();
  ASSERT_GT(in_flight, 0u);
  EXPECT_EQ(pool_->rollout().epoch(), before);
  TakeAll();
  Token(2, 3);
  if (in_flight > 1) Token(3, 4);
  EXPECT_EQ(pool_->rollout().epoch(), spec.epoch);
  ASSERT_TRUE(pool_->serving());
  EXPECT_EQ(pool_->scheduler().n_running(), 1u);
  bool released = false, opened = false, sent = false;
  for (const PoolAction::Any& action : TakeAll()) {
    EXPECT_FALSE(std::holds_alternative<PoolAction::Fail>(action));
    if (const auto* release = std::get_if<PoolAction::Release>(&action))
      released = release->link == net::LinkId(1);
    if (const auto* open = std::get_if<PoolAction::OpenPort>(&action)) {
      EXPECT_TRUE(released);
      opened = open->epoch == spec.epoch;
    }
    // Nothing of the old epoch is sent any more, and the log of its tokens is read again at once.
    if (const auto* send = std::get_if<PoolAction::Send>(&action)) {
      EXPECT_TRUE(opened);
      EXPECT_EQ(send->frame.epoch, spec.epoch);
      EXPECT_EQ(send->frame.batch.TotalRows(), in_flight > 1 ? 6u : 5u);
      sent = true;
    }
  }
  EXPECT_TRUE(opened && sent);
  EXPECT_EQ(pool_->context(), 256u);
}

// One that serves is not left out of plans for what it could not do beside that.
TEST_F(NewcomerTest, ItAloneIsBlamedForAFailure) {
  const stage::StageSpec spec = Newcomer();
  const net::StageFailed failed{spec.plan, spec.epoch, ResourceExhausted("disk full")};
  pool_->OnWorkerEvent(net::LinkId(1), failed, now_);
  EXPECT_EQ(pool_->health().Failing("w1"), nullptr);
  ASSERT_EQ(Take<PoolAction::Release>().size(), 2u);
  Pass(31 * kSecond);  // it is tried again
  const auto assigned = Take<PoolAction::Assign>();
  ASSERT_EQ(assigned.size(), 2u);
  const stage::StageSpec& again = assigned[1].assignment.spec;
  pool_->OnWorkerEvent(net::LinkId(2),
                       net::StageFailed{again.plan, again.epoch, ResourceExhausted("disk full")},
                       now_);
  EXPECT_NE(pool_->health().Failing("w2"), nullptr);
  EXPECT_TRUE(pool_->serving());
}

TEST_F(NewcomerTest, OneThatIsSilentIsNotTaken) {
  const Epoch before = pool_->rollout().epoch();
  const stage::StageSpec spec = Newcomer();
  pool_->OnWorkerEvent(net::LinkId(2), net::StageReady{spec.plan, spec.epoch, 1, 1, 1, 0}, now_);
  for (const TimeNs end = now_ + 2 * kSecond; now_ < end; now_ += 100 * kMillisecond) {
    Beat({1});
    Tick();
  }
  pool_->OnWorkerEvent(net::LinkId(1), net::StageReady{spec.plan, spec.epoch, 1, 1, 1, 0}, now_);
  Token(2, 3);
  now_ += kSecond;
  Beat({1});
  Tick();
  EXPECT_EQ(pool_->rollout().epoch(), before);
  Pass(kSecond);  // it is heard again
  EXPECT_EQ(pool_->rollout().epoch(), spec.epoch);
}

// What would take long to read again is not interrupted at once.
TEST_F(PoolTest, ABetterPlanWaitsWhileALongTextRuns) {
  options_.deployment.take_pause = 2 * kMillisecond;
  options_.deployment.pipeline.first_timeout = 1000 * kSecond;
  pool_ = std::make_unique<PoolMachine>(options_);
  Join(1, "w1");
  Join(2, "w2");
  Ready(1);
  Ready(2);
  make_plan_ = [](const sharding::PlanRequest& request) {
    sharding::Plan plan;
    plan.context = 512;
    plan.group_blocks = {16};
    plan.fits = true;
    plan.stages.push_back({.machine = request.machines.back().name,
                           .device = "cpu",
                           .layers = {0, 4},
                           .embeds = true,
                           .samples = true});
    return absl::StatusOr<sharding::Plan>(plan);
  };
  SubmitOne();  // 3 rows, of a millisecond each as long as nothing is measured
  Join(3, "w3");
  const auto pass = [&](TimeNs time) {
    for (const TimeNs end = now_ + time; now_ < end; now_ += 100 * kMillisecond) {
      Beat({1, 2, 3});
      Tick();
      pool_->Pump(now_);
    }
  };
  pass(3 * kSecond);
  const Epoch before = pool_->rollout().epoch();
  ASSERT_EQ(pool_->rollout().beside_stages().size(), 1u);
  const auto assigned = Take<PoolAction::Assign>();
  const stage::StageSpec spec = assigned.back().assignment.spec;
  pool_->OnWorkerEvent(net::LinkId(3), net::StageReady{spec.plan, spec.epoch, 1, 1, 1, 0}, now_);
  pass(DeploymentOptions().take_patience - kSecond);
  EXPECT_EQ(pool_->rollout().epoch(), before);
  pass(2 * kSecond);
  EXPECT_EQ(pool_->rollout().epoch(), spec.epoch);
}

// A third worker makes the plan of two better; no answer is ended for it.
TEST_F(PoolTest, ABetterPlanWaitsUntilNoRequestWasHereForAWhile) {
  protocol_ = net::kBesideProtocol - 1;
  options_.deployment.rollout.expect_workers = 0;
  make_plan_ = [](const sharding::PlanRequest& request) {
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
  options_.deployment.pipeline.first_timeout = 1000 * kSecond;
  options_.deployment.pipeline.step_timeout = 1000 * kSecond;
  pool_ = std::make_unique<PoolMachine>(options_);
  Join(1, "w1");
  const auto pass = [&](TimeNs time) {
    for (const TimeNs end = now_ + time; now_ < end; now_ += 100 * kMillisecond) {
      Beat({1, 2});
      Tick();
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
  result.plan = pool_->rollout().plan_id();
  result.epoch = pool_->rollout().epoch();
  result.step = StepId(1);
  result.worker = "w1";
  result.tokens.push_back({SeqId(1), 2, 5, 0, 0, {}, {}});
  pool_->OnResult(result, now_);
  ASSERT_TRUE(pool_->scheduler().idle());
  pass(DeploymentOptions().quiet_after - kSecond);
  EXPECT_TRUE(pool_->serving());
  pass(2 * kSecond);
  EXPECT_FALSE(pool_->serving());
  std::string said;
  for (const PoolAction::Any& action : TakeAll()) {
    EXPECT_FALSE(std::holds_alternative<PoolAction::Fail>(action));
    if (const auto* log = std::get_if<PoolAction::Log>(&action))
      absl::StrAppend(&said, log->text, "\n");
  }
  EXPECT_THAT(
      said,
      HasSubstr("a better plan waits for a quiet moment: a context of 256 tokens instead of 128"));
  EXPECT_THAT(said, HasSubstr("planning again while no request runs: a context of 256"));
  Ready(1);
  ASSERT_TRUE(pool_->serving());
  EXPECT_EQ(pool_->scheduler().context(), 256u);
}

// Three workers of which any two do; w1 and w2 serve.
TEST_F(PoolTest, TheCauseOfAFailedLoadIsTold) {
  Join(1, "w1");
  Join(2, "w2");
  ASSERT_EQ(Take<PoolAction::Assign>().size(), 2u);
  pool_->OnWorkerEvent(
      net::LinkId(2),
      net::StageFailed{pool_->rollout().plan_id(), pool_->rollout().epoch(),
                       ResourceExhausted("no space left"), "", net::LoadCause::kDiskFull},
      now_);
  const PoolStatus status = pool_->Status(now_);
  EXPECT_FALSE(status.nodes[0].load_failure);
  ASSERT_TRUE(status.nodes[1].load_failure);
  EXPECT_EQ(status.nodes[1].load_failure->cause, "disk_full");
  EXPECT_EQ(status.nodes[1].load_failure->times, 1u);
  EXPECT_EQ(status.nodes[1].load_failure->why, "no space left");
}

TEST_F(PoolTest, TheGuardEndsWhoMayBeTheReason) {
  const auto fell_silent = [&] {
    for (TimeNs silent = 0; pool_->serving() && silent < 60 * kSecond; silent += kSecond) {
      now_ += kSecond;
      Beat({1});
      Tick();
    }
  };
  const auto neighbour_spoke_first = [&] {
    for (int i = 0; i < 2; ++i) {
      now_ += kSecond;
      Beat({1});
      Tick();
    }
    pool_->OnWorkerEvent(net::LinkId(1),
                         net::StageFailed{pool_->rollout().plan_id(), pool_->rollout().epoch(),
                                          Unavailable("the link to worker 'w2' broke")},
                         now_);
  };
  const auto left = [&] {
    pool_->OnWorkerEvent(net::LinkId(2), net::Leaving{.reason = "shutdown"}, now_);
  };
  const auto broke = [&] { pool_->OnWorkerGone(net::LinkId(2), Unavailable("reset"), now_); };
  struct Case {
    std::function<void()> lose;
    bool ends;
  };
  for (const auto& [lose, ends] : std::vector<Case>{
           {fell_silent, false}, {neighbour_spoke_first, false}, {left, false}, {broke, true}}) {
    pool_ = std::make_unique<PoolMachine>(options_);
    taken_.clear();
    Serve();
    SubmitOne();
    size_t ended = 0;
    for (int loss = 0; loss < 6 && ended == 0; ++loss) {
      ASSERT_TRUE(pool_->serving());
      lose();
      Tick();
      for (TimeNs waited = 0; !pool_->serving() && waited < 600 * kSecond; waited += kSecond) {
        now_ += kSecond;
        Beat({1});
        Join(2, "w2");
        Tick();
        Ready(1);
        Ready(2);
      }
      pool_->Pump(now_);
      ended = Take<PoolAction::Fail>().size();
    }
    EXPECT_EQ(ended, ends ? 1u : 0u);
  }
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
  now_ += DeploymentOptions().queue_timeout;
  Beat({1});
  Tick();
  const auto failed = Take<PoolAction::Fail>();
  ASSERT_EQ(failed.size(), 1u);
  EXPECT_TRUE(absl::IsUnavailable(failed[0].status));
}

}  // namespace
}  // namespace lanyard::coordinator
