#include "coordinator/serve/scheduler.h"

#include <gtest/gtest.h>

#include <deque>
#include <map>
#include <set>

#include "base/field_error.h"
#include "sharding/planner.h"

namespace lanyard::coordinator {
namespace {

constexpr uint32_t kEosId = 7;

SchedulerOptions Options() {
  SchedulerOptions options;
  options.eos_ids = {kEosId};
  options.run_ahead = false;
  options.keep_prefixes = false;  // prompts here are all alike
  return options;
}

SequenceSpec Spec(uint64_t id, uint32_t prompt, uint32_t max_tokens) {
  SequenceSpec spec;
  spec.id = SeqId(id);
  spec.prompt.assign(prompt, 1);
  spec.max_tokens = max_tokens;
  return spec;
}

PipelineShape Shape(uint32_t n_stages, uint32_t blocks, uint32_t context = 4096) {
  return {n_stages, context, {{0, blocks}}};
}

// Answers every output of the step with `token`.
std::vector<SequenceUpdate> Finish(Scheduler* scheduler, const Step& step, int32_t token = 2) {
  std::vector<SequenceUpdate> all;
  for (const stage::StepBatch& frame : step.frames) {
    std::vector<stage::TokenOut> tokens;
    for (const stage::SeqRun& run : frame.runs) {
      for (const auto& output : run.outputs) {
        stage::TokenOut out;
        out.seq = run.seq;
        out.pos = run.pos + output.row;
        out.token = token;
        tokens.push_back(out);
      }
    }
    for (auto& u : scheduler->CommitFrame(step.id, frame.frame, tokens, 1)) all.push_back(u);
  }
  return all;
}

uint32_t Rows(const Step& step) {
  uint32_t rows = 0;
  for (const auto& frame : step.frames) rows += frame.TotalRows();
  return rows;
}

TEST(Scheduler, PrefillsInFramesAndAsksForOneOutput) {
  Scheduler s(Options());
  s.OnPipelineReady(Shape(1, 100));
  ASSERT_TRUE(s.Submit(Spec(1, 300, 3), 0).ok());
  const auto step = s.NextStep(0);
  ASSERT_TRUE(step);
  ASSERT_EQ(step->frames.size(), 3u);
  EXPECT_EQ(step->frames[0].TotalRows(), 128u);
  EXPECT_EQ(step->frames[2].TotalRows(), 44u);
  EXPECT_TRUE(step->frames[0].runs[0].outputs.empty());
  ASSERT_EQ(step->frames[2].runs[0].outputs.size(), 1u);
  EXPECT_EQ(step->frames[2].runs[0].outputs[0].row, 43u);
  EXPECT_EQ(step->frames[1].runs[0].pos, 128u);
  EXPECT_EQ(step->frames[1].runs[0].tables[0].blocks.size(), 8u);  // positions 0..255
  EXPECT_FALSE(s.NextStep(0));                                     // one stage, one step
  const auto updates = Finish(&s, *step);
  ASSERT_EQ(updates.size(), 1u);
  EXPECT_EQ(updates[0].completion_tokens, 1u);
  const auto decode = s.NextStep(0);
  ASSERT_TRUE(decode);
  EXPECT_EQ(Rows(*decode), 1u);
  EXPECT_EQ(decode->frames[0].runs[0].pos, 300u);
  EXPECT_EQ(decode->frames[0].runs[0].tokens[0], 2);
}

TEST(Scheduler, ChunksOfOnePromptFollowEachOtherThroughTheStages) {
  SchedulerOptions options = Options();
  options.prefill_rows = 64;
  Scheduler s(options);
  s.OnPipelineReady(Shape(3, 100));
  ASSERT_TRUE(s.Submit(Spec(1, 150, 3), 0).ok());
  const auto a = s.NextStep(0), b = s.NextStep(0), c = s.NextStep(0);
  ASSERT_TRUE(a && b && c);
  EXPECT_EQ(b->frames[0].runs[0].pos, 64u);
  EXPECT_EQ(Rows(*c), 22u);
  EXPECT_TRUE(b->frames[0].runs[0].outputs.empty());
  EXPECT_FALSE(c->frames[0].runs[0].outputs.empty());
  EXPECT_FALSE(s.NextStep(0));
  Finish(&s, *a);
  Finish(&s, *b);
  EXPECT_FALSE(s.NextStep(0));  // nothing until the last chunk's token is known
  EXPECT_EQ(Finish(&s, *c).size(), 1u);
  EXPECT_TRUE(s.NextStep(0));
}

TEST(Scheduler, DecodingSequencesAreSpreadOverTheStages) {
  Scheduler s(Options());
  s.OnPipelineReady(Shape(3, 200));
  for (uint64_t i = 1; i <= 6; ++i) ASSERT_TRUE(s.Submit(Spec(i, 4, 100), 0).ok());
  Finish(&s, *s.NextStep(0));
  const auto a = s.NextStep(0), b = s.NextStep(0), c = s.NextStep(0);
  ASSERT_TRUE(a && b && c);
  EXPECT_EQ(Rows(*a), 2u);
  EXPECT_EQ(Rows(*b), 2u);
  EXPECT_EQ(Rows(*c), 2u);
  Finish(&s, *a);
  const auto d = s.NextStep(0);
  ASSERT_TRUE(d);
  EXPECT_EQ(d->frames[0].runs[0].seq, a->frames[0].runs[0].seq);
}

TEST(Scheduler, PrefillRidesBesideDecodeWithinTheBudget) {
  SchedulerOptions options = Options();
  options.mixed_rows = 100;
  Scheduler s(options);
  s.OnPipelineReady(Shape(1, 200));
  ASSERT_TRUE(s.Submit(Spec(1, 4, 100), 0).ok());
  Finish(&s, *s.NextStep(0));
  ASSERT_TRUE(s.Submit(Spec(2, 500, 100), 0).ok());
  const auto step = s.NextStep(0);
  ASSERT_TRUE(step);
  ASSERT_EQ(step->frames[0].runs.size(), 2u);
  EXPECT_EQ(step->frames[0].runs[0].seq, SeqId(1));
  EXPECT_EQ(step->frames[0].runs[1].n_rows, 99u);
}

TEST(Scheduler, EndsOnEosLengthAndContext) {
  Scheduler s(Options());
  s.OnPipelineReady(Shape(1, 100, 10));
  ASSERT_TRUE(s.Submit(Spec(1, 4, 100), 0).ok());
  auto updates = Finish(&s, *s.NextStep(0), kEosId);
  ASSERT_EQ(updates.size(), 1u);
  EXPECT_EQ(updates[0].end, SequenceEnd::kEos);
  EXPECT_TRUE(s.idle());

  SequenceSpec stubborn = Spec(2, 4, 100);
  stubborn.ignore_eos = true;
  ASSERT_TRUE(s.Submit(stubborn, 0).ok());
  uint32_t n = 0;
  while (auto step = s.NextStep(0)) {
    updates = Finish(&s, *step, kEosId);
    ++n;
  }
  EXPECT_EQ(n, 6u);  // up to the context of 10
  EXPECT_EQ(updates[0].end, SequenceEnd::kLength);
  EXPECT_EQ(s.kv_blocks_used(), 0u);
  EXPECT_EQ(s.Submit(Spec(3, 10, 1), 0).code(), absl::StatusCode::kOutOfRange);
}

TEST(Scheduler, CancelledBlocksAreFreeOnlyWhenTheStepIsHome) {
  Scheduler s(Options());
  s.OnPipelineReady(Shape(1, 100));
  ASSERT_TRUE(s.Submit(Spec(1, 64, 100), 0).ok());
  const auto step = s.NextStep(0);
  s.Cancel(SeqId(1));
  s.Cancel(SeqId(1));
  EXPECT_EQ(s.kv_blocks_used(), 2u);
  EXPECT_TRUE(Finish(&s, *step).empty());
  EXPECT_EQ(s.kv_blocks_used(), 0u);
  EXPECT_TRUE(s.idle());
}

TEST(Scheduler, YoungestIsPreemptedAndGoesOnFromItsTokens) {
  Scheduler s(Options());
  s.OnPipelineReady(Shape(1, 4, 128));
  ASSERT_TRUE(s.Submit(Spec(1, 30, 90), 0).ok());
  ASSERT_TRUE(s.Submit(Spec(2, 30, 90), 0).ok());
  std::map<uint64_t, uint32_t> tokens;
  std::map<uint64_t, bool> ended;
  int guard = 0;
  while (auto step = s.NextStep(0)) {
    ASSERT_LT(++guard, 500);
    for (const auto& u : Finish(&s, *step)) {
      EXPECT_EQ(u.completion_tokens, ++tokens[u.out.seq.value]);  // nothing twice, nothing left out
      if (u.end) ended[u.out.seq.value] = true;
    }
  }
  EXPECT_GE(s.preemptions(), 1u);
  EXPECT_EQ(tokens[1], 90u);
  EXPECT_EQ(tokens[2], 90u);
  EXPECT_TRUE(ended[1] && ended[2]);
  EXPECT_EQ(s.kv_blocks_used(), 0u);
}

TEST(Scheduler, SlidingGroupsGiveTheirOldBlocksBack) {
  Scheduler s(Options());
  s.OnPipelineReady({1, 4096, {{0, 128}, {64, 20}}});
  ASSERT_TRUE(s.Submit(Spec(1, 1000, 100), 0).ok());
  uint32_t most = 0, steps = 0;
  while (auto step = s.NextStep(0)) {
    ASSERT_LT(++steps, 2000u);
    for (const auto& frame : step->frames) {
      const auto& run = frame.runs[0];
      const auto& table = run.tables[1];
      const uint32_t needs = run.pos + 1 > 64 ? run.pos + 1 - 64 : 0;
      EXPECT_LE(table.first * 32, needs);
      EXPECT_GE((table.first + table.blocks.size()) * 32, run.pos + run.n_rows);
      most = std::max<uint32_t>(most, table.blocks.size());
    }
    Finish(&s, *step);
  }
  EXPECT_LE(most, 8u);
  EXPECT_EQ(s.kv_blocks_used(), 0u);
}

// With the blocks of a plan of four stages there is a frame for each, however narrow the window.
TEST(Scheduler, APromptOverASlidingWindowKeepsEveryStageBusy) {
  SchedulerOptions options = Options();
  options.frame_rows = 32;
  options.prefill_rows = 32;
  model::ModelShape shape;
  shape.groups = {{model::StateKind::kFull, 0, {0}}, {model::StateKind::kSliding, 64, {1}}};
  Scheduler s(options);
  PipelineShape pipeline = Shape(4, 1000);
  const std::vector<uint32_t> blocks = sharding::GroupBlocks(shape, 1000, 1, 32, 5);
  pipeline.context = 1000;
  pipeline.groups = {{0, blocks[0]}, {64, blocks[1]}};
  s.OnPipelineReady(pipeline);
  ASSERT_TRUE(s.Submit(Spec(1, 900, 1), 0).ok());
  std::deque<Step> on_their_way;
  for (int i = 0; i < 20; ++i) {
    while (auto step = s.NextStep(i)) on_their_way.push_back(*step);
    EXPECT_EQ(on_their_way.size(), 4u) << i;
    for (const Step& step : on_their_way) EXPECT_EQ(step.frames[0].runs[0].n_rows, 32u);
    Finish(&s, on_their_way.front());
    on_their_way.pop_front();
  }
}

// Twelve stages of a model with wide rows: what is on its way fits a stream's queue, wherever the
// slow one stands.
TEST(Scheduler, RowsOnTheirWayAreBoundedInBytes) {
  Scheduler s(Options());
  PipelineShape shape = Shape(12, 2000, 65536);
  shape.row_bytes = 16384;
  s.OnPipelineReady(shape);
  for (uint64_t id = 1; id <= 3; ++id) ASSERT_TRUE(s.Submit(Spec(id, 9000, 4), 0).ok());
  std::deque<Step> on_their_way;
  uint64_t most = 0, ended = 0;
  for (TimeNs now = 1; ended < 3 && now < 10'000; ++now) {
    while (auto step = s.NextStep(now)) on_their_way.push_back(*step);
    ASSERT_FALSE(on_their_way.empty()) << "nothing goes on";
    uint64_t rows = 0;
    for (const Step& step : on_their_way) rows += Rows(step);
    most = std::max(most, rows);
    for (const auto& update : Finish(&s, on_their_way.front())) ended += update.end.has_value();
    on_their_way.pop_front();
  }
  EXPECT_EQ(ended, 3u);
  EXPECT_LE(most * shape.row_bytes, kBytesInFlight);
  EXPECT_GT(most * shape.row_bytes, kBytesInFlight / 4 * 3);
}

TEST(Scheduler, OneStepIsOnItsWayHoweverWideARowIs) {
  Scheduler s(Options());
  PipelineShape shape = Shape(4, 100);
  shape.row_bytes = 2 * kBytesInFlight;
  s.OnPipelineReady(shape);
  ASSERT_TRUE(s.Submit(Spec(1, 100, 2), 0).ok());
  uint64_t steps = 0;
  while (auto step = s.NextStep(0)) {
    EXPECT_LE(Rows(*step), 32u);
    EXPECT_FALSE(s.NextStep(0));
    Finish(&s, *step);
    ++steps;
  }
  EXPECT_EQ(steps, 5u);
  EXPECT_TRUE(s.idle());
}

// A full queue says when a place is expected: by how often one became free while others waited.
TEST(Scheduler, AFullQueueSaysWhenToAskAgain) {
  SchedulerOptions options = Options();
  options.max_running = 1;
  options.max_waiting = 2;
  Scheduler s(options);
  s.OnPipelineReady(Shape(1, 100));
  const auto retry_after = [&](TimeNs now) {
    return FieldPayload(s.Submit(Spec(99, 40, 1), now), kRetryAfterKey);
  };
  TimeNs now = 3600 * kSecond;  // the idle hour before counts for nothing
  uint64_t id = 1;
  ASSERT_TRUE(s.Submit(Spec(id++, 40, 1), now).ok());
  std::optional<Step> step = s.NextStep(now);
  for (int i = 0; i < 2; ++i) ASSERT_TRUE(s.Submit(Spec(id++, 40, 1), now).ok());
  EXPECT_EQ(retry_after(now), "1") << "nothing is known yet";
  for (int i = 0; i < 30; ++i) {
    now += 7 * kSecond;
    ASSERT_TRUE(step);
    Finish(&s, *step);
    step = s.NextStep(now);
    ASSERT_TRUE(s.Submit(Spec(id++, 40, 1), now).ok());
  }
  EXPECT_EQ(retry_after(now), "7");
  EXPECT_EQ(retry_after(now + 20 * kSecond), "20") << "it has become slower";
}

TEST(Scheduler, ADeadlineEndsWhatWaitsAndWhatRuns) {
  SchedulerOptions options = Options();
  options.max_running = 1;
  Scheduler s(options);
  s.OnPipelineReady(Shape(1, 100));
  for (uint64_t id = 1; id <= 3; ++id) {
    SequenceSpec spec = Spec(id, 40, 10);
    if (id != 3) spec.deadline = static_cast<TimeNs>(3 - id) * kSecond;
    ASSERT_TRUE(s.Submit(spec, 0).ok());
  }
  Finish(&s, *s.NextStep(0));
  const std::optional<Step> step = s.NextStep(1);
  ASSERT_TRUE(step);
  EXPECT_TRUE(s.EndOverdue(kSecond - 1).empty());
  const auto waited = s.EndOverdue(kSecond);
  ASSERT_EQ(waited.size(), 1u);
  EXPECT_EQ(waited[0].id, SeqId(2));
  EXPECT_EQ(waited[0].completion_tokens, 0u);
  const auto ran = s.EndOverdue(2 * kSecond);
  ASSERT_EQ(ran.size(), 1u);
  EXPECT_EQ(ran[0].id, SeqId(1));
  EXPECT_GT(ran[0].completion_tokens, 0u);
  EXPECT_TRUE(s.EndOverdue(3 * kSecond).empty());
  Finish(&s, *step);  // what was on its way when it ended
  const std::optional<Step> next = s.NextStep(3 * kSecond);
  ASSERT_TRUE(next);
  EXPECT_EQ(next->frames[0].runs[0].seq, SeqId(3));
}

TEST(Scheduler, WhatALostPipelineCarriedRunsAgainBeforeTheQueue) {
  SchedulerOptions options = Options();
  options.max_running = 1;
  options.max_waiting = 1;
  Scheduler s(options);
  s.OnPipelineReady(Shape(2, 100));
  ASSERT_TRUE(s.Submit(Spec(1, 40, 10), 0).ok());
  ASSERT_TRUE(s.NextStep(0));
  ASSERT_TRUE(s.Submit(Spec(2, 40, 10), 0).ok());
  EXPECT_EQ(s.Submit(Spec(3, 40, 10), 0).code(), absl::StatusCode::kResourceExhausted);
  s.OnPipelineLost(true);
  EXPECT_EQ(s.n_waiting(), 2u);
  EXPECT_FALSE(s.NextStep(0));
  EXPECT_TRUE(s.OnPipelineReady(Shape(1, 100)).empty());
  auto step = s.NextStep(0);
  ASSERT_TRUE(step);
  EXPECT_EQ(step->frames[0].runs[0].seq, SeqId(1));
  s.Cancel(SeqId(1));
  Finish(&s, *step);
  step = s.NextStep(0);
  ASSERT_TRUE(step);
  EXPECT_EQ(step->frames[0].runs[0].seq, SeqId(2));
  Finish(&s, *step);
  // A smaller pool: what no longer fits is told so.
  s.OnPipelineLost(true);
  s.Cancel(SeqId(2));
  ASSERT_TRUE(s.Submit(Spec(4, 40, 10), 0).ok());
  const auto failures = s.OnPipelineReady(Shape(1, 100, 20));
  ASSERT_EQ(failures.size(), 1u);
  EXPECT_EQ(failures[0].status.code(), absl::StatusCode::kOutOfRange);
  EXPECT_TRUE(s.idle());
}

TEST(Scheduler, AReplayGoesOnAtTheNextToken) {
  Scheduler s(Options());
  s.OnPipelineReady(Shape(1, 100));
  ASSERT_TRUE(s.Submit(Spec(1, 40, 10), 0).ok());
  Finish(&s, *s.NextStep(0));
  ASSERT_TRUE(s.NextStep(0));
  s.OnPipelineLost(true);
  s.OnPipelineReady(Shape(1, 100));
  const auto step = s.NextStep(0);
  ASSERT_TRUE(step);
  EXPECT_EQ(Rows(*step), 41u);  // prompt and the token that was already sent
  const auto updates = Finish(&s, *step);
  ASSERT_EQ(updates.size(), 1u);
  EXPECT_EQ(updates[0].completion_tokens, 2u);
}

// A request that breaks every pipeline it runs on must not break the pool for all others.
TEST(Scheduler, WhatWasThereAtFourLossesInARowEnds) {
  Scheduler s(Options());
  ASSERT_TRUE(s.Submit(Spec(1, 40, 10), 0).ok());
  for (int loss = 0; loss < 3; ++loss) {
    s.OnPipelineReady(Shape(1, 100));
    ASSERT_TRUE(s.NextStep(0));
    EXPECT_TRUE(s.OnPipelineLost(true).empty());
  }
  // A token between is progress.
  s.OnPipelineReady(Shape(1, 100));
  Finish(&s, *s.NextStep(0));
  ASSERT_TRUE(s.NextStep(0));
  ASSERT_TRUE(s.Submit(Spec(2, 40, 10), 0).ok());  // it only waits
  for (int loss = 0; loss < 3; ++loss) {
    EXPECT_TRUE(s.OnPipelineLost(true).empty());
    s.OnPipelineReady(Shape(1, 100));
    ASSERT_TRUE(s.NextStep(0));
  }
  EXPECT_EQ(s.OnPipelineLost(true), std::vector<SeqId>{SeqId(1)});
  EXPECT_EQ(s.n_waiting(), 1u);
}

TEST(Scheduler, NobodyEndsWhenNoRequestMayBeTheReason) {
  Scheduler s(Options());
  for (const uint64_t id : {1, 2}) ASSERT_TRUE(s.Submit(Spec(id, 40, 10), 0).ok());
  for (int loss = 0; loss < 20; ++loss) {
    s.OnPipelineReady(Shape(1, 100));
    const auto step = s.NextStep(0);
    ASSERT_TRUE(step);
    EXPECT_EQ(Rows(*step), 80u) << "nobody runs alone";
    EXPECT_TRUE(s.OnPipelineLost(false).empty());
  }
  EXPECT_EQ(s.n_waiting(), 2u);
}

SequenceSpec SpecOf(const std::string& caller, uint64_t id, uint32_t prompt, uint32_t max_tokens) {
  SequenceSpec spec = Spec(id, prompt, max_tokens);
  spec.caller = caller;
  return spec;
}

bool Has(const Step& step, uint64_t id) {
  for (const auto& frame : step.frames) {
    for (const auto& run : frame.runs) {
      if (run.seq == SeqId(id)) return true;
    }
  }
  return false;
}

// However much one caller asks for, another one's request starts at the next step.
TEST(Scheduler, AGreedyCallerDoesNotKeepOthersOut) {
  SchedulerOptions options = Options();
  Scheduler s(options);
  // KV for about ten of its requests.
  s.OnPipelineReady(Shape(1, 100));
  uint64_t id = 1;
  uint64_t taken = 0;
  for (; id <= 1010; ++id) taken += s.Submit(SpecOf("anna", id, 300, 50), 0).ok();
  EXPECT_EQ(taken, options.max_waiting_of_one);
  auto step = s.NextStep(0);
  ASSERT_TRUE(step);
  ASSERT_TRUE(s.Submit(SpecOf("bob", 5000, 40, 5), 0).ok());
  ASSERT_TRUE(s.Submit(SpecOf("carl", 6000, 300, 5), 0).ok());
  int steps = 0;
  bool bob = false, carl = false;
  for (; steps < 4 && !(bob && carl); ++steps) {
    Finish(&s, *step);
    step = s.NextStep(0);
    ASSERT_TRUE(step);
    bob = bob || Has(*step, 5000);
    carl = carl || Has(*step, 6000);
  }
  EXPECT_LE(steps, 2);
  // And anna still has her share.
  EXPECT_GT(s.n_running(), 2u);
}

TEST(Scheduler, AShortPromptIsNotReadBehindLongOnes) {
  Scheduler s(Options());
  s.OnPipelineReady(Shape(1, 1000));
  for (uint64_t id = 1; id <= 4; ++id) ASSERT_TRUE(s.Submit(Spec(id, 3900, 5), 0).ok());
  auto step = s.NextStep(0);
  ASSERT_TRUE(s.Submit(Spec(5, 2, 1), kSecond).ok());
  Finish(&s, *step);
  step = s.NextStep(kSecond);
  ASSERT_TRUE(step);
  EXPECT_TRUE(Has(*step, 5));
}

// Short prompts that keep coming do not starve a long one.
TEST(Scheduler, ALongPromptsTurnComes) {
  SchedulerOptions options = Options();
  options.max_running = 1;
  Scheduler s(options);
  s.OnPipelineReady(Shape(1, 1000));
  ASSERT_TRUE(s.Submit(Spec(1, 3000, 1), 0).ok());
  TimeNs now = 0;
  bool seen = false;
  for (uint64_t id = 2; id < 200 && !seen; ++id) {
    now += 100 * kMillisecond;
    for (uint64_t k = 0; k < 2; ++k) ASSERT_TRUE(s.Submit(Spec(1000 * id + k, 20, 1), now).ok());
    const auto step = s.NextStep(now);
    ASSERT_TRUE(step);
    seen = Has(*step, 1);
    Finish(&s, *step);
  }
  EXPECT_TRUE(seen);
  EXPECT_GT(now, kSecond);
  EXPECT_LT(now, 10 * kSecond);
}

// By the measured time of a row, whatever the number of stages.
TEST(Scheduler, DecodingWaitsForOthersPromptsNoLongerThanItMay) {
  for (const uint32_t n_stages : {1u, 3u}) {
    SchedulerOptions options = Options();
    Scheduler s(options);
    s.OnPipelineReady(Shape(n_stages, 10000));
    TimeNs now = 0;
    ASSERT_TRUE(s.Submit(Spec(1, 10, 1000), now).ok());
    std::deque<Step> steps;
    // A row takes a millisecond in each stage.
    const auto turn = [&] {
      while (auto step = s.NextStep(now)) steps.push_back(*std::move(step));
      ASSERT_FALSE(steps.empty());
      const Step step = steps.front();
      steps.pop_front();
      for (const stage::StepBatch& frame : step.frames) {
        now += frame.TotalRows() * kMillisecond;
        std::vector<stage::TokenOut> tokens;
        for (const stage::SeqRun& run : frame.runs) {
          for (const auto& output : run.outputs) {
            stage::TokenOut& out = tokens.emplace_back();
            out.seq = run.seq;
            out.pos = run.pos + output.row;
            out.token = 2;
          }
        }
        s.CommitFrame(step.id, frame.frame, tokens, now);
      }
    };
    turn();
    for (uint64_t id = 2; id <= 5; ++id) ASSERT_TRUE(s.Submit(Spec(id, 3900, 5), now).ok());
    for (int i = 0; i < 8; ++i) turn();  // it is measured
    for (int i = 0; i < 20; ++i) {
      turn();
      for (const Step& step : steps) EXPECT_LE(Rows(step), 100 / n_stages + 1) << n_stages;
    }
  }
}

TEST(Scheduler, FailedFrameEndsItsSequences) {
  Scheduler s(Options());
  s.OnPipelineReady(Shape(1, 100));
  ASSERT_TRUE(s.Submit(Spec(1, 200, 10), 0).ok());
  const auto step = s.NextStep(0);
  ASSERT_EQ(step->frames.size(), 2u);
  EXPECT_EQ(s.FailFrame(step->id, 0), std::vector<SeqId>{SeqId(1)});
  EXPECT_GT(s.kv_blocks_used(), 0u);
  EXPECT_TRUE(s.FailFrame(step->id, 0).empty());
  EXPECT_TRUE(s.CommitFrame(step->id, 1, {{SeqId(1), 199, 3, 0, 0, {}, {}}}, 0).empty());
  EXPECT_TRUE(s.idle());
  EXPECT_EQ(s.kv_blocks_used(), 0u);
}

// Of two answers in one frame one has no token: its sequence ends, the other goes on.
TEST(Scheduler, AnOutputThatFailedEndsItsOwnSequence) {
  Scheduler s(Options());
  s.OnPipelineReady(Shape(1, 100));
  ASSERT_TRUE(s.Submit(Spec(1, 4, 10), 0).ok());
  ASSERT_TRUE(s.Submit(Spec(2, 5, 10), 0).ok());
  const auto step = s.NextStep(0);
  ASSERT_EQ(step->frames.size(), 1u);
  ASSERT_EQ(step->frames[0].runs.size(), 2u);
  stage::TokenOut bad{SeqId(1), 3, -1, 0, 0, {}, {}, Internal("not finite")};
  const auto updates = s.CommitFrame(step->id, 0, {bad, {SeqId(2), 4, 2, 0, 0, {}, {}}}, 0);
  ASSERT_EQ(updates.size(), 1u);
  EXPECT_EQ(updates[0].out.seq, SeqId(2));
  EXPECT_TRUE(s.Fail(SeqId(1)));
  EXPECT_FALSE(s.Fail(SeqId(1))) << "it has left";
  EXPECT_EQ(s.n_running(), 1u);
  const auto next = s.NextStep(0);
  ASSERT_EQ(next->frames[0].runs.size(), 1u);
  EXPECT_EQ(next->frames[0].runs[0].seq, SeqId(2));
  s.Cancel(SeqId(2));
  s.CommitFrame(next->id, 0, {{SeqId(2), 5, 2, 0, 0, {}, {}}}, 0);
  EXPECT_TRUE(s.idle());
  EXPECT_EQ(s.kv_blocks_used(), 0u);
}

// The tests above wait for each step; these do not where one stage is all.
std::set<uint64_t> Sequences(const Step& step) {
  std::set<uint64_t> ids;
  for (const auto& frame : step.frames) {
    for (const auto& run : frame.runs) ids.insert(run.seq.value);
  }
  return ids;
}

TEST(Scheduler, WhatWasThereAtTwoLossesRunsAloneUntilItsToken) {
  Scheduler s(Options());
  s.OnPipelineReady(Shape(1, 100));
  for (const uint64_t id : {1, 2, 3}) ASSERT_TRUE(s.Submit(Spec(id, 40, 3), 0).ok());
  for (int loss = 0; loss < 2; ++loss) {
    EXPECT_EQ(Sequences(*s.NextStep(0)).size(), 3u);
    EXPECT_TRUE(s.OnPipelineLost(true).empty());
    s.OnPipelineReady(Shape(1, 100));
  }
  for (const uint64_t id : {1, 2, 3}) {
    const auto step = s.NextStep(0);
    EXPECT_EQ(Sequences(*step), std::set<uint64_t>{id});
    EXPECT_FALSE(s.NextStep(0));
    EXPECT_EQ(Finish(&s, *step).size(), 1u);
  }
  EXPECT_EQ(Sequences(*s.NextStep(0)).size(), 3u);  // nobody is suspected any more
}

TEST(Scheduler, WhatBreaksEveryPipelineEndsAndNobodyElse) {
  for (const uint32_t n_stages : {1u, 3u}) {
    Scheduler s(Options());
    s.OnPipelineReady(Shape(n_stages, 100));
    for (uint64_t id = 1; id <= 6; ++id) ASSERT_TRUE(s.Submit(Spec(id, 40, 20), 0).ok());
    std::set<uint64_t> given_up, ended;
    std::deque<Step> in_flight;
    int losses = 0;
    while (!s.idle()) {
      while (auto step = s.NextStep(0)) in_flight.push_back(*std::move(step));
      ASSERT_FALSE(in_flight.empty());
      if (Sequences(in_flight.front()).contains(4)) {
        ++losses;
        for (const SeqId id : s.OnPipelineLost(true)) given_up.insert(id.value);
        in_flight.clear();
        s.OnPipelineReady(Shape(n_stages, 100));
        continue;
      }
      for (const auto& update : Finish(&s, in_flight.front())) {
        if (update.end) ended.insert(update.out.seq.value);
      }
      in_flight.pop_front();
    }
    EXPECT_EQ(given_up, std::set<uint64_t>{4});
    EXPECT_EQ(ended.size(), 5u);
    EXPECT_EQ(losses, 4);
  }
}

class RunAhead : public ::testing::Test {
 protected:
  static SchedulerOptions Ahead() {
    SchedulerOptions options = Options();
    options.run_ahead = true;
    return options;
  }
  Scheduler s_{Ahead()};
};

TEST_F(RunAhead, TheNextRowNamesTheStepThatDrawsItsToken) {
  s_.OnPipelineReady(Shape(1, 100));
  ASSERT_TRUE(s_.Submit(Spec(1, 40, 10), 0).ok());
  ASSERT_EQ(Finish(&s_, *s_.NextStep(0), 5).size(), 1u);
  const auto known = s_.NextStep(0), ahead = s_.NextStep(0);
  ASSERT_TRUE(known && ahead);
  EXPECT_EQ(known->frames[0].runs[0].tokens, std::vector<int32_t>{5});
  const stage::SeqRun& run = ahead->frames[0].runs[0];
  EXPECT_EQ(run.pos, 41u);
  EXPECT_EQ(run.n_rows, 1u);
  EXPECT_TRUE(run.tokens.empty());
  EXPECT_EQ(run.token_of, known->id);
  EXPECT_EQ(run.outputs.size(), 1u);
  EXPECT_EQ(run.tables[0].blocks.size(), 2u);
  EXPECT_FALSE(s_.NextStep(0));  // one step ahead, no more
  ASSERT_EQ(Finish(&s_, *known, 5).size(), 1u);
  const auto next = s_.NextStep(0);
  ASSERT_TRUE(next);
  EXPECT_EQ(next->frames[0].runs[0].token_of, ahead->id);
  EXPECT_EQ(next->frames[0].runs[0].pos, 42u);
}

// A request that comes, at any moment, finds at most one step before it that prefills.
TEST_F(RunAhead, NothingGoesAheadOfAStepThatPrefills) {
  s_.OnPipelineReady(Shape(1, 400));
  ASSERT_TRUE(s_.Submit(Spec(1, 1200, 10), 0).ok());
  auto prefill = s_.NextStep(0);
  ASSERT_TRUE(prefill);
  EXPECT_FALSE(s_.NextStep(0));  // not the prompt's next rows
  Finish(&s_, *prefill);
  prefill = s_.NextStep(0);
  Finish(&s_, *prefill);
  prefill = s_.NextStep(0);  // its last rows
  EXPECT_EQ(Rows(*prefill), 1200u - 2 * 512);
  EXPECT_FALSE(s_.NextStep(0));  // nor its first decode row
  ASSERT_EQ(Finish(&s_, *prefill).size(), 1u);
  const auto first = s_.NextStep(0);
  ASSERT_TRUE(first);
  EXPECT_EQ(Rows(*first), 1u);
  // Behind a decode step a newcomer's prompt may start; behind that one nothing more.
  ASSERT_TRUE(s_.Submit(Spec(2, 600, 10), 0).ok());
  const auto mixed = s_.NextStep(0);
  ASSERT_TRUE(mixed);
  EXPECT_EQ(Rows(*mixed), 512u);  // rows take no time here
  EXPECT_EQ(mixed->frames[0].runs[0].token_of, first->id);
  EXPECT_FALSE(s_.NextStep(0));
  Finish(&s_, *first);
  EXPECT_FALSE(s_.NextStep(0));
  Finish(&s_, *mixed);
  EXPECT_TRUE(s_.NextStep(0));
}

TEST_F(RunAhead, EndsAtItsLengthWithoutARowTooMany) {
  s_.OnPipelineReady(Shape(1, 100));
  ASSERT_TRUE(s_.Submit(Spec(1, 4, 3), 0).ok());
  std::vector<Step> in_flight;
  uint32_t rows = 0, tokens = 0;
  while (true) {
    while (auto step = s_.NextStep(0)) {
      rows += Rows(*step);
      in_flight.push_back(*std::move(step));
    }
    if (in_flight.empty()) break;
    tokens += Finish(&s_, in_flight.front()).size();
    in_flight.erase(in_flight.begin());
  }
  EXPECT_EQ(tokens, 3u);
  EXPECT_EQ(rows, 6u);  // 4 of the prompt, then 2: the third token is not read
  EXPECT_TRUE(s_.idle());
  EXPECT_EQ(s_.kv_blocks_used(), 0u);
}

TEST_F(RunAhead, ARowBehindAnEndIsDroppedAndItsBlocksWaitForIt) {
  s_.OnPipelineReady(Shape(1, 100));
  ASSERT_TRUE(s_.Submit(Spec(1, 31, 100), 0).ok());
  Finish(&s_, *s_.NextStep(0));
  const auto last = s_.NextStep(0), ahead = s_.NextStep(0);
  ASSERT_TRUE(last && ahead);
  const auto updates = Finish(&s_, *last, kEosId);
  ASSERT_EQ(updates.size(), 1u);
  EXPECT_EQ(updates[0].end, SequenceEnd::kEos);
  EXPECT_EQ(s_.kv_blocks_used(), 2u);
  EXPECT_TRUE(Finish(&s_, *ahead, 3).empty());
  EXPECT_EQ(s_.kv_blocks_used(), 0u);
  EXPECT_TRUE(s_.idle());
}

TEST_F(RunAhead, PreemptsNobody) {
  s_.OnPipelineReady(Shape(1, 4, 128));
  ASSERT_TRUE(s_.Submit(Spec(1, 31, 90), 0).ok());
  ASSERT_TRUE(s_.Submit(Spec(2, 20, 90), 0).ok());
  for (int i = 0; i < 33; ++i) ASSERT_EQ(Finish(&s_, *s_.NextStep(0)).size(), 2u);
  ASSERT_EQ(s_.kv_blocks_used(), 4u);
  const auto last = s_.NextStep(0), ahead = s_.NextStep(0);
  ASSERT_TRUE(last && ahead);
  EXPECT_EQ(Rows(*last), 2u);
  ASSERT_EQ(Rows(*ahead), 1u);  // the first would need a third block
  EXPECT_EQ(ahead->frames[0].runs[0].seq, SeqId(2));
  EXPECT_EQ(s_.preemptions(), 0u);
}

TEST_F(RunAhead, NotOverSeveralStages) {
  s_.OnPipelineReady(Shape(2, 100));
  ASSERT_TRUE(s_.Submit(Spec(1, 40, 10), 0).ok());
  ASSERT_TRUE(s_.NextStep(0));
  EXPECT_FALSE(s_.NextStep(0));
}

}  // namespace
}  // namespace lanyard::coordinator
