// Daemons against a CoordinatorServer over loopback, with a fake stage: joining, loading, frames,
// loss and return.
#include "worker/daemon.h"

#include <fcntl.h>
#include <gtest/gtest.h>
#include <spawn.h>
#include <sys/wait.h>

#include <csignal>
#include <optional>

#include "base/clock.h"
#include "base/file.h"
#include "net/coordinator_client.h"
#include "worker/process.h"
#include "worker/testing_coordinator.h"
#include "worker/testing_util.h"

extern char** environ;

namespace lanyard::worker {
namespace {

using testing::FakeCoordinator;
using testing::WaitFor;

DaemonOptions Options(const std::string& join, const std::string& name, const std::string& state,
                      testing::FakeControls* controls) {
  DaemonOptions out;
  out.join = join;
  out.name = name;
  out.memory_bytes = uint64_t{8} << 30;
  out.weights.state_dir = state;
  out.factory = testing::FakeStages(controls);
  return out;
}

class DaemonTest : public ::testing::Test {
 protected:
  void SetUp() override { coordinator_ = std::make_unique<FakeCoordinator>(model_.Provider()); }

  std::unique_ptr<Daemon> Start(int i) {
    const std::string name = absl::StrCat("w", i);
    const std::string state = absl::StrCat(dir_.path(), "/", name);
    EXPECT_TRUE(MakePrivateDir(state).ok());
    auto daemon =
        Daemon::Start(Options(coordinator_->server()->address(), name, state, &controls_[i]));
    EXPECT_TRUE(daemon.ok()) << daemon.status();
    return *std::move(daemon);
  }
  net::LinkId Joined(const std::string& name) {
    EXPECT_TRUE(WaitFor([&] { return coordinator_->Link(name).has_value(); }))
        << name << " did not join";
    return coordinator_->Link(name).value_or(net::LinkId());
  }
  // Stage 0 to w0, stage 1 to w1, both ready.
  void AssignBoth(uint64_t epoch) {
    const net::LinkId w0 = Joined("w0");
    const net::LinkId w1 = Joined("w1");
    net::Assignment first = model_.Assign(0, epoch);
    first.next_worker = "w1";
    first.next_address = coordinator_->Hello("w1").stage_address;
    coordinator_->server()->Assign(w0, first);
    coordinator_->server()->Assign(w1, model_.Assign(1, epoch));
    ASSERT_TRUE(WaitFor([&] {
      return coordinator_->Ready(w0, epoch) && coordinator_->Ready(w1, epoch);
    })) << (coordinator_->failed().empty() ? absl::OkStatus() : coordinator_->failed()[0].status);
  }
  std::unique_ptr<net::RemoteStage> First(uint64_t epoch) {
    net::RemoteStageOptions options;
    options.address = coordinator_->Hello("w0").stage_address;
    options.from = "coordinator";
    options.plan = PlanId(5);
    options.epoch = Epoch(epoch);
    auto stage = net::RemoteStage::Connect(options);
    EXPECT_TRUE(stage->WaitReady(3000).ok());
    return stage;
  }

  testing::TinyModel model_;
  testing::TempDir dir_;
  testing::FakeControls controls_[3];
  std::unique_ptr<FakeCoordinator> coordinator_;
};

TEST_F(DaemonTest, FramesFlowThroughTwoWorkers) {
  const auto w0 = Start(0);
  const auto w1 = Start(1);
  AssignBoth(1);
  const net::StageReady ready = *coordinator_->Ready(Joined("w0"), 1);
  EXPECT_EQ(ready.weights_bytes, 100u);
  EXPECT_EQ(ready.fetched_bytes,
            model_.manifest()->Find("embed")->bytes + model_.manifest()->Find("layer.0")->bytes +
                (model_.manifest()->Find("common") ? model_.manifest()->Find("common")->bytes : 0));
  const auto first = First(1);
  for (uint64_t step = 0; step < 50; ++step) ASSERT_TRUE(first->Send(model_.Frame(1, step)).ok());
  ASSERT_TRUE(coordinator_->results().WaitCount(50));
  const auto results = coordinator_->results().all();
  for (uint64_t step = 0; step < 50; ++step) {
    EXPECT_TRUE(results[step].status.ok()) << results[step].status;
    EXPECT_EQ(results[step].step, StepId(step));
    EXPECT_EQ(results[step].worker, "w1");
    EXPECT_EQ(results[step].tokens.size(), 1u);
  }
  EXPECT_TRUE(WaitFor([&] { return coordinator_->beats() >= 4; }));
}

TEST_F(DaemonTest, WhatALeavingWorkerComputedIsHomeBeforeItLeaves) {
  const auto w0 = Start(0);
  auto w1 = Start(1);
  AssignBoth(1);
  const auto first = First(1);
  for (uint64_t step = 0; step < 300; ++step) ASSERT_TRUE(first->Send(model_.Frame(1, step)).ok());
  ASSERT_TRUE(WaitFor([&] { return controls_[1].runs >= 20; }));
  w1->Leave("told to stop");
  w1.reset();
  ASSERT_TRUE(WaitFor([&] { return coordinator_->leaving() == 1; }));
  const size_t at_leaving = coordinator_->results_at_leaving();
  EXPECT_GE(
      at_leaving + 1,
      static_cast<size_t>(controls_[1].runs));  // one may have been stopped between its layers
  size_t computed = 0;
  for (const stage::StepResult& result : coordinator_->results().all())
    computed += result.status.ok() ? 1 : 0;
  EXPECT_GE(computed + 1, static_cast<size_t>(controls_[1].runs));
}

// Its frame's error comes home, the stage is freed, and the worker joins again with what it has
// left.
TEST_F(DaemonTest, ALostStageIsFreedAndItsWorkerJoinsAgain) {
  const auto w0 = Start(0);
  const auto w1 = Start(1);
  AssignBoth(1);
  const net::LinkId before = Joined("w1");
  controls_[1].lost = true;
  const auto first = First(1);
  ASSERT_TRUE(first->Send(model_.Frame(1, 0)).ok());
  ASSERT_TRUE(WaitFor([&] { return coordinator_->Link("w1").value_or(before) != before; }));
  EXPECT_TRUE(WaitFor([&] { return controls_[1].alive == 0; }));
  controls_[1].lost = false;
  AssignBoth(2);
  EXPECT_EQ(controls_[1].created, 2);
  const auto again = First(2);
  ASSERT_TRUE(again->Send(model_.Frame(2, 1)).ok());
  EXPECT_TRUE(WaitFor([&] {
    const auto results = coordinator_->results().all();
    return !results.empty() && results.back().status.ok() && results.back().step == StepId(1);
  }));
}

TEST_F(DaemonTest, NewEpochOfTheSameDutyLoadsNothing) {
  const auto w0 = Start(0);
  const auto w1 = Start(1);
  AssignBoth(1);
  const auto stale = First(1);
  AssignBoth(2);
  EXPECT_EQ(controls_[0].created, 1);
  EXPECT_EQ(controls_[1].created, 1);
  EXPECT_EQ(coordinator_->Ready(Joined("w0"), 2)->fetched_bytes, 0u);
  // A frame of the old epoch is refused with an error, and the new one works.
  ASSERT_TRUE(stale->Send(model_.Frame(1, 1)).ok());
  ASSERT_TRUE(coordinator_->results().WaitCount(1));
  EXPECT_TRUE(absl::IsFailedPrecondition(coordinator_->results().all()[0].status));
  const auto first = First(2);
  ASSERT_TRUE(first->Send(model_.Frame(2, 2)).ok());
  ASSERT_TRUE(coordinator_->results().WaitCount(2));
  EXPECT_TRUE(coordinator_->results().all()[1].status.ok());
  // An assignment of an earlier epoch is refused, and the stage stays at work.
  coordinator_->server()->Assign(Joined("w1"), model_.Assign(1, 1));
  ASSERT_TRUE(WaitFor([&] { return !coordinator_->failed().empty(); }));
  EXPECT_TRUE(absl::IsFailedPrecondition(coordinator_->failed()[0].status));
  ASSERT_TRUE(first->Send(model_.Frame(2, 3)).ok());
  ASSERT_TRUE(coordinator_->results().WaitCount(3));
  EXPECT_TRUE(coordinator_->results().all()[2].status.ok());
}

TEST_F(DaemonTest, AnotherDutyFreesTheOldStageFirst) {
  const auto w0 = Start(0);
  const net::LinkId link = Joined("w0");
  net::Assignment last = model_.Assign(1, 1);
  coordinator_->server()->Assign(link, last);
  ASSERT_TRUE(WaitFor([&] { return coordinator_->Ready(link, 1).has_value(); }));
  last.spec.epoch = Epoch(2);
  last.spec.group_blocks = {4};
  coordinator_->server()->Assign(link, last);
  ASSERT_TRUE(WaitFor([&] { return coordinator_->Ready(link, 2).has_value(); }));
  EXPECT_EQ(controls_[0].created, 2);
  EXPECT_EQ(controls_[0].peak_alive, 1);
  EXPECT_EQ(coordinator_->Ready(link, 2)->fetched_bytes, 0u);  // from the cache
  coordinator_->server()->Release(link, PlanId(5));
  EXPECT_TRUE(WaitFor([&] { return controls_[0].alive == 0; }));
}

// The whole model in one stage; the frames of each epoch are those of a plan of its own.
net::Assignment Whole(const testing::TinyModel& model, uint64_t epoch, net::AssignMode mode) {
  net::Assignment out = model.Assign(0, epoch);
  out.spec.plan = PlanId(epoch);
  out.spec.n_stages = 1;
  out.spec.layers = {0, 2};
  out.spec.samples = true;
  out.mode = mode;
  return out;
}

class BesideTest : public DaemonTest {
 protected:
  std::unique_ptr<net::RemoteStage> Open(uint64_t epoch) {
    net::RemoteStageOptions options;
    options.address = coordinator_->Hello("w0").stage_address;
    options.from = "coordinator";
    options.plan = PlanId(epoch);
    options.epoch = Epoch(epoch);
    auto stage = net::RemoteStage::Connect(options);
    EXPECT_TRUE(stage->WaitReady(3000).ok());
    return stage;
  }
  // The status of the frame's result.
  absl::Status Answer(net::RemoteStage& stage, uint64_t epoch, uint64_t step) {
    stage::StepFrame frame = model_.Frame(epoch, step);
    frame.plan = PlanId(epoch);
    EXPECT_TRUE(stage.Send(std::move(frame)).ok());
    absl::Status status = Internal("no result");
    EXPECT_TRUE(WaitFor([&] {
      for (const stage::StepResult& result : coordinator_->results().all()) {
        if (result.epoch != Epoch(epoch) || result.step != StepId(step)) continue;
        status = result.status;
        return true;
      }
      return false;
    }));
    return status;
  }
  void Assign(const net::Assignment& assignment) {
    coordinator_->server()->Assign(link_, assignment);
    const uint64_t epoch = assignment.spec.epoch.value;
    ASSERT_TRUE(WaitFor([&] { return coordinator_->Ready(link_, epoch).has_value(); }));
  }
  void Serve() {
    w0_ = Start(0);
    link_ = Joined("w0");
    Assign(Whole(model_, 1, net::AssignMode::kInstead));
    first_ = Open(1);
    ASSERT_TRUE(Answer(*first_, 1, 1).ok());
  }
  // Another duty: blocks for fewer tokens.
  net::Assignment Smaller(uint64_t epoch, net::AssignMode mode) {
    net::Assignment out = Whole(model_, epoch, mode);
    out.spec.group_blocks = {4};
    return out;
  }

  std::unique_ptr<Daemon> w0_;
  net::LinkId link_;
  std::unique_ptr<net::RemoteStage> first_;
};

TEST_F(BesideTest, AStageIsLoadedBesideTheOneThatServesAndTakesItsPlace) {
  Serve();
  Assign(Smaller(2, net::AssignMode::kBeside));
  EXPECT_EQ(controls_[0].alive, 2);
  EXPECT_TRUE(Answer(*first_, 1, 2).ok());
  const auto second = Open(2);
  EXPECT_TRUE(Answer(*first_, 1, 3).ok());
  coordinator_->server()->Release(link_, PlanId(1));
  EXPECT_TRUE(WaitFor([&] { return controls_[0].alive == 1; }));
  EXPECT_TRUE(absl::IsFailedPrecondition(Answer(*first_, 1, 4)));
  EXPECT_TRUE(Answer(*second, 2, 5).ok());
  // Now it is the one that the next stands beside.
  Assign(Whole(model_, 3, net::AssignMode::kBeside));
  EXPECT_EQ(controls_[0].alive, 2);
  EXPECT_TRUE(Answer(*second, 2, 6).ok());
  EXPECT_EQ(controls_[0].created, 3);
  EXPECT_TRUE(coordinator_->failed().empty());
}

// The news of the release may come behind the first frame; of the old epoch nothing is run then.
TEST_F(BesideTest, AFrameOfTheLaterEpochEndsTheEarlierOne) {
  Serve();
  Assign(Whole(model_, 2, net::AssignMode::kBeside));  // the same duty: the same stage
  EXPECT_EQ(controls_[0].created, 1);
  controls_[0].block = true;
  const int runs = controls_[0].runs;
  for (const uint64_t step : {2, 3}) {
    stage::StepFrame frame = model_.Frame(1, step);
    frame.plan = PlanId(1);
    ASSERT_TRUE(first_->Send(std::move(frame)).ok());
  }
  ASSERT_TRUE(WaitFor([&] { return controls_[0].runs == runs + 1; }));
  const auto second = Open(2);
  stage::StepFrame frame = model_.Frame(2, 4);
  frame.plan = PlanId(2);
  ASSERT_TRUE(second->Send(std::move(frame)).ok());
  ASSERT_TRUE(WaitFor([&] { return controls_[0].runs == runs + 2; }));
  controls_[0].block = false;
  coordinator_->server()->Release(link_, PlanId(1));
  EXPECT_TRUE(Answer(*second, 2, 5).ok());
  EXPECT_EQ(controls_[0].runs, runs + 3);  // that of step 3 was never run
  EXPECT_EQ(controls_[0].alive, 1);
}

TEST_F(BesideTest, WhatStandsBesideGoesAloneWhenItIsReleasedOrFails) {
  Serve();
  Assign(Smaller(2, net::AssignMode::kBeside));
  coordinator_->server()->Release(link_, PlanId(2));
  EXPECT_TRUE(WaitFor([&] { return controls_[0].alive == 1; }));
  EXPECT_TRUE(Answer(*first_, 1, 2).ok());
  // Both together are over the limit, which this one alone is not.
  const uint64_t base_bytes = coordinator_->Hello("w0").base_bytes;
  controls_[0].planned_bytes = (uint64_t{8} << 30) - base_bytes - 10;
  coordinator_->server()->Assign(link_, Smaller(3, net::AssignMode::kBeside));
  ASSERT_TRUE(WaitFor([&] { return coordinator_->failed().size() == 1; }));
  EXPECT_EQ(coordinator_->failed()[0].epoch, Epoch(3));
  EXPECT_TRUE(Answer(*first_, 1, 3).ok());
  EXPECT_EQ(controls_[0].alive, 1);
  Assign(Smaller(4, net::AssignMode::kInstead));
  EXPECT_EQ(controls_[0].alive, 1);
}

TEST_F(BesideTest, WeightsAreFetchedWhileTheStageServes) {
  w0_ = Start(0);
  link_ = Joined("w0");
  net::Assignment last = model_.Assign(1, 1);
  last.spec.plan = PlanId(1);
  Assign(last);
  Assign(Whole(model_, 2, net::AssignMode::kFetch));
  EXPECT_GT(coordinator_->Ready(link_, 2)->fetched_bytes, 0u);
  EXPECT_EQ(coordinator_->Ready(link_, 2)->weights_bytes, 0u);
  EXPECT_EQ(controls_[0].created, 1);
  EXPECT_EQ(controls_[0].alive, 1);
  Assign(Whole(model_, 3, net::AssignMode::kInstead));
  EXPECT_EQ(coordinator_->Ready(link_, 3)->fetched_bytes, 0u);
  EXPECT_EQ(controls_[0].peak_alive, 1);
}

TEST_F(DaemonTest, OverTheMemoryLimitIsRefusedWithTheArithmetic) {
  controls_[0].planned_bytes = uint64_t{9} << 30;
  const auto w0 = Start(0);
  coordinator_->server()->Assign(Joined("w0"), model_.Assign(1, 1));
  ASSERT_TRUE(WaitFor([&] { return !coordinator_->failed().empty(); }));
  const net::StageFailed failed = coordinator_->failed()[0];
  EXPECT_TRUE(absl::IsResourceExhausted(failed.status));
  EXPECT_NE(failed.status.message().find("9.0 GiB of weights"), absl::string_view::npos)
      << failed.status;
  EXPECT_NE(failed.status.message().find("8.0 GiB"), absl::string_view::npos);
  EXPECT_EQ(failed.cause, net::LoadCause::kMemory);
  EXPECT_EQ(controls_[0].created, 0);
}

TEST_F(DaemonTest, LostWorkerIsToldAndComesBack) {
  const auto w0 = Start(0);
  auto w1 = Start(1);
  AssignBoth(1);
  const net::LinkId link = Joined("w1");
  const TimeNs start = MonotonicNow();
  w1.reset();  // without a word
  ASSERT_TRUE(WaitFor([&] { return coordinator_->Gone(link).has_value(); }));
  EXPECT_LT(coordinator_->gone_at() - start, 2 * kSecond);
  EXPECT_NE(coordinator_->Gone(link)->message().find("'w1'"), absl::string_view::npos);
  // Its neighbour reports the broken link, naming it.
  ASSERT_TRUE(WaitFor([&] { return !coordinator_->failed().empty(); }));
  EXPECT_TRUE(absl::IsUnavailable(coordinator_->failed()[0].status));
  EXPECT_NE(coordinator_->failed()[0].status.message().find("'w1'"), absl::string_view::npos);
  w1 = Start(1);
  AssignBoth(2);
  EXPECT_EQ(controls_[0].created, 1);
  EXPECT_EQ(coordinator_->Ready(Joined("w1"), 2)->fetched_bytes, 0u);
  const auto first = First(2);
  ASSERT_TRUE(first->Send(model_.Frame(2, 1)).ok());
  ASSERT_TRUE(coordinator_->results().WaitCount(1));
  EXPECT_TRUE(coordinator_->results().all().back().status.ok());
}

TEST_F(DaemonTest, CoordinatorGoneAndBack) {
  const auto w0 = Start(0);
  Joined("w0");
  const std::string address = coordinator_->server()->address();
  coordinator_.reset();
  std::this_thread::sleep_for(std::chrono::milliseconds(300));
  coordinator_ = std::make_unique<FakeCoordinator>(model_.Provider(), address);
  Joined("w0");
  EXPECT_FALSE(w0->ended());
}

TEST_F(DaemonTest, LeavesWithAWord) {
  const auto w0 = Start(0);
  const net::LinkId link = Joined("w0");
  w0->Leave("told to stop");
  EXPECT_TRUE(w0->ended());
  EXPECT_TRUE(w0->status().ok());
  EXPECT_TRUE(WaitFor([&] { return coordinator_->Gone(link).has_value(); }));
  EXPECT_EQ(coordinator_->leaving(), 1);
}

TEST_F(DaemonTest, AnotherProtocolIsRefusedForGood) {
  DaemonOptions options =
      Options(coordinator_->server()->address(), "new", dir_.path(), &controls_[0]);
  options.version = "9.1.0";
  options.protocol = kProtocolVersion + 1;
  const auto daemon = Daemon::Start(options);
  ASSERT_TRUE(daemon.ok());
  ASSERT_TRUE(WaitFor([&] { return (*daemon)->ended(); }));
  for (const std::string& said : {absl::StrCat("9.1.0 (protocol ", kProtocolVersion + 1, ")"),
                                  std::string(kVersion), std::string("upgrade the coordinator")}) {
    EXPECT_NE((*daemon)->status().message().find(said), absl::string_view::npos)
        << (*daemon)->status();
  }
  EXPECT_EQ(coordinator_->joins(), 0);
}

TEST_F(DaemonTest, AnotherVersionOfTheSameProtocolJoins) {
  DaemonOptions options =
      Options(coordinator_->server()->address(), "w0", dir_.path(), &controls_[0]);
  options.version = "9.1.0";
  const auto daemon = Daemon::Start(options);
  ASSERT_TRUE(daemon.ok());
  Joined("w0");
  EXPECT_FALSE((*daemon)->ended());
}

TEST_F(DaemonTest, RefusedWorkerTriesAgain) {
  coordinator_->SetWelcome(false);
  const auto w0 = Start(0);
  coordinator_->server()->Refuse(Joined("w0"), absl::AlreadyExistsError("the name 'w0' is taken"));
  EXPECT_TRUE(WaitFor([&] { return coordinator_->joins() >= 2; }));
  EXPECT_FALSE(w0->ended());
}

TEST_F(DaemonTest, StrangersMaySendNoResults) {
  net::RemoteStageOptions options;
  const auto w0 = Start(0);
  Joined("w0");
  std::atomic<int> closed{0};
  const auto client = net::ResultClient::Connect({coordinator_->server()->address()}, "stranger",
                                                 [&](const absl::Status&) { ++closed; });
  EXPECT_TRUE(absl::IsPermissionDenied(client->WaitReady(3000)));
  client->OnResult(stage::StepResult{});
  EXPECT_TRUE(WaitFor([&] { return closed == 1; }));
  EXPECT_TRUE(coordinator_->results().all().empty());
}

TEST_F(DaemonTest, PortInUse) {
  const auto second = net::CoordinatorServer::Start({coordinator_->server()->address()},
                                                    coordinator_.get(), coordinator_.get());
  ASSERT_TRUE(absl::IsUnavailable(second.status()));
  EXPECT_NE(second.status().message().find("Address already in use"), absl::string_view::npos);
}

TEST_F(DaemonTest, FetchOfAnUnknownPartIsRefused) {
  net::WeightClient client({coordinator_->server()->address()});
  const auto take = [](std::span<const uint8_t>) { return absl::OkStatus(); };
  EXPECT_TRUE(absl::IsNotFound(client.Fetch(std::string(64, 'a'), 0, {}, take)));
  EXPECT_TRUE(absl::IsInvalidArgument(client.Fetch("../../etc/passwd", 0, {}, take)));
  const std::string sha256 = model_.manifest()->Find("embed")->sha256;
  EXPECT_TRUE(absl::IsOutOfRange(client.Fetch(sha256, 1 << 30, {}, take)));
  uint64_t got = 0;
  EXPECT_TRUE(client
                  .Fetch(sha256, 100, {},
                         [&](std::span<const uint8_t> data) {
                           got += data.size();
                           return absl::OkStatus();
                         })
                  .ok());
  EXPECT_EQ(got, model_.manifest()->Find("embed")->bytes - 100);
}

// The child of the test below: a worker in a process of its own, until it is killed. Suites named
// ...Child are no entries of CTest (cmake/lanyard.cmake).
TEST(DaemonChild, Serve) {
  const char* join = std::getenv("LANYARD_TEST_JOIN");
  if (join == nullptr) GTEST_SKIP() << "started by DaemonTest.StoppedWorkerIsNoticed";
  testing::TempDir dir;
  testing::FakeControls controls;
  const auto daemon = Daemon::Start(Options(join, "child", dir.path(), &controls));
  ASSERT_TRUE(daemon.ok());
  while (true) pause();
}

TEST_F(DaemonTest, StoppedWorkerIsNoticed) {
  std::vector<char*> env;
  std::string join = "LANYARD_TEST_JOIN=" + coordinator_->server()->address();
  for (char** e = environ; *e != nullptr; ++e) env.push_back(*e);
  env.push_back(join.data());
  env.push_back(nullptr);
  std::string self = "/proc/self/exe";
  std::string filter = "--gtest_filter=DaemonChild.Serve";
  char* argv[] = {self.data(), filter.data(), nullptr};
  posix_spawn_file_actions_t actions;
  posix_spawn_file_actions_init(&actions);
  posix_spawn_file_actions_addopen(&actions, 1, "/dev/null", O_WRONLY, 0);
  pid_t child = 0;
  ASSERT_EQ(posix_spawn(&child, "/proc/self/exe", &actions, nullptr, argv, env.data()), 0);
  posix_spawn_file_actions_destroy(&actions);
  const net::LinkId link = Joined("child");
  std::this_thread::sleep_for(std::chrono::milliseconds(400));

  const TimeNs start = MonotonicNow();
  kill(child, SIGSTOP);
  EXPECT_TRUE(WaitFor([&] { return coordinator_->Gone(link).has_value(); }));
  const TimeNs noticed = coordinator_->gone_at() - start;
  EXPECT_LT(noticed, 6 * kSecond);
  EXPECT_GT(noticed, 4 * kSecond);  // until then it may come back
  EXPECT_TRUE(absl::IsDeadlineExceeded(*coordinator_->Gone(link))) << *coordinator_->Gone(link);
  EXPECT_NE(coordinator_->Gone(link)->message().find("'child'"), absl::string_view::npos);
  RecordProperty("noticed_ms", static_cast<int>(noticed / kMillisecond));

  kill(child, SIGCONT);
  EXPECT_TRUE(WaitFor([&] { return coordinator_->Link("child").has_value(); }));  // it joins again
  kill(child, SIGKILL);
  waitpid(child, nullptr, 0);
}

}  // namespace
}  // namespace lanyard::worker
