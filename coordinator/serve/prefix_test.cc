// What was read before is not read again: by the scheduler, over the blocks of KvPool.
#include <gtest/gtest.h>

#include <algorithm>
#include <deque>
#include <map>
#include <set>

#include "coordinator/serve/scheduler.h"

namespace lanyard::coordinator {
namespace {

constexpr uint32_t kBlock = stage::kKvBlockTokens;

// The tokens of a text: text `n` has no block in common with any other.
std::vector<int32_t> Text(int32_t n, size_t length) {
  std::vector<int32_t> text;
  for (size_t i = 0; i < length; ++i) text.push_back(n * 100000 + static_cast<int32_t>(i));
  return text;
}

std::vector<int32_t> operator+(std::vector<int32_t> a, const std::vector<int32_t>& b) {
  a.insert(a.end(), b.begin(), b.end());
  return a;
}

class Prefix : public ::testing::Test {
 protected:
  void Serve(uint32_t n_stages, std::vector<KvGroup> groups, SchedulerOptions options = {}) {
    options.run_ahead = false;
    s_ = std::make_unique<Scheduler>(options);
    shape_ = {n_stages, 8192, std::move(groups)};
    s_->OnPipelineReady(shape_);
  }
  void Ask(uint64_t id, std::vector<int32_t> prompt, uint32_t max_tokens = 1,
           std::string tenant = "") {
    SequenceSpec spec;
    spec.id = SeqId(id);
    spec.tenant = std::move(tenant);
    spec.prompt = std::move(prompt);
    spec.max_tokens = max_tokens;
    ASSERT_TRUE(s_->Submit(std::move(spec), 0).ok());
  }
  void Take() {
    while (auto step = s_->NextStep(0)) {
      for (const stage::StepBatch& frame : step->frames) rows_ += frame.TotalRows();
      in_flight_.push_back(*std::move(step));
    }
    most_used_ = std::max(most_used_, s_->kv_blocks_used());
  }
  void Finish() {
    const Step step = in_flight_.front();
    in_flight_.pop_front();
    for (const stage::StepBatch& frame : step.frames) {
      std::vector<stage::TokenOut> tokens;
      for (const stage::SeqRun& run : frame.runs) {
        for (const auto& output : run.outputs) {
          stage::TokenOut& out = tokens.emplace_back();
          out.seq = run.seq;
          out.pos = run.pos + output.row;
          out.token = -1 - static_cast<int32_t>(out.pos);
        }
      }
      for (const SequenceUpdate& u : s_->CommitFrame(step.id, frame.frame, tokens, 1)) {
        cached_[u.out.seq.value] = u.cached_tokens;
        if (u.end) ended_.insert(u.out.seq.value);
      }
    }
  }
  // Runs until nothing is left; returns the rows that it took.
  uint64_t RunAll() {
    const uint64_t before = rows_;
    for (Take(); !in_flight_.empty(); Take()) Finish();
    EXPECT_TRUE(s_->idle());
    EXPECT_EQ(s_->kv_blocks_used(), 0u);
    return rows_ - before;
  }

  PipelineShape shape_;
  std::unique_ptr<Scheduler> s_;
  std::deque<Step> in_flight_;
  uint64_t rows_ = 0;
  uint32_t most_used_ = 0;
  std::map<uint64_t, uint32_t> cached_;
  std::set<uint64_t> ended_;
};

TEST_F(Prefix, ASecondTurnReadsOnlyWhatIsNew) {
  Serve(1, {{0, 300}});
  Ask(1, Text(1, 2000), 70);
  EXPECT_EQ(RunAll(), 2069u);
  std::vector<int32_t> answer;
  for (int32_t pos = 1999; pos < 2069; ++pos) answer.push_back(-1 - pos);
  Ask(2, Text(1, 2000) + answer + Text(2, 30), 2);
  // 2,069 rows were read, of which 64 blocks are full.
  EXPECT_EQ(RunAll(), 2100u - 64 * kBlock + 1);
  EXPECT_EQ(cached_[1], 0u);
  EXPECT_EQ(cached_[2], 64 * kBlock);
}

TEST_F(Prefix, OffMeansOff) {
  SchedulerOptions options;
  options.keep_prefixes = false;
  Serve(1, {{0, 300}}, options);
  for (const uint64_t id : {1, 2}) {
    Ask(id, Text(1, 200));
    EXPECT_EQ(RunAll(), 200u);
    EXPECT_EQ(s_->kv_blocks_kept(), 0u);
  }
}

TEST_F(Prefix, TheLastRowAlwaysRuns) {
  Serve(1, {{0, 300}});
  for (const uint32_t length : {64u, 65u, 96u}) {
    for (int i = 0; i < 2; ++i) {
      Ask(1, Text(static_cast<int32_t>(length), length));
      const uint32_t known = (length - 1) / kBlock * kBlock;
      EXPECT_EQ(RunAll(), i == 0 ? length : length - known) << length;
    }
  }
}

TEST_F(Prefix, EndsAtTheFirstTokenThatDiffers) {
  Serve(1, {{0, 300}});
  Ask(1, Text(1, 200));
  RunAll();
  for (const uint32_t at : {0u, 31u, 32u, 63u, 64u, 199u}) {
    std::vector<int32_t> prompt = Text(1, 200);
    prompt[at] = 77;
    Ask(2, prompt);
    RunAll();
    EXPECT_EQ(cached_[2], std::min(at / kBlock, 6u) * kBlock) << at;
  }
}

TEST_F(Prefix, NothingIsSharedBetweenTenants) {
  Serve(1, {{0, 300}});
  Ask(1, Text(1, 200), 1, "anna");
  RunAll();
  Ask(2, Text(1, 200), 1, "bert");
  EXPECT_EQ(RunAll(), 200u);
  Ask(3, Text(1, 200), 1, "anna");
  EXPECT_EQ(RunAll(), 200u - 192);
}

TEST_F(Prefix, ManyWhoAskAtOnceReadAndHoldTheBeginningOnce) {
  for (const uint32_t n_stages : {1u, 3u}) {
    rows_ = most_used_ = 0;
    // Apart from each other they would take 200 x 48 blocks.
    Serve(n_stages, {{0, 500}});
    for (int32_t id = 1; id <= 200; ++id) Ask(id, Text(9999, 1500) + Text(id, 20), 10);
    EXPECT_EQ(RunAll(), 46 * kBlock + 200 * (1520 - 46 * kBlock + 9)) << n_stages;
    EXPECT_LE(most_used_, 46u + 200 * 2) << n_stages;
    EXPECT_EQ(s_->preemptions(), 0u);
    EXPECT_EQ(ended_.size(), 200u);
  }
}

TEST_F(Prefix, OneThatBeginsInTheMiddleOfAnothersTakesWhatIsHome) {
  Serve(1, {{0, 300}});
  Ask(1, Text(1, 3000));
  Take();
  Finish();
  Ask(2, Text(1, 400) + Text(2, 5));
  RunAll();
  EXPECT_EQ(cached_[2], 384u);
}

TEST_F(Prefix, GoesOldestFirstWhenRoomIsNeeded) {
  Serve(1, {{0, 20}});
  for (const int32_t text : {1, 2, 1, 3}) {  // 8 blocks each: the third is known, 2 goes for 3
    Ask(text, Text(text, 8 * kBlock + 1));
    RunAll();
  }
  EXPECT_EQ(cached_[1], 8 * kBlock);
  Ask(4, Text(1, 8 * kBlock + 1));
  RunAll();
  EXPECT_EQ(cached_[4], 8 * kBlock);
  Ask(5, Text(2, 8 * kBlock + 1));
  RunAll();
  EXPECT_LT(cached_[5], 8 * kBlock);  // of a text its end goes first
  Ask(6, Text(7, 20 * kBlock - 1));   // all of the room
  EXPECT_EQ(RunAll(), 20u * kBlock - 1);
}

TEST_F(Prefix, AWindowIsTakenOverWhole) {
  for (const bool with_full : {true, false}) {
    std::vector<KvGroup> groups = {{100, 24}};
    if (with_full) groups.push_back({0, 300});
    Serve(1, groups);
    Ask(1, Text(1, 1000), 10);
    EXPECT_EQ(RunAll(), 1009u);
    // The end of the conversation is there, with the window before it.
    Ask(2, Text(1, 1000) + Text(2, 8));
    EXPECT_EQ(RunAll(), 1008u - 31 * kBlock) << with_full;
    // Other conversations push the windows' blocks out; then all is read again, and right.
    for (int32_t text = 3; text < 9; ++text) {
      Ask(3, Text(text, 600));
      RunAll();
    }
    Ask(4, Text(1, 1000) + Text(2, 8));
    EXPECT_EQ(RunAll(), 1008u) << with_full;
    Ask(5, Text(1, 1000) + Text(2, 8));
    EXPECT_EQ(RunAll(), 1008u - 31 * kBlock) << with_full;
  }
}

TEST_F(Prefix, WhatFailedIsNotKept) {
  Serve(1, {{0, 300}});
  Ask(1, Text(1, 300));
  Take();
  ASSERT_EQ(in_flight_.front().frames.size(), 3u);
  const StepId step = in_flight_.front().id;
  s_->CommitFrame(step, 0, {}, 1);
  EXPECT_EQ(s_->FailFrame(step, 1).size(), 1u);
  s_->FailFrame(step, 2);
  in_flight_.clear();
  Ask(2, Text(1, 300));
  RunAll();
  EXPECT_EQ(cached_[2], 0u);
}

TEST_F(Prefix, WhatGaveNoTokenIsNotKeptUnlessOthersHoldIt) {
  Serve(1, {{0, 300}, {64, 100}});
  Ask(1, Text(1, 128) + Text(2, 100), 100);
  Take();
  Finish();
  Ask(2, Text(1, 128) + Text(3, 100), 100);
  Take();
  Finish();
  ASSERT_TRUE(s_->Fail(SeqId(2)));
  Ask(3, Text(1, 128) + Text(3, 100));
  RunAll();
  EXPECT_EQ(cached_[2], 128u);
  EXPECT_EQ(cached_[3], 128u);  // the first one still ran
}

TEST_F(Prefix, WhatACancelledOneReadIsKept) {
  Serve(1, {{0, 300}});
  Ask(1, Text(1, 300), 100);
  Take();
  s_->Cancel(SeqId(1));
  Finish();
  Ask(2, Text(1, 300));
  RunAll();
  EXPECT_EQ(cached_[2], 288u);
}

TEST_F(Prefix, ALossForgetsAllAndItsReplayReadsOnce) {
  Serve(2, {{0, 300}});
  for (int32_t id = 1; id <= 4; ++id) Ask(id, Text(9, 640) + Text(id, 10), 5);
  Take();
  Finish();
  EXPECT_TRUE(s_->OnPipelineLost(true).empty());
  in_flight_.clear();
  s_->OnPipelineReady(shape_);
  EXPECT_EQ(RunAll(), 640u + 4 * (10 + 4));
  EXPECT_EQ(ended_.size(), 4u);
}

TEST_F(Prefix, APreemptedOneTakesItsOwnBack) {
  SchedulerOptions options;
  options.max_running = 2;
  Serve(1, {{0, 12}}, options);
  Ask(1, Text(1, 5 * kBlock), 100);
  Ask(2, Text(2, 5 * kBlock), 100);
  const uint64_t rows = RunAll();
  EXPECT_EQ(s_->preemptions(), 1u);
  // The second lost what the first needed, and had the rest when it came back.
  EXPECT_GT(rows, 2u * (5 * kBlock + 99));
  EXPECT_LT(rows, 2u * (5 * kBlock + 99) + 5 * kBlock);
}

}  // namespace
}  // namespace lanyard::coordinator
