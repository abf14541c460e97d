#include "stage/last_tokens.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

namespace lanyard::stage {
namespace {

using ::testing::HasSubstr;

TokenOut Out(uint64_t seq, uint32_t pos, int32_t token) {
  TokenOut out;
  out.seq = SeqId(seq);
  out.pos = pos;
  out.token = token;
  return out;
}

StepBatch Ask(uint64_t seq, uint32_t pos, uint64_t token_of) {
  StepBatch batch;
  batch.step = StepId(token_of + 1);
  SeqRun& run = batch.runs.emplace_back();
  run.seq = SeqId(seq);
  run.pos = pos;
  run.n_rows = 1;
  run.token_of = StepId(token_of);
  run.outputs.emplace_back();
  return batch;
}

TEST(LastTokens, GivesWhatTheNamedStepDrew) {
  LastTokens last;
  last.Put(StepId(5), {Out(1, 10, 42), Out(1, 10, 43),
                       Out(2, 3, 7)});  // two samples of a row: the first counts
  StepBatch batch = Ask(1, 11, 5);
  ASSERT_TRUE(last.Resolve(&batch).ok());
  EXPECT_EQ(batch.runs[0].tokens, std::vector<int32_t>{42});
  batch = Ask(2, 4, 5);
  ASSERT_TRUE(last.Resolve(&batch).ok());
  EXPECT_EQ(batch.runs[0].tokens, std::vector<int32_t>{7});
}

TEST(LastTokens, AnotherStepPositionOrSequenceIsNotIt) {
  LastTokens last;
  last.Put(StepId(5), {Out(1, 10, 42)});
  for (StepBatch batch : {Ask(1, 11, 4), Ask(1, 12, 5), Ask(1, 10, 5), Ask(2, 11, 5)}) {
    const absl::Status status = last.Resolve(&batch);
    EXPECT_TRUE(absl::IsFailedPrecondition(status));
    EXPECT_THAT(status.message(), HasSubstr("drew no token"));
  }
}

TEST(LastTokens, AFailedFrameIsNotALostOne) {
  LastTokens last;
  last.PutFailed(Ask(1, 10, 4), absl::InternalError("a row is not finite"));
  StepBatch batch = Ask(1, 11, 5);
  batch.runs.push_back(batch.runs[0]);  // another's row in the same frame must not suffer
  batch.runs[1].seq = SeqId(3);
  last.Put(StepId(5), {Out(3, 10, 9)});
  ASSERT_TRUE(last.Resolve(&batch).ok());
  EXPECT_EQ(batch.runs[0].tokens, std::vector<int32_t>{0});
  EXPECT_EQ(batch.runs[1].tokens, std::vector<int32_t>{9});
  last.PutFailed(Ask(2, 10, 4), absl::FailedPreconditionError("lost"));
  batch = Ask(2, 11, 5);
  EXPECT_TRUE(absl::IsFailedPrecondition(last.Resolve(&batch)));
}

TEST(LastTokens, OfAStepThatCouldNotBeReadNobodyReadsTheRows) {
  LastTokens last;
  last.PutFailed(StepId(6));
  StepBatch batch;
  batch.step = StepId(7);
  SeqRun& run = batch.runs.emplace_back();
  run.seq = SeqId(1);
  run.pos = 9;
  run.n_rows = 1;
  run.token_of = StepId(6);
  ASSERT_TRUE(last.Resolve(&batch).ok());
  EXPECT_EQ(batch.runs[0].tokens, std::vector<int32_t>{0});
  batch.runs[0].token_of = StepId(5);
  EXPECT_EQ(last.Resolve(&batch).code(), absl::StatusCode::kFailedPrecondition);
  for (uint64_t step = 20; step < 40; ++step)
    last.PutFailed(StepId(step));  // the last few are kept
  batch.runs[0].token_of = StepId(6);
  EXPECT_FALSE(last.Resolve(&batch).ok());
}

TEST(LastTokens, ForgetsTheEnded) {
  LastTokens last;
  for (uint64_t i = 1; i <= 20000; ++i) last.Put(StepId(i), {Out(i, 1, 1)});
  EXPECT_LE(last.size(), 4096u);
  LastTokens hostile;
  for (uint64_t i = 1; i <= 20000; ++i)
    hostile.Put(StepId(1), {Out(i, 1, 1)});  // frames of one step without an end
  EXPECT_LE(hostile.size(), 4096u);
  StepBatch batch = Ask(20000, 2, 20000);
  EXPECT_TRUE(last.Resolve(&batch).ok());
}

}  // namespace
}  // namespace lanyard::stage
