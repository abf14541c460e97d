#include "coordinator/serve/pipeline.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <limits>

namespace lanyard::coordinator {
namespace {

using ::testing::HasSubstr;

PipelinePlan TwoStages() {
  PipelinePlan plan;
  plan.plan = PlanId(5);
  plan.epoch = Epoch(5);
  plan.stages = {{"w1", {0, 10}}, {"w2", {10, 20}}};
  plan.n_vocab = 100;
  return plan;
}

// A step of `n_frames` frames with one run each; every frame asks for one output.
Step MakeStep(uint64_t id, uint32_t n_frames = 1) {
  Step step;
  step.id = StepId(id);
  for (uint32_t i = 0; i < n_frames; ++i) {
    stage::StepBatch& frame = step.frames.emplace_back();
    frame.step = step.id;
    frame.frame = i;
    frame.n_frames = n_frames;
    stage::SeqRun& run = frame.runs.emplace_back();
    run.seq = SeqId(i + 1);
    run.pos = 7;
    run.n_rows = 2;
    run.tokens = {1, 2};
    run.outputs.push_back({1, {}, 0, {}});
  }
  return step;
}

stage::StepResult ResultOf(uint64_t step, uint32_t frame = 0) {
  stage::StepResult result;
  result.plan = PlanId(5);
  result.epoch = Epoch(5);
  result.step = StepId(step);
  result.frame = frame;
  result.stage = 1;
  result.worker = "w2";
  stage::TokenOut out;
  out.seq = SeqId(frame + 1);
  out.pos = 8;
  out.token = 42;
  result.tokens.push_back(out);
  return result;
}

class PipelineTest : public ::testing::Test {
 protected:
  PipelineTest() : pipeline_(PipelineOptions()) { pipeline_.Open(TwoStages()); }
  Pipeline pipeline_;
};

TEST_F(PipelineTest, FramesCarryTheEpochAndComeBackOnce) {
  const auto frames = pipeline_.Submit(MakeStep(1, 2), 0);
  ASSERT_EQ(frames.size(), 2u);
  EXPECT_EQ(frames[1].epoch, Epoch(5));
  EXPECT_EQ(frames[1].stage, 0u);
  EXPECT_EQ(frames[1].batch.frame, 1u);
  auto outcome = pipeline_.OnResult(ResultOf(1, 0), 1);
  ASSERT_EQ(outcome.done.size(), 1u);
  EXPECT_EQ(outcome.done[0].tokens[0].token, 42);
  EXPECT_THAT(pipeline_.OnResult(ResultOf(1, 0), 1).ignored, HasSubstr("not in flight"));
  EXPECT_EQ(pipeline_.OnResult(ResultOf(1, 1), 1).done.size(), 1u);
  EXPECT_EQ(pipeline_.frames_in_flight(), 0u);
}

TEST_F(PipelineTest, StaleForeignAndUnknownResultsAreIgnored) {
  pipeline_.Submit(MakeStep(1), 0);
  const auto ignored = [&](auto change) {
    stage::StepResult result = ResultOf(1);
    change(result);
    const PipelineOutcome outcome = pipeline_.OnResult(result, 1);
    EXPECT_TRUE(outcome.done.empty() && outcome.failed.empty() && !outcome.lost);
    return !outcome.ignored.empty();
  };
  EXPECT_TRUE(ignored([](auto& r) { r.epoch = Epoch(4); }));
  EXPECT_TRUE(ignored([](auto& r) { r.plan = PlanId(4); }));
  EXPECT_TRUE(ignored([](auto& r) { r.worker = "w1"; }));
  EXPECT_TRUE(ignored([](auto& r) { r.worker = "evil"; }));
  EXPECT_TRUE(ignored([](auto& r) { r.stage = 9; }));
  EXPECT_TRUE(
      ignored([](auto& r) { r.stage = 0, r.worker = "w1"; }));  // tokens from a stage that has none
  EXPECT_TRUE(ignored([](auto& r) { r.step = StepId(2); }));
  EXPECT_TRUE(ignored([](auto& r) { r.frame = 7; }));
  EXPECT_EQ(pipeline_.frames_in_flight(), 1u);
  pipeline_.Close();
  EXPECT_FALSE(pipeline_.OnResult(ResultOf(1), 1).ignored.empty());
}

TEST_F(PipelineTest, ImpossibleResultsLoseThePipelineByName) {
  const auto lost = [&](auto change) {
    pipeline_.Open(TwoStages());
    Step step = MakeStep(1);
    step.frames[0].runs[0].outputs[0].top = 2;
    pipeline_.Submit(step, 0);
    stage::StepResult result = ResultOf(1);
    result.tokens[0].top = {{3, 1.f}, {4, 0.5f}};
    change(result);
    const PipelineOutcome outcome = pipeline_.OnResult(result, 1);
    EXPECT_EQ(outcome.done.empty(), outcome.lost.has_value());
    return outcome.lost ? std::string(outcome.lost->message()) : "";
  };
  EXPECT_EQ(lost([](auto&) {}), "");
  EXPECT_THAT(lost([](auto& r) { r.tokens[0].token = 100; }),
              HasSubstr("worker 'w2' (layers 10-19)"));
  EXPECT_THAT(lost([](auto& r) { r.tokens[0].token = -1; }), HasSubstr("token id -1"));
  EXPECT_THAT(lost([](auto& r) { r.tokens.clear(); }), HasSubstr("0 tokens where 1"));
  EXPECT_THAT(lost([](auto& r) { r.tokens[0].seq = SeqId(9); }), HasSubstr("sequence 9"));
  EXPECT_THAT(lost([](auto& r) { r.tokens[0].pos = 9; }), HasSubstr("position 9"));
  EXPECT_THAT(lost([](auto& r) { r.tokens[0].top.pop_back(); }), HasSubstr("1 top logits"));
  EXPECT_THAT(lost([](auto& r) { r.tokens[0].top[1].first = 1000; }), HasSubstr("1000"));
  EXPECT_THAT(lost([](auto& r) { r.tokens[0].lse = std::numeric_limits<float>::quiet_NaN(); }),
              HasSubstr("not finite"));
}

TEST_F(PipelineTest, LaterResultsWaitForEarlierOnes) {
  pipeline_.Submit(MakeStep(1), 0);
  pipeline_.Submit(MakeStep(2), 0);
  EXPECT_TRUE(pipeline_.OnResult(ResultOf(2), kSecond).done.empty());
  EXPECT_FALSE(pipeline_.OnTick(kSecond + PipelineOptions().gap_timeout - 1).lost);
  const auto outcome = pipeline_.OnResult(ResultOf(1), kSecond + 1);
  ASSERT_EQ(outcome.done.size(), 2u);
  EXPECT_EQ(outcome.done[0].step, StepId(1));
  EXPECT_EQ(outcome.done[1].step, StepId(2));
}

TEST_F(PipelineTest, AGapIsALoss) {
  pipeline_.Submit(MakeStep(1), 0);
  pipeline_.Submit(MakeStep(2), 0);
  pipeline_.OnResult(ResultOf(2), kSecond);
  const auto outcome = pipeline_.OnTick(kSecond + PipelineOptions().gap_timeout);
  ASSERT_TRUE(outcome.lost);
  EXPECT_TRUE(absl::IsUnavailable(*outcome.lost));
  EXPECT_THAT(std::string(outcome.lost->message()), HasSubstr("step 1 frame 0 was lost"));
}

TEST_F(PipelineTest, DeadlineCountsFromTheLastSignOfLife) {
  const TimeNs limit = PipelineOptions().step_timeout;
  pipeline_.Submit(MakeStep(1), 0);
  pipeline_.Submit(MakeStep(2), 0);
  pipeline_.OnResult(ResultOf(1), 10);
  EXPECT_FALSE(pipeline_.OnTick(limit + 9).lost);
  const auto outcome = pipeline_.OnTick(limit + 10);
  ASSERT_TRUE(outcome.lost);
  EXPECT_THAT(std::string(outcome.lost->message()), HasSubstr("'w1' (layers 0-9)"));
}

TEST_F(PipelineTest, SlowPipelinesHaveTheTimeThatTheyNeed) {
  const PipelineOptions options;
  pipeline_.Submit(MakeStep(1), 0);
  pipeline_.Submit(MakeStep(2), 0);
  pipeline_.Submit(MakeStep(3), 0);
  // Nobody knows yet how long a frame takes.
  EXPECT_FALSE(pipeline_.OnTick(options.first_timeout - 1).lost);
  pipeline_.OnResult(ResultOf(1), 5 * kSecond);
  EXPECT_FALSE(pipeline_.OnTick(105 * kSecond - 1).lost);
  EXPECT_TRUE(pipeline_.OnTick(105 * kSecond).lost);
  pipeline_.OnResult(ResultOf(2), 95 * kSecond);
  EXPECT_FALSE(pipeline_.OnTick(95 * kSecond + options.first_timeout - 1).lost);
  EXPECT_TRUE(pipeline_.OnTick(95 * kSecond + options.first_timeout).lost);
  // Another pipeline is another pace.
  pipeline_.Open(pipeline_.plan());
  pipeline_.Submit(MakeStep(1), 0);
  EXPECT_TRUE(pipeline_.OnTick(options.first_timeout).lost);
}

TEST_F(PipelineTest, ErrorsNameWorkerAndStage) {
  pipeline_.Submit(MakeStep(1, 2), 0);
  stage::StepResult error = ResultOf(1, 1);
  error.tokens.clear();
  error.stage = 0;
  error.worker = "w1";
  error.status = InvalidArgument("row 3 is not finite");
  auto outcome = pipeline_.OnResult(error, 1);
  ASSERT_EQ(outcome.failed.size(), 1u);
  EXPECT_EQ(outcome.failed[0].frame, 1u);
  EXPECT_EQ(outcome.failed[0].status.code(), absl::StatusCode::kInvalidArgument);
  EXPECT_THAT(std::string(outcome.failed[0].status.message()),
              HasSubstr("worker 'w1' (layers 0-9) failed in stage 0: row 3"));
  EXPECT_FALSE(outcome.lost);
  error.frame = 0;
  error.status = Unavailable("the link to w2 broke");
  outcome = pipeline_.OnResult(error, 1);
  ASSERT_TRUE(outcome.lost);
  EXPECT_TRUE(absl::IsUnavailable(*outcome.lost));
}

TEST_F(PipelineTest, AnOutputWithoutATokenComesHomeBesideTheOthers) {
  Step step = MakeStep(1, 2);
  step.frames[0].runs.push_back(step.frames[1].runs[0]);  // sequences 1 and 2 in one frame
  step.frames.pop_back();
  pipeline_.Submit(step, 0);
  stage::StepResult result = ResultOf(1);
  result.tokens.push_back(ResultOf(1, 1).tokens[0]);
  result.tokens[0].token = -1;
  result.tokens[0].lse = std::numeric_limits<float>::quiet_NaN();
  result.tokens[0].status = Internal("it is not finite");
  const auto outcome = pipeline_.OnResult(result, 1);
  ASSERT_EQ(outcome.done.size(), 1u);
  EXPECT_FALSE(outcome.lost);
  EXPECT_TRUE(outcome.failed.empty());
  EXPECT_TRUE(absl::IsInternal(outcome.done[0].tokens[0].status));
  EXPECT_THAT(std::string(outcome.done[0].tokens[0].status.message()),
              HasSubstr("worker 'w2' (layers 10-19): it is not finite"));
  EXPECT_TRUE(outcome.done[0].tokens[1].status.ok());
  EXPECT_EQ(outcome.done[0].tokens[1].token, 42);
}

}  // namespace
}  // namespace lanyard::coordinator
