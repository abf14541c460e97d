#include "coordinator/cluster/placement.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include "base/version.h"

namespace lanyard::coordinator {
namespace {

using ::testing::HasSubstr;

// Cuts 12 layers over every machine; fits only with at least `min_machines`.
class PlacementTest : public ::testing::Test {
 protected:
  void Make(uint32_t expect, size_t min_machines = 1, uint32_t users = 1) {
    auto manifest = std::make_shared<model::Manifest>();
    manifest->shape.n_layers = 12;
    PlacementOptions options;
    options.manifest = manifest;
    options.context = 512;
    options.expect_workers = expect;
    options.users = users;
    options.last_epoch = Epoch(40);
    options.make_plan = [this, min_machines](const sharding::PlanRequest& request) {
      ++plans_;
      sharding::Plan plan;
      const size_t n = request.machines.size();
      plan.context = 512;
      plan.group_blocks = {16};
      plan.fits = n >= min_machines;
      if (!plan.fits) plan.why = {"12 layers need 2 machines; add one"};
      for (size_t i = 0; i < n && plan.fits; ++i) {
        sharding::PlannedStage& stage = plan.stages.emplace_back();
        stage.machine = request.machines[i].name;
        stage.layers = {static_cast<uint32_t>(12 * i / n), static_cast<uint32_t>(12 * (i + 1) / n)};
        stage.embeds = i == 0;
        stage.samples = i + 1 == n;
        stage.weights_bytes = 1000;
      }
      if (change_plan_) change_plan_(&plan);
      return absl::StatusOr<sharding::Plan>(plan);
    };
    placement_ = std::make_unique<Placement>(options);
  }

  void Join(const std::string& name, TimeNs now) {
    net::WorkerHello hello;
    hello.name = name;
    hello.version = kVersion;
    hello.protocol = kProtocolVersion;
    hello.stage_address = name + ":7";
    hello.memory_bytes = 10000;
    hello.base_bytes = 100;
    ASSERT_TRUE(members_.OnHello(net::LinkId(next_link_++), hello, now).status.ok());
    placement_->OnJoined(name, now);
  }
  PlacementActions Lose(const std::string& name, TimeNs now) {
    return placement_->OnGone(*members_.OnGone(members_.FindByName(name)->link), "reset", now);
  }
  PlacementActions Poll(TimeNs now, bool quiet = false) {
    return placement_->Poll(members_, now, quiet);
  }
  void EverybodyLeaves() {
    while (!members_.members().empty()) members_.OnGone(members_.members().begin()->second.link);
  }
  // Serves from w1 and w2; w3 comes `then`.
  void ServeWithoutW3(TimeNs then) {
    Join("w1", 0);
    Join("w2", 0);
    Poll(2 * kSecond);
    ASSERT_TRUE(AllReady(3 * kSecond));
    Join("w3", then);
  }
  // Every stage of the current plan answers; returns whether the last one started serving.
  bool AllReady(TimeNs now) {
    bool serve = false;
    for (const AssignedStage& stage : std::vector<AssignedStage>(placement_->stages())) {
      net::StageReady ready;
      ready.plan = placement_->plan_id();
      ready.epoch = placement_->epoch();
      serve = placement_->OnReady(stage.link, ready, now).serve;
    }
    return serve;
  }

  Membership members_{{}};
  std::unique_ptr<Placement> placement_;
  uint64_t next_link_ = 1;
  int plans_ = 0;
  std::function<void(sharding::Plan*)> change_plan_;
};

TEST_F(PlacementTest, PlansAtOnceWhenTheExpectedAreThere) {
  Make(2);
  Join("w2", 0);
  EXPECT_TRUE(Poll(10 * kSecond).assign.empty());
  EXPECT_EQ(placement_->why(), "1 of 2 workers have joined");
  Join("w1", 10 * kSecond);
  const auto actions = Poll(10 * kSecond);
  ASSERT_EQ(actions.assign.size(), 2u);
  EXPECT_EQ(actions.new_epoch, Epoch(41));
  const stage::StageSpec& first = actions.assign[0].assignment.spec;
  EXPECT_EQ(first.layers, (stage::LayerRange{0, 6}));
  EXPECT_TRUE(first.embeds && !first.samples);
  EXPECT_EQ(first.epoch, Epoch(41));
  EXPECT_EQ(actions.assign[0].assignment.next_worker, "w2");
  EXPECT_EQ(actions.assign[0].assignment.next_address, "w2:7");
  EXPECT_EQ(actions.assign[1].assignment.next_worker, "");
  EXPECT_EQ(placement_->state(), PlacementState::kLoading);
  EXPECT_TRUE(AllReady(11 * kSecond));
  EXPECT_EQ(placement_->state(), PlacementState::kServing);
  EXPECT_EQ(placement_->why(), "");
}

// What a worker says of its cards is what the planner goes by.
TEST(PlacementFast, CardsWithFastAttentionReachThePlanner) {
  auto manifest = std::make_shared<model::Manifest>();
  manifest->shape.n_layers = 12;
  PlacementOptions options;
  options.manifest = manifest;
  options.context = 512;
  options.expect_workers = 1;
  options.numerics.attention = stage::AttentionForm::kFast;
  std::vector<bool> seen;
  options.make_plan = [&](const sharding::PlanRequest& request) {
    EXPECT_EQ(request.numerics.attention, stage::AttentionForm::kFast);
    for (const auto& device : request.machines.at(0).devices) seen.push_back(device.fast_attention);
    return absl::StatusOr<sharding::Plan>(sharding::Plan());
  };
  Membership members{{}};
  Placement placement(options);
  net::WorkerHello hello;
  hello.name = "w1";
  hello.version = kVersion;
  hello.protocol = kProtocolVersion;
  hello.stage_address = "w1:7";
  hello.memory_bytes = 10000;
  hello.base_bytes = 100;
  hello.devices = {{"cuda", "cuda:0", "", 1000, 8, true}, {"cuda", "cuda:1", "", 1000, 8, false}};
  ASSERT_TRUE(members.OnHello(net::LinkId(1), hello, 0).status.ok());
  placement.OnJoined("w1", 0);
  placement.Poll(members, kSecond);
  EXPECT_EQ(seen, (std::vector<bool>{true, false}));
}

TEST_F(PlacementTest, WithoutANumberItWaitsUntilNobodyJoins) {
  Make(0);
  Join("w1", 0);
  EXPECT_TRUE(Poll(0).assign.empty());
  Join("w2", kSecond / 2);
  EXPECT_TRUE(Poll(kSecond).assign.empty());
  EXPECT_EQ(Poll(kSecond * 3 / 2).assign.size(), 2u);
}

TEST_F(PlacementTest, NoPlanFitsUntilAnotherJoins) {
  Make(0, 2);
  Join("w1", 0);
  EXPECT_TRUE(Poll(2 * kSecond).assign.empty());
  EXPECT_EQ(placement_->state(), PlacementState::kNoFit);
  EXPECT_THAT(placement_->why(), HasSubstr("need 2 machines"));
  Poll(3 * kSecond);
  EXPECT_EQ(plans_, 1);  // the same machines give the same answer
  Join("w2", 4 * kSecond);
  Poll(4 * kSecond);
  EXPECT_EQ(Poll(6 * kSecond).assign.size(), 2u);
}

TEST_F(PlacementTest, StaleAnswersAreIgnored) {
  Make(1);
  Join("w1", 0);
  Poll(0);
  net::StageReady ready;
  ready.plan = placement_->plan_id();
  ready.epoch = Epoch(40);
  EXPECT_FALSE(placement_->OnReady(net::LinkId(1), ready, 1).serve);
  ready.epoch = Epoch(41);
  EXPECT_FALSE(placement_->OnReady(net::LinkId(9), ready, 1).serve);
  EXPECT_FALSE(
      placement_->OnFailed(net::LinkId(1), {PlanId(40), Epoch(40), Internal("x")}, 1).lost);
  EXPECT_TRUE(placement_->OnReady(net::LinkId(1), ready, 1).serve);
}

TEST_F(PlacementTest, ALostWorkerIsAwaitedAndTheCutIsKept) {
  Make(3);
  for (const char* name : {"w1", "w2", "w3"}) Join(name, 0);
  Poll(0);
  ASSERT_TRUE(AllReady(1));
  const auto lost = Lose("w2", kSecond).lost;
  ASSERT_TRUE(lost);
  EXPECT_TRUE(absl::IsUnavailable(*lost));
  EXPECT_THAT(std::string(lost->message()), HasSubstr("worker 'w2' (layers 4-7) was lost: reset"));
  EXPECT_TRUE(Poll(2 * kSecond).assign.empty());
  EXPECT_THAT(placement_->why(), HasSubstr("waiting for it to come back"));
  Join("w2", 3 * kSecond);
  const auto actions = Poll(3 * kSecond);
  EXPECT_EQ(actions.assign.size(), 3u);
  EXPECT_EQ(actions.new_epoch, Epoch(42));
  EXPECT_EQ(plans_, 1);  // the same duties: survivors have their weights
  EXPECT_TRUE(AllReady(4 * kSecond));
}

TEST_F(PlacementTest, WithoutTheLostOneTheOthersGoOn) {
  Make(3);
  for (const char* name : {"w1", "w2", "w3"}) Join(name, 0);
  Poll(0);
  ASSERT_TRUE(AllReady(1));
  ASSERT_TRUE(Lose("w3", kSecond).lost);
  const TimeNs later = kSecond + PlacementOptions().return_wait;
  EXPECT_TRUE(Poll(later - 1).assign.empty());
  EXPECT_EQ(Poll(later).assign.size(), 2u);
  ASSERT_TRUE(AllReady(later));
  Join("w3", later + kSecond);
  EXPECT_TRUE(Poll(later + 20 * kSecond).assign.empty());  // a spare
  // Used at the next plan.
  ASSERT_TRUE(Lose("w1", later + 30 * kSecond).lost);
  EXPECT_EQ(Poll(later + 60 * kSecond).assign.size(), 2u);
  EXPECT_EQ(placement_->stages()[1].planned.machine, "w3");
}

TEST_F(PlacementTest, NobodyWaitsForOneThatWasThrownOut) {
  Make(3);
  for (const char* name : {"w1", "w2", "w3"}) Join(name, 0);
  Poll(0);
  ASSERT_TRUE(AllReady(1));
  const Member thrown_out = *members_.OnGone(members_.FindByName("w2")->link);
  ASSERT_TRUE(placement_->OnGone(thrown_out, "revoked", kSecond, false).lost);
  EXPECT_EQ(Poll(kSecond).assign.size(), 2u);
  ASSERT_TRUE(AllReady(kSecond));
}

TEST_F(PlacementTest, AWorkerThatReturnsIsTakenInAtAQuietMoment) {
  Make(3);
  for (const char* name : {"w1", "w2", "w3"}) Join(name, 0);
  Poll(0);
  ASSERT_TRUE(AllReady(1));
  ASSERT_TRUE(Lose("w3", kSecond).lost);
  const TimeNs later = 20 * kSecond;
  ASSERT_EQ(Poll(later).assign.size(), 2u);
  ASSERT_TRUE(AllReady(later));
  Join("w3", later + kSecond);
  EXPECT_EQ(Poll(later + kSecond, true).note, "");  // others may come with it
  EXPECT_EQ(Poll(later + 3 * kSecond, true).note,
            "a better plan waits for a quiet moment: 3 of the 3 workers asked for take part "
            "instead of 2");
  const int plans = plans_;
  EXPECT_TRUE(Poll(later + 59 * kSecond, true).assign.empty());  // not so soon
  EXPECT_TRUE(Poll(later + 70 * kSecond, false).assign.empty());
  const PlacementActions actions = Poll(later + 71 * kSecond, true);
  EXPECT_EQ(plans_, plans);  // looked for once
  ASSERT_EQ(actions.assign.size(), 3u);
  EXPECT_TRUE(actions.release.empty());
  ASSERT_TRUE(actions.lost && actions.by_choice);
  EXPECT_THAT(std::string(actions.lost->message()), HasSubstr("3 of the 3 workers"));
  EXPECT_EQ(actions.new_epoch, Epoch(43));
  EXPECT_EQ(placement_->improvements(), 1u);
  EXPECT_TRUE(AllReady(later + 72 * kSecond));
  EXPECT_TRUE(Poll(later + 1000 * kSecond, true).assign.empty());  // and that is that
}

TEST_F(PlacementTest, ABetterPlanIsMoreContextThenMoreUsersThenAFifthOfTheTime) {
  struct Case {
    uint32_t context, users;
    double ms;
    const char* why;  // null: stays as it is
  };
  for (const Case& c : {Case{512, 2, 2, nullptr}, Case{512, 2, 1.8, nullptr},
                        Case{512, 2, 1.5, "a predicted time of"}, Case{512, 4, 9, "KV for 4 users"},
                        Case{512, 1, 1, nullptr}, Case{1024, 1, 9, "a context of 1024 tokens"},
                        Case{256, 9, 1, nullptr}}) {
    SCOPED_TRACE(absl::StrCat(c.context, " ", c.users, " ", c.ms));
    EverybodyLeaves();
    Make(0, 1, 4);
    change_plan_ = [&](sharding::Plan* plan) {
      const bool with_w3 = plan->stages.size() == 3;
      plan->context = with_w3 ? c.context : 512;
      plan->users = with_w3 ? c.users : 2;
      for (sharding::PlannedStage& stage : plan->stages) {
        stage.ms_per_token = (with_w3 ? c.ms : 2) * 10 / static_cast<double>(plan->stages.size());
      }
      // Of equal parts the slowest would count less with more of them: one that has all of it.
      plan->stages.front().ms_per_token = with_w3 ? c.ms * 10 : 20;
    };
    ServeWithoutW3(10 * kSecond);
    const std::string note = Poll(200 * kSecond, false).note;
    const PlacementActions actions = Poll(200 * kSecond, true);
    if (c.why == nullptr) {
      EXPECT_EQ(note, "");
      EXPECT_TRUE(actions.assign.empty());
    } else {
      EXPECT_THAT(note, HasSubstr(c.why));
      EXPECT_EQ(actions.assign.size(), 3u);
    }
  }
}

TEST_F(PlacementTest, ABetterPlanThatDoesNotLoadIsLeftForTheOneThatServed) {
  for (const bool dies : {false, true}) {
    EverybodyLeaves();
    Make(3);
    for (const char* name : {"w1", "w2", "w3"}) Join(name, 0);
    Poll(0);
    ASSERT_TRUE(AllReady(1));
    Lose("w3", kSecond);
    Poll(20 * kSecond);
    ASSERT_TRUE(AllReady(20 * kSecond));
    Join("w3", 100 * kSecond);
    Poll(200 * kSecond, true);
    ASSERT_EQ(placement_->stages().size(), 3u);
    const net::LinkId w3 = members_.FindByName("w3")->link;
    if (dies) {
      ASSERT_TRUE(Lose("w3", 201 * kSecond).lost);
    } else {
      const net::StageFailed failed{placement_->plan_id(), placement_->epoch(), Internal("no")};
      ASSERT_TRUE(placement_->OnFailed(w3, failed, 201 * kSecond).lost);
    }
    const PlacementActions back = Poll(202 * kSecond);  // without waiting for it
    ASSERT_EQ(back.assign.size(), 2u);
    EXPECT_EQ(back.release.size(), dies ? 0u : 1u);
    ASSERT_TRUE(AllReady(203 * kSecond));
    EXPECT_TRUE(Poll(900 * kSecond, true).assign.empty());  // not again before somebody joins
  }
}

TEST_F(PlacementTest, AFaultIsRetriedWithBackOffAndANeighboursDeathStillAwaited) {
  Make(2);
  Join("w1", 0);
  Join("w2", 0);
  Poll(0);
  ASSERT_TRUE(AllReady(1));
  ASSERT_TRUE(placement_->OnFault(Unavailable("w1: the link to w2 broke"), kSecond).lost);
  EXPECT_FALSE(Lose("w2", kSecond + 1).lost);     // is told once
  EXPECT_TRUE(Poll(3 * kSecond).assign.empty());  // waits for w2
  Join("w2", 4 * kSecond);
  EXPECT_EQ(Poll(4 * kSecond).assign.size(), 2u);
  // A stage that fails again and again is tried ever more seldom.
  TimeNs now = 5 * kSecond, last_delay = 0;
  for (int i = 0; i < 6; ++i) {
    const net::StageFailed failed{placement_->plan_id(), placement_->epoch(),
                                  absl::DataLossError("disk full")};
    const auto lost = placement_->OnFailed(placement_->stages()[1].link, failed, now).lost;
    ASSERT_TRUE(lost);
    EXPECT_THAT(std::string(lost->message()), HasSubstr("worker 'w2' (layers 6-11)"));
    TimeNs delay = 0;
    while (Poll(now + delay).assign.empty()) delay += kSecond / 8;
    EXPECT_GT(delay, last_delay);
    last_delay = delay;
    now += delay;
  }
}

TEST_F(PlacementTest, AStageThatNeverAnswersIsGivenUp) {
  Make(1);
  Join("w1", 0);
  Poll(0);
  const TimeNs stall = PlacementOptions().load_stall;
  placement_->OnProgress(net::LinkId(1), {placement_->plan_id(), 10, 100}, stall - 1);
  EXPECT_FALSE(Poll(stall).lost);
  const auto lost = Poll(2 * stall).lost;
  ASSERT_TRUE(lost);
  EXPECT_THAT(std::string(lost->message()), HasSubstr("neither loads nor answers"));
}

}  // namespace
}  // namespace lanyard::coordinator
