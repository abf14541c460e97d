#include "worker/stage_host.h"

#include <gtest/gtest.h>
#include <sys/resource.h>
#include <unistd.h>

#include "worker/testing_util.h"

namespace lanyard::worker {
namespace {

class NextPort final : public stage::StagePort {
 public:
  absl::Status Send(stage::StepFrame frame) override {
    MutexLock lock(&mu_);
    if (!answer_.ok()) return answer_;
    frames_.push_back(std::move(frame));
    return absl::OkStatus();
  }
  std::vector<stage::StepFrame> frames() {
    MutexLock lock(&mu_);
    return frames_;
  }
  void Answer(const absl::Status& answer) {
    MutexLock lock(&mu_);
    answer_ = answer;
  }

 private:
  Mutex mu_;
  absl::Status answer_ ABSL_GUARDED_BY(mu_);
  std::vector<stage::StepFrame> frames_ ABSL_GUARDED_BY(mu_);
};

class StageHostTest : public ::testing::Test {
 protected:
  StageHostOptions Options(uint32_t index) {
    const net::Assignment assignment = model_.Assign(index, 3);
    stage_ = std::make_unique<testing::FakeStage>(&controls_, assignment.spec,
                                                  assignment.manifest->shape.d_model);
    StageHostOptions out;
    out.worker = "w1";
    out.spec = assignment.spec;
    out.model = engine::FrameModelOf(assignment.manifest->shape);
    out.stage = stage_.get();
    out.next = index == 0 ? &next_ : nullptr;
    out.results = &results_;
    out.stats = &stats_;
    return out;
  }

  static std::unique_ptr<StageHost> Make(StageHostOptions options) {
    auto made = StageHost::Create(std::move(options));
    EXPECT_TRUE(made.ok()) << made.status();
    return *std::move(made);
  }
  // Of a stage that is the only one.
  StageHostOptions Alone() {
    StageHostOptions options = Options(1);
    options.spec.index = 0;
    options.spec.embeds = true;
    return options;
  }
  stage::StepFrame Next(uint64_t step, uint32_t pos, uint64_t token_of) {
    stage::StepFrame frame = model_.Frame(3, step);
    frame.batch.runs[0].pos = pos;
    if (token_of > 0) frame.batch.runs[0].tokens.clear();
    frame.batch.runs[0].token_of = StepId(token_of);
    return frame;
  }

  testing::TinyModel model_;
  testing::FakeControls controls_;
  testing::Results results_;
  NextPort next_;
  HostStats stats_;
  std::unique_ptr<testing::FakeStage> stage_;
};

TEST_F(StageHostTest, FirstStageSendsRowsAndHiddenOn) {
  const auto host = Make(Options(0));
  ASSERT_TRUE(host->Send(model_.Frame(3, 11)).ok());
  ASSERT_TRUE(testing::WaitFor([&] { return next_.frames().size() == 1; }));
  const stage::StepFrame frame = next_.frames()[0];
  EXPECT_EQ(frame.stage, 1u);
  EXPECT_EQ(frame.epoch, Epoch(3));
  EXPECT_EQ(frame.batch.step, StepId(11));
  ASSERT_EQ(frame.batch.runs.size(), 1u);
  EXPECT_TRUE(frame.batch.runs[0].tokens.empty());
  EXPECT_EQ(frame.batch.runs[0].tables.size(), 1u);
  EXPECT_EQ(frame.batch.runs[0].outputs.size(), 1u);
  EXPECT_EQ(frame.hidden.rows, 1u);
  EXPECT_EQ(frame.hidden.cols, 64u);
  EXPECT_EQ(stats_.frames, 1u);
  EXPECT_TRUE(results_.all().empty());
}

TEST_F(StageHostTest, LastStageSendsTokensToTheCoordinator) {
  const auto host = Make(Options(1));
  stage::StepFrame frame = model_.Frame(3, 12);
  frame.stage = 1;
  frame.batch.runs[0].tokens.clear();
  frame.hidden = {stage::WireType::kF16, 1, 64,
                  std::vector<uint8_t>(stage::Hidden::BytesFor(stage::WireType::kF16, 1, 64))};
  ASSERT_TRUE(host->Send(frame).ok());
  ASSERT_TRUE(results_.WaitCount(1));
  const stage::StepResult result = results_.all()[0];
  EXPECT_TRUE(result.status.ok()) << result.status;
  EXPECT_EQ(result.worker, "w1");
  EXPECT_EQ(result.stage, 1u);
  ASSERT_EQ(result.tokens.size(), 1u);
  EXPECT_EQ(result.tokens[0].token, 7);
}

TEST_F(StageHostTest, StaleEpochIsRefusedAndReported) {
  const auto host = Make(Options(0));
  EXPECT_TRUE(absl::IsFailedPrecondition(host->Send(model_.Frame(2, 13))));
  ASSERT_TRUE(results_.WaitCount(1));
  const stage::StepResult result = results_.all()[0];
  EXPECT_TRUE(absl::IsFailedPrecondition(result.status));
  EXPECT_EQ(result.epoch, Epoch(2));
  EXPECT_EQ(result.step, StepId(13));
  EXPECT_EQ(controls_.runs, 0);
}

TEST_F(StageHostTest, AFrameBehindALaterOneIsRefused) {
  const auto host = Make(Options(0));
  ASSERT_TRUE(host->Send(model_.Frame(3, 20)).ok());
  for (const uint64_t step : {20, 19}) {  // a repeat, and one from before
    EXPECT_TRUE(absl::IsFailedPrecondition(host->Send(model_.Frame(3, step)))) << step;
  }
  stage::StepFrame second = model_.Frame(3, 20);
  second.batch.frame = 1;
  second.batch.n_frames = 2;
  EXPECT_TRUE(host->Send(second).ok());
  ASSERT_TRUE(testing::WaitFor([&] { return next_.frames().size() == 2; }));
  EXPECT_EQ(results_.all().size(), 2u);
  EXPECT_EQ(controls_.runs, 2);
}

TEST_F(StageHostTest, InvalidFrameNeverReachesTheStage) {
  const auto host = Make(Options(0));
  stage::StepFrame frame = model_.Frame(3, 14);
  frame.batch.runs[0].tokens[0] = 1 << 30;
  ASSERT_TRUE(host->Send(frame).ok());
  frame = model_.Frame(3, 15);
  frame.batch.runs[0].tables[0].blocks[0] = 8;  // of 8 blocks
  ASSERT_TRUE(host->Send(frame).ok());
  ASSERT_TRUE(results_.WaitCount(2));
  for (const stage::StepResult& result : results_.all())
    EXPECT_TRUE(absl::IsInvalidArgument(result.status));
  EXPECT_EQ(controls_.runs, 0);
}

TEST_F(StageHostTest, ErrorsOfTheStageAndOfTheLinkReachTheCoordinator) {
  const auto host = Make(Options(0));
  controls_.fail = true;
  ASSERT_TRUE(host->Send(model_.Frame(3, 16)).ok());
  ASSERT_TRUE(results_.WaitCount(1));
  EXPECT_TRUE(absl::IsInternal(results_.all()[0].status));
  controls_.fail = false;
  next_.Answer(absl::UnavailableError("w2 is gone"));
  ASSERT_TRUE(host->Send(model_.Frame(3, 17)).ok());
  ASSERT_TRUE(results_.WaitCount(2));
  EXPECT_TRUE(absl::IsUnavailable(results_.all()[1].status));
  EXPECT_EQ(results_.all()[1].stage, 0u);
  EXPECT_NE(results_.all()[1].status.message().find("w2 is gone"), absl::string_view::npos);
}

TEST_F(StageHostTest, AFrameMayNameATokenThatThisStageStillDraws) {
  const auto host = Make(Alone());
  ASSERT_TRUE(host->Send(Next(1, 0, 0)).ok());
  ASSERT_TRUE(host->Send(Next(2, 1, 1)).ok());
  ASSERT_TRUE(host->Send(Next(5, 3, 4)).ok());  // step 4 never came
  ASSERT_TRUE(results_.WaitCount(3));
  const auto all = results_.all();
  EXPECT_TRUE(all[0].status.ok()) << all[0].status;
  EXPECT_TRUE(all[1].status.ok()) << all[1].status;
  EXPECT_TRUE(absl::IsFailedPrecondition(all[2].status));
  EXPECT_EQ(controls_.runs, 2);
  controls_.fail = true;
  ASSERT_TRUE(host->Send(Next(6, 4, 0)).ok());
  ASSERT_TRUE(host->Send(Next(7, 5, 6)).ok());
  ASSERT_TRUE(results_.WaitCount(5));
  EXPECT_TRUE(absl::IsInternal(results_.all()[3].status));
  EXPECT_TRUE(absl::IsInternal(
      results_.all()[4].status));  // it ran: others in its frame may have wanted that
  EXPECT_EQ(controls_.runs, 4);
}

TEST_F(StageHostTest, AFrameThatCannotBeReadDoesNotTakeTheNextStepAlong) {
  const auto host = Make(Alone());
  ASSERT_TRUE(host->Send(Next(1, 0, 0)).ok());
  for (uint64_t step = 100; step < 120; ++step) host->FrameWasBad(StepId(step));  // however many
  host->FrameWasBad(StepId(2));
  ASSERT_TRUE(host->Send(Next(3, 2, 2)).ok());  // its sequence has ended: the row is not read
  ASSERT_TRUE(host->Send(Next(5, 4, 4)).ok());  // step 4 never came: that is another matter
  ASSERT_TRUE(results_.WaitCount(3));
  EXPECT_TRUE(results_.all()[1].status.ok()) << results_.all()[1].status;
  EXPECT_TRUE(absl::IsFailedPrecondition(results_.all()[2].status));
}

// Takes one result only when told to.
class SlowResults final : public stage::ResultSink {
 public:
  void OnResult(stage::StepResult result) override {
    while (!go) std::this_thread::sleep_for(std::chrono::milliseconds(1));
    taken.OnResult(std::move(result));
  }
  std::atomic<bool> go{false};
  testing::Results taken;
};

TEST_F(StageHostTest, WhatWasComputedIsSentAlsoAtTheEnd) {
  SlowResults slow;
  StageHostOptions options = Alone();
  options.results = &slow;
  auto host = Make(options);
  for (uint64_t step = 1; step <= 4; ++step) ASSERT_TRUE(host->Send(Next(step, 0, 0)).ok());
  ASSERT_TRUE(testing::WaitFor([&] { return controls_.runs == 4; }));
  std::thread end([&] { host.reset(); });
  std::this_thread::sleep_for(std::chrono::milliseconds(20));
  slow.go = true;
  end.join();
  const auto all = slow.taken.all();
  ASSERT_GE(all.size(), 3u);  // the last may have been stopped
  for (const stage::StepResult& result : all) EXPECT_TRUE(result.status.ok()) << result.status;
}

TEST_F(StageHostTest, WithoutAThreadThereIsNoHostAndNothingIsLeft) {
  for (const int given : {0, 1}) {
    int started = 0;
    std::atomic<int> running{0};
    StageHostOptions options = Options(0);
    options.start_thread =
        [&](std::function<void(std::stop_token)> body) -> absl::StatusOr<std::jthread> {
      if (started++ == given) return ResourceExhausted("no thread more");
      return std::jthread([&running, body = std::move(body)](std::stop_token stop) {
        ++running;
        body(stop);
        --running;
      });
    };
    const auto host = StageHost::Create(std::move(options));
    EXPECT_TRUE(absl::IsResourceExhausted(host.status()));
    EXPECT_NE(host.status().message().find("worker 'w1' cannot run stage 0"),
              absl::string_view::npos);
    EXPECT_EQ(running, 0);
  }
}

// The operating system's own answer, in a process that may have no thread more.
TEST_F(StageHostTest, ALimitOfThreadsIsAnErrorInWords) {
  const auto child = [&] {
    const rlimit none{0, 0};
    if (setrlimit(RLIMIT_NPROC, &none) != 0) std::_Exit(2);
    if (geteuid() == 0 && setresuid(65534, 65534, 65534) != 0) std::_Exit(3);  // root has no limit
    const auto host = StageHost::Create(Options(0));
    std::_Exit(absl::IsResourceExhausted(host.status()) &&
                       host.status().message().find("gives no thread more") !=
                           absl::string_view::npos
                   ? 0
                   : 4);
  };
  EXPECT_EXIT(child(), ::testing::ExitedWithCode(0), "");
}

TEST_F(StageHostTest, QueueIsBounded) {
  controls_.block = true;
  StageHostOptions options = Options(0);
  options.max_queued_frames = 4;
  const auto host = Make(options);
  absl::Status last;
  for (uint64_t i = 0; i < 20 && last.ok(); ++i) last = host->Send(model_.Frame(3, i));
  EXPECT_TRUE(absl::IsResourceExhausted(last));
  EXPECT_EQ(results_.all().size(), 1u);
}

TEST_F(StageHostTest, DestructorStopsTheFrameBeingRun) {
  controls_.block = true;
  const auto start = std::chrono::steady_clock::now();
  {
    const auto host = Make(Options(0));
    ASSERT_TRUE(host->Send(model_.Frame(3, 1)).ok());
    ASSERT_TRUE(host->Send(model_.Frame(3, 2)).ok());
    ASSERT_TRUE(testing::WaitFor([&] { return controls_.runs == 1; }));
  }
  EXPECT_LT(std::chrono::steady_clock::now() - start, std::chrono::seconds(2));
  EXPECT_EQ(controls_.runs, 1);
  EXPECT_TRUE(results_.all().empty());
  EXPECT_TRUE(next_.frames().empty());
}

}  // namespace
}  // namespace lanyard::worker
