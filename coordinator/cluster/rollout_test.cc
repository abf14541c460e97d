#include "coordinator/cluster/rollout.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include "base/version.h"

namespace lanyard::coordinator {
namespace {

using ::testing::HasSubstr;

// Cuts 12 layers over every machine; fits only with at least `min_machines`.
class RolloutTest : public ::testing::Test {
 protected:
  void Make(uint32_t expect, size_t min_machines = 1, uint32_t users = 1) {
    auto manifest = std::make_shared<model::Manifest>();
    manifest->shape.n_layers = 12;
    for (uint32_t i = 0; i < 12 && layer_bytes_ > 0; ++i) {
      model::Part& part = manifest->parts.emplace_back();
      part.name = absl::StrCat("layer.", i);
      part.tensors.emplace_back().dims = {layer_bytes_ / sizeof(float)};
    }
    RolloutOptions options;
    options.manifest = manifest;
    options.context = 512;
    options.expect_workers = expect;
    options.users = users;
    options.last_epoch = Epoch(40);
    make_plan_ = [this, min_machines](const sharding::PlanRequest& request) {
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
        stage.weights_bytes = layer_bytes_ > 0 ? layer_bytes_ * stage.layers.size() : 1000;
        stage.gguf_bytes = stage_bytes_;
      }
      if (change_plan_) change_plan_(&plan);
      return absl::StatusOr<sharding::Plan>(plan);
    };
    rollout_ = std::make_unique<Rollout>(options);
  }

  void Join(const std::string& name, TimeNs now) {
    net::WorkerHello hello;
    hello.name = name;
    hello.version = kVersion;
    hello.protocol = protocol_;
    hello.stage_address = name + ":7";
    hello.memory_bytes = 10000;
    hello.base_bytes = 100;
    hello.speed = speed_;
    ASSERT_TRUE(members_.OnHello(net::LinkId(next_link_++), hello, now).status.ok());
    ++revision_;
    rollout_->OnJoined(name, now);
  }
  ClusterView View() { return {members_, drained_, health_, revision_ + health_.revision()}; }
  RolloutActions Lose(const std::string& name, TimeNs now, Departure how = Departure::kBroke) {
    const Member gone = *members_.OnGone(members_.FindByName(name)->link);
    ++revision_;
    return rollout_->OnGone(gone, how, "reset", View(), now);
  }
  RolloutActions Poll(TimeNs now, bool quiet = false) {
    RolloutActions actions = rollout_->Poll(View(), now, quiet);
    std::string notes = actions.note;
    while (actions.plan) {  // planned at once
      const PlanJob job = *actions.plan;
      actions = rollout_->OnPlanned(job.id, make_plan_(job.request), View(), now);
      notes += actions.note;
      if (!actions.plan && actions.assign.empty()) {
        actions = rollout_->Poll(View(), now, quiet);
        notes += actions.note;
      }
    }
    actions.note = notes;
    return actions;
  }
  // w2 fails twice to make its stage ready; returns the stages of the plan after that.
  size_t StagesAfterTwoFailures() {
    Make(2);
    Join("w1", 0);
    Join("w2", 0);
    TimeNs now = 0;
    size_t stages = 0;
    for (int plan = 0; plan < 3; ++plan) {
      if (plan > 0) {
        const net::StageFailed failed{rollout_->plan_id(), rollout_->epoch(),
                                      ResourceExhausted("disk full")};
        health_.OnLoadFailed("w2", {failed.status}, now);
        EXPECT_TRUE(rollout_->OnFailed(rollout_->stages()[1].link, failed, View(), now).lost);
      }
      for (stages = 0; stages == 0 && now < 20 * kSecond; now += kSecond / 8)
        stages = Poll(now).assign.size();
    }
    EXPECT_EQ(rollout_->stages()[0].planned.machine, "w1");
    EXPECT_TRUE(AllReady(now));
    return stages;
  }
  // w1 and w2 serve in epoch 42; w3 was lost and comes back, so that a better plan is begun. Its
  // assignments.
  RolloutActions ServeAndReturn() {
    Make(3);
    for (const char* name : {"w1", "w2", "w3"}) Join(name, 0);
    Poll(0);
    EXPECT_TRUE(AllReady(1));
    Lose("w3", kSecond);
    EXPECT_EQ(Poll(20 * kSecond).assign.size(), 2u);
    EXPECT_TRUE(AllReady(20 * kSecond));
    Join("w3", 100 * kSecond);
    return Poll(103 * kSecond);
  }
  // Every stage of the plan beside answers.
  void BesideReady(const RolloutActions& beside) {
    for (const auto& assign : beside.assign) {
      const stage::StageSpec& spec = assign.assignment.spec;
      EXPECT_FALSE(rollout_->WantsTake());
      const RolloutActions actions =
          rollout_->OnReady(assign.link, {spec.plan, spec.epoch, 0, 0, 0, 0}, 104 * kSecond);
      EXPECT_FALSE(actions.serve || actions.lost);
    }
  }
  void ExpectServes(Epoch epoch, size_t stages) {
    EXPECT_EQ(rollout_->state(), RolloutState::kServing);
    EXPECT_EQ(rollout_->epoch(), epoch);
    EXPECT_EQ(rollout_->stages().size(), stages);
  }
  void EverybodyLeaves() {
    while (!members_.members().empty()) members_.OnGone(members_.members().begin()->second.link);
    ++revision_;
  }
  // Serves from w1 and w2; w3 comes `then`.
  void ServeWithoutW3(TimeNs then) {
    Join("w1", 0);
    Join("w2", 0);
    Poll(2 * kSecond);
    ASSERT_TRUE(AllReady(3 * kSecond));
    Join("w3", then);
  }
  // Serves from w1, w2 and w3, then from w1 and w2.
  void ServeWithoutTheLostW3() {
    Make(0);
    for (const char* name : {"w1", "w2", "w3"}) Join(name, 0);
    Poll(2 * kSecond);
    ASSERT_TRUE(AllReady(3 * kSecond));
    Lose("w3", 10 * kSecond);
    Poll(11 * kSecond);
    ASSERT_EQ(rollout_->stages().size(), 2u);
    EXPECT_EQ(rollout_->stages()[0].planned.machine, "w1");
    ASSERT_TRUE(AllReady(12 * kSecond));
  }
  // Every stage of the current plan answers; returns whether the last one started serving.
  bool AllReady(TimeNs now) {
    bool serve = false;
    for (const AssignedStage& stage : std::vector<AssignedStage>(rollout_->stages())) {
      net::StageReady ready;
      ready.plan = rollout_->plan_id();
      ready.epoch = rollout_->epoch();
      serve = rollout_->OnReady(stage.link, ready, now).serve;
    }
    return serve;
  }

  Membership members_{{}};
  std::unique_ptr<Rollout> rollout_;
  std::set<std::string> drained_;
  MachineHealth health_{{}};
  uint64_t revision_ = 1;
  std::function<absl::StatusOr<sharding::Plan>(const sharding::PlanRequest&)> make_plan_;
  uint64_t next_link_ = 1;
  uint32_t protocol_ = kProtocolVersion;
  int plans_ = 0;
  uint64_t stage_bytes_ = 1000;  // of each stage's weights in the file
  uint64_t layer_bytes_ = 0;     // of each layer in memory; 0: a stage takes 1000
  std::function<void(sharding::Plan*)> change_plan_;
  double speed_ = 1;  // of the machines that join
};

TEST_F(RolloutTest, PlansAtOnceWhenTheExpectedAreThere) {
  Make(2);
  Join("w2", 0);
  EXPECT_TRUE(Poll(10 * kSecond).assign.empty());
  EXPECT_EQ(rollout_->why(), "1 of 2 workers have joined");
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
  EXPECT_EQ(rollout_->state(), RolloutState::kLoading);
  EXPECT_TRUE(AllReady(11 * kSecond));
  EXPECT_EQ(rollout_->state(), RolloutState::kServing);
  EXPECT_EQ(rollout_->why(), "");
}

// What a worker says of its cards is what the planner goes by.
TEST(RolloutFast, CardsWithFastAttentionReachThePlanner) {
  auto manifest = std::make_shared<model::Manifest>();
  manifest->shape.n_layers = 12;
  RolloutOptions options;
  options.manifest = manifest;
  options.context = 512;
  options.expect_workers = 1;
  options.numerics.attention = stage::AttentionForm::kFast;
  Membership members{{}};
  const std::set<std::string> drained;
  const MachineHealth health{{}};
  Rollout rollout(options);
  net::WorkerHello hello;
  hello.name = "w1";
  hello.version = kVersion;
  hello.protocol = kProtocolVersion;
  hello.stage_address = "w1:7";
  hello.memory_bytes = 10000;
  hello.base_bytes = 100;
  hello.devices = {{"cuda", "cuda:0", "", 1000, 8, true}, {"cuda", "cuda:1", "", 1000, 8, false}};
  ASSERT_TRUE(members.OnHello(net::LinkId(1), hello, 0).status.ok());
  rollout.OnJoined("w1", 0);
  const auto actions = rollout.Poll({members, drained, health, 1}, kSecond);
  ASSERT_TRUE(actions.plan);
  EXPECT_EQ(actions.plan->request.numerics.attention, stage::AttentionForm::kFast);
  std::vector<bool> seen;
  for (const auto& device : actions.plan->request.machines.at(0).devices)
    seen.push_back(device.fast_attention);
  EXPECT_EQ(seen, (std::vector<bool>{true, false}));
}

TEST_F(RolloutTest, WithoutANumberItWaitsUntilNobodyJoins) {
  Make(0);
  Join("w1", 0);
  EXPECT_TRUE(Poll(0).assign.empty());
  Join("w2", kSecond / 2);
  EXPECT_TRUE(Poll(kSecond).assign.empty());
  EXPECT_EQ(Poll(kSecond * 3 / 2).assign.size(), 2u);
}

TEST_F(RolloutTest, NoPlanFitsUntilAnotherJoins) {
  Make(0, 2);
  Join("w1", 0);
  EXPECT_TRUE(Poll(2 * kSecond).assign.empty());
  EXPECT_EQ(rollout_->state(), RolloutState::kNoFit);
  EXPECT_THAT(rollout_->why(), HasSubstr("need 2 machines"));
  Poll(3 * kSecond);
  EXPECT_EQ(plans_, 1);  // the same machines give the same answer
  Join("w2", 4 * kSecond);
  Poll(4 * kSecond);
  EXPECT_EQ(Poll(6 * kSecond).assign.size(), 2u);
}

TEST_F(RolloutTest, StaleAnswersAreIgnored) {
  Make(1);
  Join("w1", 0);
  Poll(0);
  net::StageReady ready;
  ready.plan = rollout_->plan_id();
  ready.epoch = Epoch(40);
  EXPECT_FALSE(rollout_->OnReady(net::LinkId(1), ready, 1).serve);
  ready.epoch = Epoch(41);
  EXPECT_FALSE(rollout_->OnReady(net::LinkId(9), ready, 1).serve);
  EXPECT_FALSE(
      rollout_->OnFailed(net::LinkId(1), {PlanId(40), Epoch(40), Internal("x")}, View(), 1).lost);
  EXPECT_TRUE(rollout_->OnReady(net::LinkId(1), ready, 1).serve);
}

// What the others would have to fetch takes longer than the worker may take to come back.
TEST_F(RolloutTest, ALostWorkerIsAwaitedAndTheCutIsKept) {
  stage_bytes_ = 100'000'000'000;
  Make(3);
  for (const char* name : {"w1", "w2", "w3"}) Join(name, 0);
  Poll(0);
  ASSERT_TRUE(AllReady(1));
  const auto lost = Lose("w2", kSecond).lost;
  ASSERT_TRUE(lost);
  EXPECT_TRUE(absl::IsUnavailable(*lost));
  EXPECT_THAT(std::string(lost->message()), HasSubstr("worker 'w2' (layers 4-7) was lost: reset"));
  EXPECT_TRUE(Poll(2 * kSecond).assign.empty());
  EXPECT_THAT(rollout_->why(), HasSubstr("waiting for it to come back"));
  Join("w2", 3 * kSecond);
  const auto actions = Poll(3 * kSecond);
  EXPECT_EQ(actions.assign.size(), 3u);
  EXPECT_EQ(actions.new_epoch, Epoch(42));
  EXPECT_EQ(plans_, 2);  // the same duties: survivors have their weights
  EXPECT_TRUE(AllReady(4 * kSecond));
}

// At once where little has to be fetched, and else when the lost one had its time to come back.
TEST_F(RolloutTest, WithoutTheLostOneTheOthersGoOn) {
  for (const bool costly : {false, true}) {
    SCOPED_TRACE(costly);
    EverybodyLeaves();
    stage_bytes_ = costly ? 100'000'000'000 : 1000;
    Make(3);
    for (const char* name : {"w1", "w2", "w3"}) Join(name, 0);
    Poll(0);
    ASSERT_TRUE(AllReady(1));
    ASSERT_TRUE(Lose("w3", kSecond).lost);
    const TimeNs later = kSecond + (costly ? RolloutOptions().return_wait : 0);
    if (costly) {
      EXPECT_TRUE(Poll(later - 1).assign.empty());
    }
    EXPECT_EQ(Poll(later).assign.size(), 2u);
    ASSERT_TRUE(AllReady(later));
    Join("w3", later + kSecond);
    Poll(later + 20 * kSecond);
    EXPECT_EQ(rollout_->stages().size(), 2u);  // a spare, which may load beside them
    // Used at the next plan.
    ASSERT_TRUE(Lose("w1", later + 30 * kSecond).lost);
    EXPECT_EQ(Poll(later + 60 * kSecond).assign.size(), 2u);
    EXPECT_EQ(rollout_->stages()[0].planned.machine, "w3") << "w2 keeps its layers";
  }
}

TEST_F(RolloutTest, NobodyWaitsForOneThatWasThrownOut) {
  Make(3);
  for (const char* name : {"w1", "w2", "w3"}) Join(name, 0);
  Poll(0);
  ASSERT_TRUE(AllReady(1));
  const Member thrown_out = *members_.OnGone(members_.FindByName("w2")->link);
  ASSERT_TRUE(rollout_->OnGone(thrown_out, Departure::kRevoked, "revoked", View(), kSecond).lost);
  EXPECT_EQ(Poll(kSecond).assign.size(), 2u);
  ASSERT_TRUE(AllReady(kSecond));
}

TEST_F(RolloutTest, ABetterPlanIsLoadedBesideTheOneThatServes) {
  const RolloutActions beside = ServeAndReturn();
  EXPECT_THAT(beside.note, HasSubstr("is loaded beside the one that serves: 3 of the 3 workers"));
  EXPECT_FALSE(beside.lost);
  EXPECT_EQ(beside.new_epoch, Epoch(43));
  ASSERT_EQ(beside.assign.size(), 3u);
  for (const auto& assign : beside.assign) {
    EXPECT_EQ(assign.assignment.mode, net::AssignMode::kBeside);
    EXPECT_EQ(assign.assignment.spec.epoch, Epoch(43));
  }
  EXPECT_EQ(beside.assign[1].assignment.spec.layers, (stage::LayerRange{4, 8}));
  ExpectServes(Epoch(42), 2);
  EXPECT_EQ(rollout_->beside_stages().size(), 3u);
  EXPECT_THAT(rollout_->WhyNotUsed("w3", View(), 103 * kSecond),
              HasSubstr("loaded while the pool serves without it"));
  const PlanId before = rollout_->plan_id();
  BesideReady(beside);
  ASSERT_TRUE(rollout_->WantsTake());
  EXPECT_TRUE(Poll(104 * kSecond).assign.empty());
  ExpectServes(Epoch(42), 2);
  const RolloutActions taken = rollout_->Take(View(), 105 * kSecond);
  EXPECT_TRUE(taken.serve && taken.lost && taken.loss == Loss::kChosen);
  ASSERT_EQ(taken.release.size(), 2u);
  for (const auto& release : taken.release) EXPECT_EQ(release.plan, before);
  ExpectServes(Epoch(43), 3);
  EXPECT_EQ(rollout_->plan_id(), PlanId(43));
  EXPECT_TRUE(rollout_->beside_stages().empty());
  EXPECT_EQ(rollout_->improvements(), 1u);
  EXPECT_TRUE(Poll(900 * kSecond, true).assign.empty());  // and that is that
  // It is not proven yet, so the plan before it is what a fault leads back to.
  ASSERT_TRUE(rollout_->OnFault(Unavailable("a link broke"), View(), 901 * kSecond).lost);
  EXPECT_EQ(Poll(902 * kSecond).new_epoch, Epoch(44));
  EXPECT_EQ(rollout_->stages().size(), 2u);
}

TEST_F(RolloutTest, WhatServesIsNotTouchedWhenThePlanBesideFails) {
  for (const bool dies : {false, true}) {
    SCOPED_TRACE(dies);
    EverybodyLeaves();
    const RolloutActions beside = ServeAndReturn();
    ASSERT_EQ(beside.assign.size(), 3u);
    const stage::StageSpec& spec = beside.assign[2].assignment.spec;
    const RolloutActions given_up =
        dies ? Lose("w3", 104 * kSecond)
             : rollout_->OnFailed(beside.assign[2].link, {spec.plan, spec.epoch, Internal("no")},
                                  View(), 104 * kSecond);
    EXPECT_FALSE(given_up.lost);
    EXPECT_THAT(given_up.note, HasSubstr("the better plan is given up: "));
    EXPECT_EQ(given_up.release.size(), dies ? 2u : 3u);
    for (const auto& release : given_up.release) EXPECT_EQ(release.plan, spec.plan);
    ExpectServes(Epoch(42), 2);
    EXPECT_TRUE(Poll(133 * kSecond).assign.empty());
    EXPECT_EQ(Poll(135 * kSecond).assign.size(), dies ? 0u : 3u);  // it is tried again
    ExpectServes(Epoch(42), 2);
  }
}

TEST_F(RolloutTest, WhatFailsAgainBesideIsTriedLaterAndLater) {
  RolloutActions beside = ServeAndReturn();
  TimeNs now = 104 * kSecond;
  for (const TimeNs wait : {30, 60, 120, 240}) {
    ASSERT_EQ(beside.assign.size(), 3u);
    const stage::StageSpec& spec = beside.assign[0].assignment.spec;
    rollout_->OnFailed(beside.assign[0].link, {spec.plan, spec.epoch, Internal("no")}, View(), now);
    EXPECT_TRUE(Poll(now + wait * kSecond - 1).assign.empty());
    now += wait * kSecond;
    beside = Poll(now);
  }
}

TEST_F(RolloutTest, LayersThatBothStagesHaveCountOnce) {
  layer_bytes_ = 1000;
  const RolloutActions beside = ServeAndReturn();
  ASSERT_EQ(beside.assign.size(), 3u);
  // w1 goes from 6 of these layers to 4 of them, and has 10,000 bytes.
  EXPECT_EQ(beside.assign[0].assignment.spec.layers, (stage::LayerRange{0, 4}));
  EXPECT_EQ(beside.assign[0].assignment.mode, net::AssignMode::kBeside);
}

TEST_F(RolloutTest, AStageBesideThatNeverAnswersIsGivenUp) {
  const RolloutActions beside = ServeAndReturn();
  ASSERT_EQ(beside.assign.size(), 3u);
  const TimeNs stall = RolloutOptions().load_stall;
  for (size_t i = 0; i < 3; ++i) {
    const net::LoadProgress progress{beside.assign[i].assignment.spec.plan, 10, 100};
    rollout_->OnProgress(beside.assign[i].link, progress, 102 * kSecond + stall);
  }
  EXPECT_TRUE(Poll(104 * kSecond + stall).release.empty());
  const RolloutActions given_up = Poll(103 * kSecond + 2 * stall);
  EXPECT_EQ(given_up.release.size(), 3u);
  EXPECT_THAT(given_up.note, HasSubstr("worker 'w1' (layers 0-3) neither loads nor answers"));
  ExpectServes(Epoch(42), 2);
}

// The plan that is ready does without the machine that is lost.
TEST_F(RolloutTest, ALossIsTheMomentForAPlanThatIsReady) {
  for (const bool ready : {false, true}) {
    SCOPED_TRACE(ready);
    EverybodyLeaves();
    change_plan_ = [](sharding::Plan* plan) {
      if (plan->stages.size() < 3) return;
      plan->stages = {plan->stages[2]};
      plan->stages[0].layers = {0, 12};
      plan->stages[0].embeds = true;
      plan->context = 1024;
    };
    Make(0);
    ServeWithoutW3(100 * kSecond);
    const RolloutActions beside = Poll(103 * kSecond);
    ASSERT_EQ(beside.assign.size(), 1u);
    if (ready) BesideReady(beside);
    const RolloutActions lost = Lose("w1", 105 * kSecond);
    ASSERT_TRUE(lost.lost);
    EXPECT_NE(lost.loss, Loss::kChosen);
    EXPECT_EQ(lost.serve, ready);
    ASSERT_EQ(lost.release.size(), 1u);
    EXPECT_EQ(lost.release[0].link, members_.FindByName(ready ? "w2" : "w3")->link);
    if (ready) {
      ExpectServes(Epoch(42), 1);
    } else {
      EXPECT_EQ(rollout_->state(), RolloutState::kWaiting);
    }
  }
}

// Two stages are more than a machine's memory: what can be done before the stop is done before.
TEST_F(RolloutTest, WhereTwoStagesDoNotFitTheWeightsAreFetchedFirst) {
  change_plan_ = [](sharding::Plan* plan) {
    for (auto& stage : plan->stages) stage.weights_bytes = 6000;
  };
  const RolloutActions fetch = ServeAndReturn();
  EXPECT_THAT(fetch.note, HasSubstr("fetched while another one serves"));
  ASSERT_EQ(fetch.assign.size(), 3u);
  for (const auto& assign : fetch.assign)
    EXPECT_EQ(assign.assignment.mode, net::AssignMode::kFetch);
  EXPECT_TRUE(Poll(300 * kSecond, true).assign.empty());  // they are not here yet
  BesideReady(fetch);
  EXPECT_FALSE(rollout_->WantsTake());
  EXPECT_TRUE(Poll(300 * kSecond, false).assign.empty());
  ExpectServes(Epoch(42), 2);
  const RolloutActions change = Poll(300 * kSecond, true);
  EXPECT_TRUE(change.lost && change.loss == Loss::kChosen);
  ASSERT_EQ(change.assign.size(), 3u);
  EXPECT_EQ(change.assign[0].assignment.mode, net::AssignMode::kInstead);
  EXPECT_EQ(change.new_epoch, Epoch(44));
  EXPECT_TRUE(AllReady(301 * kSecond));
}

TEST_F(RolloutTest, WhatWasFetchedIsPlannedAnewWhenTheMachinesChange) {
  change_plan_ = [](sharding::Plan* plan) {
    for (auto& stage : plan->stages) stage.weights_bytes = 6000;
  };
  const RolloutActions fetch = ServeAndReturn();
  Join("w4", 103 * kSecond);
  EXPECT_TRUE(Poll(110 * kSecond).assign.empty());  // first it is fetched
  BesideReady(fetch);
  EXPECT_EQ(Poll(111 * kSecond).release.size(), 3u);
  EXPECT_EQ(Poll(112 * kSecond).assign.size(), 4u);
  ExpectServes(Epoch(42), 2);
}

// It was planned for a third of the layers and takes three times as long for them.
TEST_F(RolloutTest, AStragglerGetsAPlanOfItsPace) {
  Make(3);
  change_plan_ = [this](sharding::Plan* plan) {
    plan->slowest_ms = 0;
    for (auto& stage : plan->stages) {
      stage.slowness = health_.pace().Slowness(stage.machine);
      const bool less = health_.pace().Slowness("w2") > 1 && stage.machine == "w2";
      stage.ms_per_token = (less ? 3 : 10) * stage.slowness;
      plan->token_ms += stage.ms_per_token;
      plan->slowest_ms = std::max(plan->slowest_ms, stage.ms_per_token);
    }
    plan->slowest_weight = 1;
  };
  for (const char* name : {"w1", "w2", "w3"}) Join(name, 0);
  Poll(0);
  ASSERT_TRUE(AllReady(1));
  health_.pace().OnPlan(rollout_->plan().stages);
  EXPECT_TRUE(Poll(10 * kSecond).assign.empty());
  for (uint64_t frames = 0; frames < 300; frames += 2) {
    const TimeNs now = 10 * kSecond + static_cast<TimeNs>(frames) * kSecond / 8;
    for (const char* name : {"w1", "w2", "w3"})
      health_.pace().OnHeartbeat(name, {0, name[1] == '2' ? 0.6 : 0.2, frames}, now);
  }
  const RolloutActions beside = Poll(60 * kSecond);
  EXPECT_THAT(beside.note, HasSubstr("a predicted time of 49 % of what it is"));
  EXPECT_EQ(beside.assign.size(), 3u);
  ExpectServes(Epoch(41), 3);
}

TEST_F(RolloutTest, AWorkerThatReturnsIsTakenInAtAQuietMomentByThoseOfTheProtocolBefore) {
  protocol_ = net::kBesideProtocol - 1;
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
  const RolloutActions actions = Poll(later + 71 * kSecond, true);
  EXPECT_EQ(plans_, plans);  // looked for once
  ASSERT_EQ(actions.assign.size(), 3u);
  EXPECT_TRUE(actions.release.empty());
  ASSERT_TRUE(actions.lost && actions.loss == Loss::kChosen);
  EXPECT_THAT(std::string(actions.lost->message()), HasSubstr("3 of the 3 workers"));
  EXPECT_EQ(actions.new_epoch, Epoch(43));
  EXPECT_EQ(rollout_->improvements(), 1u);
  EXPECT_TRUE(AllReady(later + 72 * kSecond));
  EXPECT_TRUE(Poll(later + 1000 * kSecond, true).assign.empty());  // and that is that
}

TEST_F(RolloutTest, ABetterPlanIsMoreContextThenMoreUsersThenAFifthOfTheTime) {
  protocol_ = net::kBesideProtocol - 1;
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
      plan->token_ms = with_w3 ? c.ms * 10 : 20;
      plan->slowest_ms = plan->token_ms;
      plan->slowest_weight = 2;
    };
    ServeWithoutW3(10 * kSecond);
    const std::string note = Poll(200 * kSecond, false).note;
    const RolloutActions actions = Poll(200 * kSecond, true);
    if (c.why == nullptr) {
      EXPECT_EQ(note, "");
      EXPECT_TRUE(actions.assign.empty());
    } else {
      EXPECT_THAT(note, HasSubstr(c.why));
      EXPECT_EQ(actions.assign.size(), 3u);
    }
  }
}

TEST_F(RolloutTest, ABetterPlanThatDoesNotLoadIsLeftForTheOneThatServed) {
  protocol_ = net::kBesideProtocol - 1;
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
    ASSERT_EQ(rollout_->stages().size(), 3u);
    const net::LinkId w3 = members_.FindByName("w3")->link;
    if (dies) {
      ASSERT_TRUE(Lose("w3", 201 * kSecond).lost);
    } else {
      const net::StageFailed failed{rollout_->plan_id(), rollout_->epoch(), Internal("no")};
      ASSERT_TRUE(rollout_->OnFailed(w3, failed, View(), 201 * kSecond).lost);
    }
    const RolloutActions back = Poll(202 * kSecond);  // without waiting for it
    ASSERT_EQ(back.assign.size(), 2u);
    EXPECT_EQ(back.release.size(), dies ? 0u : 1u);
    ASSERT_TRUE(AllReady(203 * kSecond));
    EXPECT_TRUE(Poll(900 * kSecond, true).assign.empty());  // not again before somebody joins
  }
}

TEST_F(RolloutTest, AFaultIsRetriedWithBackOffAndANeighboursDeathStillAwaited) {
  stage_bytes_ = 100'000'000'000;
  Make(2);
  Join("w1", 0);
  Join("w2", 0);
  Poll(0);
  ASSERT_TRUE(AllReady(1));
  ASSERT_TRUE(rollout_->OnFault(Unavailable("w1: the link to w2 broke"), View(), kSecond).lost);
  EXPECT_FALSE(Lose("w2", kSecond + 1).lost);     // is told once
  EXPECT_TRUE(Poll(3 * kSecond).assign.empty());  // waits for w2
  Join("w2", 4 * kSecond);
  EXPECT_EQ(Poll(4 * kSecond).assign.size(), 2u);
  // A stage that fails again and again is tried ever more seldom.
  TimeNs now = 5 * kSecond, last_delay = 0;
  for (int i = 0; i < 6; ++i) {
    const net::StageFailed failed{rollout_->plan_id(), rollout_->epoch(),
                                  absl::DataLossError("disk full")};
    const auto lost = rollout_->OnFailed(rollout_->stages()[1].link, failed, View(), now).lost;
    ASSERT_TRUE(lost);
    EXPECT_THAT(std::string(lost->message()), HasSubstr("worker 'w2' (layers 6-11)"));
    TimeNs delay = 0;
    while (Poll(now + delay).assign.empty()) delay += kSecond / 8;
    EXPECT_GT(delay, last_delay);
    last_delay = delay;
    now += delay;
  }
}

// The plan that failed must not be tried again for ever because it would still fit.
TEST_F(RolloutTest, AMachineThatFailsTwiceIsLeftOut) { EXPECT_EQ(StagesAfterTwoFailures(), 1u); }

TEST_F(RolloutTest, UnlessTheOthersCannotHoldTheModel) {
  change_plan_ = [](sharding::Plan* plan) {
    if (plan->stages.size() < 2) *plan = {};
  };
  EXPECT_EQ(StagesAfterTwoFailures(), 2u);
}

TEST_F(RolloutTest, AStageThatNeverAnswersIsGivenUp) {
  Make(1);
  Join("w1", 0);
  Poll(0);
  const TimeNs stall = RolloutOptions().load_stall;
  rollout_->OnProgress(net::LinkId(1), {rollout_->plan_id(), 10, 100}, stall - 1);
  EXPECT_FALSE(Poll(stall).lost);
  const auto lost = Poll(2 * stall).lost;
  ASSERT_TRUE(lost);
  EXPECT_THAT(std::string(lost->message()), HasSubstr("neither loads nor answers"));
}

// The newcomer may have all of its weights to fetch, over a slow line.
TEST_F(RolloutTest, AfterALossThoseThatHaveHadLayersGoOnWithoutANewcomer) {
  Make(2);
  for (const char* name : {"w1", "w2"}) Join(name, 0);
  Poll(0);
  ASSERT_TRUE(AllReady(1));
  Join("w3", 10 * kSecond);
  Poll(12 * kSecond);
  Lose("w1", 13 * kSecond);
  const RolloutActions assigned = Poll(30 * kSecond);
  ASSERT_EQ(assigned.assign.size(), 1u);
  EXPECT_EQ(rollout_->stages()[0].planned.machine, "w2");
  // It takes part when it has loaded beside it.
  ASSERT_TRUE(AllReady(31 * kSecond));
  EXPECT_EQ(Poll(34 * kSecond).assign.size(), 2u);
}

TEST_F(RolloutTest, ANewcomerIsTakenAfterALossWhereTheOthersHaveNotTheRoom) {
  Make(2);
  for (const char* name : {"w1", "w2"}) Join(name, 0);
  Poll(0);
  ASSERT_TRUE(AllReady(1));
  change_plan_ = [](sharding::Plan* plan) {
    if (plan->stages.size() < 2) plan->context /= 2;
  };
  Join("w3", 10 * kSecond);
  Poll(12 * kSecond);
  Lose("w1", 13 * kSecond);
  EXPECT_EQ(Poll(30 * kSecond).assign.size(), 2u) << "a shorter context would end long texts";
}

TEST_F(RolloutTest, SaysWhenItWillBeReadyByHowFastItLoaded) {
  Make(2);
  EXPECT_EQ(rollout_->ReadyIn(0), std::nullopt);
  Join("w1", 0);
  Join("w2", 0);
  Poll(kSecond);
  const PlanId plan = rollout_->plan_id();
  rollout_->OnProgress(net::LinkId(1), {plan, 25, 100}, 6 * kSecond);
  EXPECT_EQ(rollout_->ReadyIn(6 * kSecond), std::nullopt) << "w2 has not come forward";
  rollout_->OnProgress(net::LinkId(2), {plan, 50, 100}, 6 * kSecond);
  EXPECT_EQ(rollout_->ReadyIn(6 * kSecond), 15 * kSecond);
  EXPECT_EQ(rollout_->ReadyIn(9 * kSecond), 12 * kSecond);
  EXPECT_EQ(rollout_->ReadyIn(90 * kSecond), 0) << "it was expected earlier";
  ASSERT_TRUE(AllReady(100 * kSecond));
  EXPECT_EQ(rollout_->ReadyIn(101 * kSecond), std::nullopt);
}

// [0, 4) [4, 8) [8, 12) on w1, w2 and w3: when w1 is lost, the planner would give [0, 6) to w2 and
// [6, 12) to w3, and when it is back, [0, 4) to w1 again.
TEST_F(RolloutTest, MachinesThatAreAlikeKeepTheirLayers) {
  ServeWithoutTheLostW3();
  Join("w3", 13 * kSecond);
  Lose("w1", 20 * kSecond);
  Poll(21 * kSecond);
  ASSERT_EQ(rollout_->stages().size(), 2u);
  EXPECT_EQ(rollout_->stages()[0].planned.machine, "w3") << "w2 keeps [6, 12)";
  EXPECT_EQ(rollout_->stages()[1].planned.machine, "w2");
}

TEST_F(RolloutTest, UnlikeMachinesDoNotChangePlaces) {
  ServeWithoutTheLostW3();
  speed_ = 2;
  Join("w3", 13 * kSecond);
  Lose("w1", 20 * kSecond);
  Poll(21 * kSecond);
  ASSERT_EQ(rollout_->stages().size(), 2u);
  EXPECT_EQ(rollout_->stages()[0].planned.machine, "w2") << "the plan counts on its speed";
}

TEST_F(RolloutTest, AStragglerIsNotAlike) {
  ServeWithoutTheLostW3();
  std::vector<sharding::PlannedStage> measured(2);
  measured[0].machine = "w2";
  measured[1].machine = "w3";
  for (auto& stage : measured) stage.ms_per_token = 10;
  health_.pace().OnPlan(measured);
  for (uint64_t frames = 0; frames < 300; frames += 2) {
    const TimeNs now = 2 * kSecond + static_cast<TimeNs>(frames) * kSecond / 100;
    for (const char* name : {"w2", "w3"})
      health_.pace().OnHeartbeat(name, {0, name[1] == '3' ? 0.9 : 0.2, frames}, now);
  }
  ASSERT_GT(health_.pace().Slowness("w3"), 2);
  Join("w3", 13 * kSecond);
  Lose("w1", 20 * kSecond);
  Poll(21 * kSecond);
  ASSERT_EQ(rollout_->stages().size(), 2u);
  EXPECT_EQ(rollout_->stages()[0].planned.machine, "w2") << "it would have w3's share of the work";
}

// A drained worker may be allowed back while it holds a stage of a plan that was lost: it still has
// to be told that the next plan does without it.
TEST_F(RolloutTest, AWorkerThatIsAllowedBackIsStillReleased) {
  Make(0);
  Join("w1", 0);
  Join("w2", 0);
  Poll(2 * kSecond);
  ASSERT_TRUE(AllReady(3 * kSecond));
  drained_ = {"w2"};
  ++revision_;
  ASSERT_TRUE(rollout_->OnFault(Unavailable("steps do not come back"), View(), 4 * kSecond).lost);
  rollout_->OnJoined("w2", 4 * kSecond);  // PoolMachine::Undrain says so
  const RolloutActions next = Poll(6 * kSecond);
  ASSERT_EQ(next.assign.size(), 1u);
  ASSERT_EQ(next.release.size(), 1u);
  EXPECT_EQ(next.release[0].link, members_.FindByName("w2")->link);
}

}  // namespace
}  // namespace lanyard::coordinator
