// The worker's state machine alone. Whole lives of it, with everything that may happen on the way,
// are in tests/sim.
#include "worker/machine.h"

#include <gtest/gtest.h>

#include <optional>

namespace lanyard::worker {
namespace {

class MachineTest : public ::testing::Test {
 protected:
  void On(MachineEvent::Any event) {
    machine_.On(std::move(event), now_);
    for (MachineAction::Any& action : machine_.TakeActions()) actions_.push_back(std::move(action));
  }
  void Tick(TimeNs delay) {
    now_ += delay;
    On(MachineEvent::Tick{heard_});
  }
  // The last action of this kind since the last call, or nullopt.
  template <typename A>
  std::optional<A> Did() {
    std::optional<A> found;
    for (const MachineAction::Any& action : actions_) {
      if (const auto* a = std::get_if<A>(&action)) found = *a;
    }
    return found;
  }
  template <typename M>
  std::optional<M> Sent() {
    std::optional<M> found;
    for (const MachineAction::Any& action : actions_) {
      const auto* send = std::get_if<MachineAction::Send>(&action);
      if (send == nullptr) continue;
      if (const auto* message = std::get_if<M>(&send->event)) found = *message;
    }
    return found;
  }
  void Join() {
    Tick(0);
    On(MachineEvent::CardsLooked{});
    session_ = Did<MachineAction::OpenSession>().value().session;
    On(MachineEvent::Welcomed{session_});
    heard_ = now_;
    actions_.clear();
  }
  static net::Assignment Assignment(uint64_t plan, uint64_t epoch) {
    net::Assignment out;
    out.spec.plan = PlanId(plan);
    out.spec.epoch = Epoch(epoch);
    out.spec.layers = {3, 8};
    out.next_worker = "w2";
    out.next_node = "node2";
    return out;
  }
  void Assign(uint64_t plan, uint64_t epoch, net::AssignMode mode = net::AssignMode::kInstead) {
    net::Assignment assignment = Assignment(plan, epoch);
    assignment.mode = mode;
    On(MachineEvent::Assigned{session_, std::move(assignment)});
  }
  void Loaded(uint64_t plan, uint64_t epoch, NextLinkId next = NextLinkId(1), bool open = true) {
    On(MachineEvent::LoadEnded{PlanId(plan), Epoch(epoch), absl::OkStatus(), false, next, open});
  }
  void Ready(uint64_t plan, uint64_t epoch, net::AssignMode mode = net::AssignMode::kInstead) {
    Assign(plan, epoch, mode);
    Loaded(plan, epoch, NextLinkId(epoch));
    On(MachineEvent::StageStarted{PlanId(plan), Epoch(epoch), absl::OkStatus(), 7, 8, 9});
    ASSERT_TRUE(Sent<net::StageReady>().has_value());
    actions_.clear();
  }

  WorkerMachine machine_{{"w1", "coordinator:1"}};
  TimeNs now_ = kSecond;
  TimeNs heard_ = 0;
  SessionId session_;
  std::vector<MachineAction::Any> actions_;
};

TEST_F(MachineTest, JoinsWithTheCardsOfNow) {
  Tick(0);
  EXPECT_TRUE(Did<MachineAction::LookAtCards>());
  EXPECT_FALSE(Did<MachineAction::OpenSession>());
  net::DeviceHello card;
  card.name = "cuda:0";
  card.memory_bytes = uint64_t{4} << 30;
  On(MachineEvent::DevicesSeen{{card}});
  On(MachineEvent::CardsLooked{});
  ASSERT_TRUE(Did<MachineAction::OpenSession>());
  EXPECT_EQ(Did<MachineAction::OpenSession>()->devices.size(), 1u);
  // What changes a little is not told; what changes much is.
  card.memory_bytes -= uint64_t{1} << 20;
  On(MachineEvent::DevicesSeen{{card}});
  EXPECT_FALSE(Sent<net::DevicesChanged>());
  card.memory_bytes -= uint64_t{1} << 30;
  On(MachineEvent::DevicesSeen{{card}});
  EXPECT_TRUE(Sent<net::DevicesChanged>());
}

TEST_F(MachineTest, ADriverThatDoesNotAnswerDelaysTheHelloOnlyALittle) {
  Tick(0);
  Tick(kSecond - 1);
  EXPECT_FALSE(Did<MachineAction::OpenSession>());
  Tick(1);
  EXPECT_TRUE(Did<MachineAction::OpenSession>());
  actions_.clear();
  On(MachineEvent::CardsLooked{});  // too late: it opens no second session
  EXPECT_FALSE(Did<MachineAction::OpenSession>());
}

TEST_F(MachineTest, TriesAgainLaterAndLater) {
  TimeNs waited_before = 0;
  for (int i = 0; i < 8; ++i) {
    TimeNs waited = 0;
    while (!Did<MachineAction::LookAtCards>()) {
      Tick(10 * kMillisecond);
      waited += 10 * kMillisecond;
    }
    On(MachineEvent::CardsLooked{});
    session_ = Did<MachineAction::OpenSession>().value().session;
    actions_.clear();
    On(MachineEvent::SessionClosed{session_, Unavailable("refused")});
    EXPECT_GE(waited, waited_before);
    EXPECT_LE(waited, 2 * kSecond);
    waited_before = waited;
    actions_.clear();
  }
  EXPECT_EQ(waited_before, 2 * kSecond);
}

TEST_F(MachineTest, IsReadyOnlyWhenTheStageRuns) {
  Join();
  Assign(5, 9);
  EXPECT_EQ(Did<MachineAction::Expect>().value().epoch, Epoch(9));
  ASSERT_TRUE(Did<MachineAction::Load>());
  Loaded(5, 9);
  ASSERT_TRUE(Did<MachineAction::StartStage>());
  EXPECT_FALSE(Sent<net::StageReady>());
  On(MachineEvent::StageStarted{PlanId(5), Epoch(9), absl::OkStatus(), 7, 8, 9});
  ASSERT_TRUE(Sent<net::StageReady>());
  EXPECT_EQ(Sent<net::StageReady>()->kv_bytes, 8u);
  EXPECT_EQ(machine_.doing(), "runs layers 3-7 for coordinator:1");
}

TEST_F(MachineTest, AStageThatDoesNotStartHasFailed) {
  Join();
  Assign(5, 9);
  Loaded(5, 9);
  On(MachineEvent::StageStarted{PlanId(5), Epoch(9), ResourceExhausted("no thread")});
  EXPECT_FALSE(Sent<net::StageReady>());
  EXPECT_TRUE(absl::IsResourceExhausted(Sent<net::StageFailed>().value().status));
}

TEST_F(MachineTest, ALinkThatBrokeBeforeTheStageStartedIsTheNextWorkersFault) {
  Join();
  Assign(5, 9);
  Loaded(5, 9, NextLinkId(3), /*open=*/false);
  EXPECT_FALSE(Did<MachineAction::StartStage>());
  ASSERT_TRUE(Sent<net::StageFailed>());
  EXPECT_EQ(Sent<net::StageFailed>()->unreachable, "w2");
  EXPECT_EQ(Sent<net::StageFailed>()->cause, net::LoadCause::kUnreachable);
}

TEST_F(MachineTest, ALoadThatWasReplacedIsForgotten) {
  Join();
  Assign(5, 9);
  Assign(5, 10);
  actions_.clear();
  Loaded(5, 9);
  EXPECT_FALSE(Did<MachineAction::StartStage>());
  Loaded(5, 10);
  EXPECT_EQ(Did<MachineAction::StartStage>().value().epoch, Epoch(10));
}

TEST_F(MachineTest, OlderEpochsAreRefusedAlsoAfterARelease) {
  Join();
  Ready(5, 9);
  Assign(4, 8);
  ASSERT_TRUE(Sent<net::StageFailed>());
  EXPECT_EQ(Sent<net::StageFailed>()->epoch, Epoch(8));
  EXPECT_FALSE(Did<MachineAction::StopStage>());  // it goes on with its own
  On(MachineEvent::Released{session_, PlanId(5)});
  EXPECT_TRUE(Did<MachineAction::StopStage>());
  EXPECT_TRUE(Did<MachineAction::Unload>());
  actions_.clear();
  Assign(5, 9);
  EXPECT_FALSE(Did<MachineAction::Load>());
}

TEST_F(MachineTest, ARepeatedAssignmentDoesNotStopItsStage) {
  Join();
  Ready(5, 9);
  Assign(5, 9);
  EXPECT_TRUE(actions_.empty());
  Ready(6, 10, net::AssignMode::kBeside);
  Assign(5, 9);
  EXPECT_TRUE(actions_.empty());
}

TEST_F(MachineTest, AReleaseOfAnotherPlanIsIgnored) {
  Join();
  Ready(5, 9);
  On(MachineEvent::Released{session_, PlanId(4)});
  EXPECT_TRUE(actions_.empty());
}

TEST_F(MachineTest, AStageBesideTakesThePlaceOfTheOneThatIsReleased) {
  Join();
  Ready(5, 9);
  Assign(6, 10, net::AssignMode::kBeside);
  EXPECT_FALSE(Did<MachineAction::StopStage>() || Did<MachineAction::Forget>());
  EXPECT_EQ(Did<MachineAction::Expect>().value().epoch, Epoch(10));
  EXPECT_EQ(Did<MachineAction::Load>().value().keep, Epoch(9));
  On(MachineEvent::LoadProgress{PlanId(6), 1, 2});
  EXPECT_TRUE(Sent<net::LoadProgress>());
  Loaded(6, 10, NextLinkId(10));
  On(MachineEvent::StageStarted{PlanId(6), Epoch(10), absl::OkStatus()});
  EXPECT_EQ(Sent<net::StageReady>().value().epoch, Epoch(10));
  actions_.clear();
  On(MachineEvent::Released{session_, PlanId(5)});
  EXPECT_EQ(Did<MachineAction::StopStage>().value().epoch, Epoch(9));
  EXPECT_EQ(Did<MachineAction::Forget>().value().epoch, Epoch(9));
  EXPECT_EQ(Did<MachineAction::Unload>().value().keep, Epoch(10));
  // Now it is the one beside which another may stand, and that can be lost.
  Assign(7, 11, net::AssignMode::kBeside);
  EXPECT_EQ(Did<MachineAction::Load>().value().keep, Epoch(10));
  On(MachineEvent::NextClosed{NextLinkId(9), Unavailable("reset")});
  EXPECT_FALSE(Sent<net::StageFailed>());
  On(MachineEvent::NextClosed{NextLinkId(10), Unavailable("reset")});
  EXPECT_EQ(Sent<net::StageFailed>().value().epoch, Epoch(10));
}

TEST_F(MachineTest, WhatFailsOrIsReleasedBesideLeavesTheOtherStageAlone) {
  Join();
  Ready(5, 9);
  Ready(6, 10, net::AssignMode::kBeside);
  On(MachineEvent::NextClosed{NextLinkId(10), Unavailable("reset")});
  EXPECT_EQ(Did<MachineAction::StopStage>().value().epoch, Epoch(10));
  EXPECT_EQ(Sent<net::StageFailed>().value().epoch, Epoch(10));
  actions_.clear();
  On(MachineEvent::Released{session_, PlanId(6)});
  EXPECT_FALSE(Did<MachineAction::StopStage>());
  EXPECT_EQ(Did<MachineAction::Forget>().value().epoch, Epoch(10));
  EXPECT_EQ(Did<MachineAction::Unload>().value().keep, Epoch(9));
  EXPECT_EQ(machine_.doing(), "runs layers 3-7 for coordinator:1");
}

TEST_F(MachineTest, AnAssignmentInsteadEndsBothStages) {
  Join();
  Ready(5, 9);
  Ready(6, 10, net::AssignMode::kBeside);
  Assign(7, 11);
  size_t stopped = 0;
  for (const MachineAction::Any& action : actions_)
    stopped += std::holds_alternative<MachineAction::StopStage>(action) ? 1 : 0;
  EXPECT_EQ(stopped, 2u);
  EXPECT_EQ(Did<MachineAction::Load>().value().keep, Epoch());
}

TEST_F(MachineTest, WithoutAStageItsStageIsTheOneBesideThoseOfOthers) {
  Join();
  Ready(6, 10, net::AssignMode::kBeside);
  EXPECT_EQ(machine_.doing(), "runs layers 3-7 for coordinator:1");
  On(MachineEvent::Released{session_, PlanId(5)});  // which it never had
  EXPECT_TRUE(actions_.empty());
}

TEST_F(MachineTest, WeightsAreFetchedForNoStage) {
  Join();
  Ready(5, 9);
  Assign(6, 10, net::AssignMode::kFetch);
  EXPECT_FALSE(Did<MachineAction::Expect>() || Did<MachineAction::StopStage>());
  EXPECT_EQ(Did<MachineAction::Load>().value().keep, Epoch(9));
  On(MachineEvent::LoadEnded{PlanId(6), Epoch(10), absl::OkStatus(), false, NextLinkId(), false,
                             7});
  EXPECT_FALSE(Did<MachineAction::StartStage>());
  EXPECT_EQ(Sent<net::StageReady>().value().fetched_bytes, 7u);
  actions_.clear();
  On(MachineEvent::Released{session_, PlanId(6)});
  EXPECT_FALSE(Did<MachineAction::Forget>());
  EXPECT_EQ(Did<MachineAction::Unload>().value().keep, Epoch(9));
}

TEST_F(MachineTest, OnlyTheOpenLinkToTheNextStageCounts) {
  Join();
  Assign(5, 9);
  On(MachineEvent::NextClosed{NextLinkId(6), Unavailable("try again")});
  Loaded(5, 9, NextLinkId(7));
  On(MachineEvent::StageStarted{PlanId(5), Epoch(9), absl::OkStatus()});
  On(MachineEvent::NextClosed{NextLinkId(6), Unavailable("try again")});
  EXPECT_FALSE(Sent<net::StageFailed>());
  On(MachineEvent::NextClosed{NextLinkId(7), Unavailable("reset")});
  ASSERT_TRUE(Sent<net::StageFailed>());
  EXPECT_EQ(Sent<net::StageFailed>()->unreachable, "w2");
  EXPECT_TRUE(Did<MachineAction::StopStage>());
}

TEST_F(MachineTest, WhatIsLostWithTheResultsEndsEveryStage) {
  Join();
  Ready(5, 9);
  Ready(6, 10, net::AssignMode::kBeside);
  On(MachineEvent::ResultsClosed{session_, Unavailable("reset")});
  EXPECT_TRUE(Did<MachineAction::StopStage>());
  EXPECT_TRUE(Sent<net::StageFailed>());
  EXPECT_FALSE(Did<MachineAction::OpenResults>());
  Tick(100 * kMillisecond);
  EXPECT_TRUE(Did<MachineAction::OpenResults>());
}

TEST_F(MachineTest, NothingOfASessionOutlivesIt) {
  Join();
  Ready(5, 9);
  const SessionId before = session_;
  On(MachineEvent::SessionClosed{before, Unavailable("reset")});
  EXPECT_TRUE(Did<MachineAction::StopStage>());
  EXPECT_EQ(Did<MachineAction::Forget>().value().epoch, Epoch(9));
  EXPECT_TRUE(Did<MachineAction::CloseResults>());
  EXPECT_TRUE(Did<MachineAction::CloseSession>());
  EXPECT_FALSE(Did<MachineAction::Unload>());  // the same stage may be wanted again at once
  actions_.clear();
  now_ += kSecond;
  Join();
  EXPECT_NE(session_, before);
  On(MachineEvent::Assigned{before, Assignment(5, 10)});
  On(MachineEvent::Welcomed{before});
  EXPECT_TRUE(actions_.empty());
  Assign(2, 3);  // another coordinator counts its own epochs
  EXPECT_TRUE(Did<MachineAction::Load>());
}

TEST_F(MachineTest, ASilentCoordinatorIsLeft) {
  Join();
  Tick(net::kDeadAfterMs * kMillisecond);
  EXPECT_TRUE(Did<MachineAction::Beat>());
  EXPECT_FALSE(Did<MachineAction::CloseSession>());
  Tick(1);
  EXPECT_TRUE(Did<MachineAction::CloseSession>());
}

TEST_F(MachineTest, ALostCardIsToldAfterWhatWasComputed) {
  Join();
  Ready(5, 9);
  On(MachineEvent::StageLost{PlanId(5), Epoch(8), Unavailable("an earlier stage")});
  EXPECT_TRUE(actions_.empty());
  On(MachineEvent::StageLost{PlanId(5), Epoch(9), Unavailable("the card is gone")});
  std::vector<size_t> order;
  for (const MachineAction::Any& action : actions_) {
    if (!std::holds_alternative<MachineAction::Log>(action)) order.push_back(action.index());
  }
  const auto index = [](MachineAction::Any action) { return action.index(); };
  const std::vector<size_t> want = {
      index(MachineAction::StopStage{}),    index(MachineAction::FinishResults{}),
      index(MachineAction::Send{}),         index(MachineAction::Forget{}),
      index(MachineAction::CancelLoad{}),   index(MachineAction::CloseResults{}),
      index(MachineAction::CloseSession{}), index(MachineAction::Unload{})};
  EXPECT_EQ(order, want);
}

TEST_F(MachineTest, ARevokedNeighbourEndsTheStage) {
  Join();
  Ready(5, 9);
  On(MachineEvent::Revoked{session_, {"node7"}});
  EXPECT_EQ(Did<MachineAction::Ban>().value().added, std::vector<std::string>{"node7"});
  EXPECT_FALSE(Sent<net::StageFailed>());
  On(MachineEvent::Revoked{session_, {"node7", "node2"}});
  EXPECT_EQ(Did<MachineAction::Ban>().value().added, std::vector<std::string>{"node2"});
  EXPECT_EQ(Did<MachineAction::Ban>()->all.size(), 2u);
  EXPECT_TRUE(Sent<net::StageFailed>());
}

TEST_F(MachineTest, OnlyTheLatestMeasurementIsAnswered) {
  Join();
  net::DiagnoseRequest request;
  request.id = 3;
  On(MachineEvent::DiagnoseAsked{session_, request, 1000});
  request.id = 4;
  On(MachineEvent::DiagnoseAsked{session_, request, 2000});
  net::Diagnosis diagnosis;
  diagnosis.id = 3;
  On(MachineEvent::Measured{diagnosis});
  EXPECT_FALSE(Sent<net::Diagnosis>());
  diagnosis.id = 4;
  On(MachineEvent::Measured{diagnosis});
  EXPECT_EQ(Sent<net::Diagnosis>().value().received_unix_ms, 2000);
}

TEST_F(MachineTest, LeavesWithAWordWhereThereIsOneToHearIt) {
  WorkerMachine alone({"w9", "coordinator:1"});
  alone.On(MachineEvent::LeaveAsked{"told to stop"}, now_);
  EXPECT_TRUE(alone.stopped());
  EXPECT_TRUE(alone.TakeActions().empty());
  Join();
  Ready(5, 9);
  On(MachineEvent::LeaveAsked{"told to stop"});
  EXPECT_TRUE(machine_.stopped());
  EXPECT_TRUE(Did<MachineAction::FinishResults>());
  EXPECT_EQ(Did<MachineAction::SayLeaving>().value().reason, "told to stop");
  actions_.clear();
  Tick(kSecond);
  EXPECT_TRUE(actions_.empty());
}

TEST_F(MachineTest, LeavesBeforeItsMachineSleepsAndComesBackWhenItWakes) {
  Join();
  Ready(5, 9);
  On(MachineEvent::SleepAsked{});
  EXPECT_FALSE(machine_.stopped());
  EXPECT_EQ(Did<MachineAction::StopStage>().value().epoch, Epoch(9));
  EXPECT_EQ(Did<MachineAction::SayLeaving>().value().reason, "its machine goes to sleep");
  EXPECT_TRUE(Did<MachineAction::CloseSession>());
  EXPECT_FALSE(Did<MachineAction::Unload>()) << "its layers are wanted again";
  EXPECT_EQ(machine_.doing(), "the machine sleeps");
  actions_.clear();
  Tick(10 * kSecond);
  EXPECT_TRUE(actions_.empty());
  On(MachineEvent::Woke{});
  Tick(0);
  EXPECT_TRUE(Did<MachineAction::LookAtCards>()) << "before the hello";
  actions_.clear();
  Join();

  // A machine that does not sleep after all, and nobody says so.
  On(MachineEvent::SleepAsked{});
  actions_.clear();
  Tick(19 * kSecond);
  EXPECT_TRUE(actions_.empty());
  Tick(kSecond);
  EXPECT_TRUE(Did<MachineAction::LookAtCards>());
}

TEST_F(MachineTest, ARefusalForGoodStops) {
  Join();
  On(MachineEvent::Refused{session_, FailedPrecondition("another protocol"), true});
  EXPECT_TRUE(machine_.stopped());
  EXPECT_TRUE(absl::IsFailedPrecondition(machine_.status()));
}

}  // namespace
}  // namespace lanyard::worker
