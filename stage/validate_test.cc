#include "stage/validate.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <cmath>
#include <functional>
#include <limits>

namespace lanyard::stage {
namespace {

using ::testing::HasSubstr;

// A model with a full group and one that sees 64 tokens; the stage is the first of two, or the
// second.
class ValidateTest : public ::testing::Test {
 protected:
  ValidateTest() {
    model_ = {.n_vocab = 1000, .d_model = 8, .group_windows = {0, 64}};
    spec_.plan = PlanId(7);
    spec_.epoch = Epoch(3);
    spec_.index = 0;
    spec_.n_stages = 2;
    spec_.embeds = true;
    spec_.group_blocks = {16, 8};
    spec_.max_context = 256;
    spec_.max_rows = 64;

    frame_.plan = spec_.plan;
    frame_.epoch = spec_.epoch;
    SeqRun a;  // rows 100..103: full group needs blocks [0, 4), window from 37: [1, 4)
    a.seq = SeqId(1);
    a.pos = 100;
    a.n_rows = 4;
    a.tokens = {1, 2, 3, 999};
    a.tables = {{0, {0, 1, 2, 3}}, {1, {0, 1, 2}}};
    OutputRequest out;
    out.row = 3;
    out.top = 5;
    out.want = {0, 999};
    a.outputs = {out};
    SeqRun b;
    b.seq = SeqId(2);
    b.pos = 0;
    b.n_rows = 2;
    b.tokens = {5, 6};
    b.tables = {{0, {9}}, {0, {7}}};
    frame_.batch.runs = {a, b};
  }

  void MakeSecondStage() {
    spec_.index = 1;
    spec_.embeds = false;
    spec_.samples = true;
    frame_.stage = 1;
    for (SeqRun& run : frame_.batch.runs) run.tokens.clear();
    frame_.hidden.type = WireType::kF16;
    frame_.hidden.rows = 6;
    frame_.hidden.cols = 8;
    frame_.hidden.data.resize(Hidden::BytesFor(WireType::kF16, 6, 8));
  }

  absl::Status Check(const std::function<void(StepFrame&)>& change = nullptr) const {
    StepFrame frame = frame_;
    if (change) change(frame);
    return ValidateFrame(frame, spec_, model_);
  }
  void Refused(const std::function<void(StepFrame&)>& change, const std::string& text,
               absl::StatusCode code = absl::StatusCode::kInvalidArgument) const {
    const absl::Status status = Check(change);
    EXPECT_EQ(status.code(), code) << text;
    EXPECT_THAT(std::string(status.message()), HasSubstr(text));
  }

  FrameModel model_;
  StageSpec spec_;
  StepFrame frame_;
};

TEST_F(ValidateTest, TakesGoodFrames) {
  EXPECT_TRUE(Check().ok()) << Check();
  MakeSecondStage();
  EXPECT_TRUE(Check().ok()) << Check();
}

TEST_F(ValidateTest, AnotherDuty) {
  const auto code = absl::StatusCode::kFailedPrecondition;
  Refused([](StepFrame& f) { f.plan = PlanId(8); }, "plan 8", code);
  Refused([](StepFrame& f) { f.epoch = Epoch(2); }, "epoch 2", code);
  Refused([](StepFrame& f) { f.epoch = Epoch(4); }, "epoch 4", code);
  Refused([](StepFrame& f) { f.stage = 1; }, "stage 1", code);
  Refused([](StepFrame& f) { f.numerics.kv = KvType::kQ8; }, "numerics n1-kv.q8", code);
  Refused([](StepFrame& f) { f.numerics.version = 9; }, "numerics n9", code);
  Refused([](StepFrame& f) { f.numerics.attention = AttentionForm::kFast; },
          "-attn.fast, this stage serves n1-kv.f16-wire.f16", code);
  spec_.numerics.attention = AttentionForm::kFast;
  Refused(nullptr, "numerics n1-kv.f16-wire.f16, this stage serves n1-kv.f16-wire.f16-attn.fast",
          code);
}

TEST_F(ValidateTest, Rows) {
  Refused([](StepFrame& f) { f.batch.runs.clear(); }, "0 rows");
  Refused([](StepFrame& f) { f.batch.runs[0].n_rows = 63; }, "65 rows");
  Refused([](StepFrame& f) { f.batch.runs[0].n_rows = std::numeric_limits<uint32_t>::max() - 1; },
          "rows");
  Refused([](StepFrame& f) { f.batch.runs[1].n_rows = 0; }, "n_rows is 0");
  Refused([](StepFrame& f) { f.batch.runs[0].pos = 253; }, "context");
  Refused([](StepFrame& f) { f.batch.runs[0].pos = std::numeric_limits<uint32_t>::max(); },
          "context");
  Refused([](StepFrame& f) { f.batch.frame = 1; }, "frame 1 of 1");
  Refused([](StepFrame& f) { f.batch.n_frames = 0; }, "of 0");
}

TEST_F(ValidateTest, Tokens) {
  Refused([](StepFrame& f) { f.batch.runs[0].tokens.pop_back(); }, "3 ids for 4 rows");
  Refused([](StepFrame& f) { f.batch.runs[0].tokens[2] = 1000; }, "token id 1000");
  Refused([](StepFrame& f) { f.batch.runs[1].tokens[0] = -1; }, "token id -1");
  Refused([](StepFrame& f) { f.hidden.rows = 6; }, "takes tokens only");
  Refused([](StepFrame& f) { f.hidden.data.resize(4); }, "takes tokens only");
}

TEST_F(ValidateTest, HiddenStates) {
  MakeSecondStage();
  Refused([](StepFrame& f) { f.batch.runs[0].tokens = {1, 2, 3, 4}; }, "does not embed");
  Refused([](StepFrame& f) { f.hidden.type = WireType::kF32; }, "hidden.type");
  Refused([](StepFrame& f) { f.hidden.type = static_cast<WireType>(9); }, "hidden.type");
  Refused([](StepFrame& f) { f.hidden.rows = 5; }, "hidden.rows is 5");
  Refused([](StepFrame& f) { f.hidden.cols = 7; }, "hidden.cols is 7");
  Refused([](StepFrame& f) { f.hidden.data.pop_back(); }, "bytes");
  Refused([](StepFrame& f) { f.hidden.data.push_back(0); }, "bytes");
}

TEST_F(ValidateTest, ReadBlocksMayBeSharedWrittenOnesNever) {
  const auto shared = [](StepFrame& f) {  // run 1 goes on where run 0's first 32 tokens end
    f.batch.runs[1].pos = 32;
    f.batch.runs[1].tables = {{0, {0, 9}}, {0, {5, 7}}};
  };
  EXPECT_TRUE(Check(shared).ok());
  for (const bool swap : {false, true}) {
    Refused(
        [&](StepFrame& f) {
          shared(f);
          f.batch.runs[1].tables[0].blocks[0] = 3;  // run 0 writes it
          if (swap) std::swap(f.batch.runs[0], f.batch.runs[1]);
        },
        "block 3 is used twice");
  }
  Refused(
      [&](StepFrame& f) {
        shared(f);
        f.batch.runs[1].tables[0].blocks = {0, 0};
      },
      "block 0 is used twice");
}

TEST_F(ValidateTest, BlockTables) {
  Refused([](StepFrame& f) { f.batch.runs[0].tables.pop_back(); }, "state groups");
  Refused([](StepFrame& f) { f.batch.runs[0].tables[0].blocks.pop_back(); },
          "group 0: table holds");
  Refused([](StepFrame& f) { f.batch.runs[0].tables[0].first = 1; }, "group 0: table holds");
  Refused([](StepFrame& f) { f.batch.runs[0].tables[1].first = 2; }, "group 1: table holds");
  Refused([](StepFrame& f) { f.batch.runs[0].tables[1].first = 0; }, "group 1: table holds");
  Refused(
      [](StepFrame& f) { f.batch.runs[0].tables[0].first = std::numeric_limits<uint32_t>::max(); },
      "group 0");
  Refused([](StepFrame& f) { f.batch.runs[0].tables[0].blocks[1] = 16; }, "block 16");
  Refused([](StepFrame& f) { f.batch.runs[1].tables[1].blocks[0] = 8; }, "block 8");
  Refused([](StepFrame& f) { f.batch.runs[1].tables[0].blocks[0] = 3; }, "block 3 is used twice");
  Refused(
      [](StepFrame& f) {
        f.batch.runs[0].tables[1].blocks = {1, 2, 1};
      },
      "block 1 is used twice");
}

TEST_F(ValidateTest, Outputs) {
  const auto sample = [](const std::function<void(OutputRequest&)>& change) {
    return [change](StepFrame& f) { change(f.batch.runs[0].outputs[0]); };
  };
  Refused(sample([](OutputRequest& o) { o.row = 4; }), "row 4");
  Refused(sample([](OutputRequest& o) { o.sample.temperature = NAN; }), "temperature");
  Refused(sample([](OutputRequest& o) { o.sample.temperature = INFINITY; }), "temperature");
  Refused(sample([](OutputRequest& o) { o.sample.temperature = -0.1f; }), "temperature");
  Refused(sample([](OutputRequest& o) { o.sample.temperature = kMaxTemperature + 0.1f; }),
          "temperature");
  Refused(sample([](OutputRequest& o) { o.sample.top_p = 0; }), "top_p");
  Refused(sample([](OutputRequest& o) { o.sample.top_p = 1.01f; }), "top_p");
  Refused(sample([](OutputRequest& o) { o.sample.top_p = NAN; }), "top_p");
  Refused(sample([](OutputRequest& o) { o.sample.min_p = -1; }), "min_p");
  Refused(sample([](OutputRequest& o) { o.sample.min_p = NAN; }), "min_p");
  Refused(sample([](OutputRequest& o) { o.top = 1001; }), "top 1001");
  Refused(sample([](OutputRequest& o) { o.want = {1000}; }), "want: id 1000");
  Refused(sample([](OutputRequest& o) { o.want = {-1}; }), "want: id -1");
  Refused(sample([](OutputRequest& o) { o.want.assign(1025, 0); }), "want: 1025");
  Refused([](StepFrame& f) { f.batch.runs[1].outputs.resize(129); }, "outputs: 129");
}

TEST(NeededBlocks, WindowAndFull) {
  EXPECT_EQ(NeededBlocks(0, 1, 0).end, 1u);
  EXPECT_EQ(NeededBlocks(31, 2, 0).end, 2u);
  EXPECT_EQ(NeededBlocks(100, 4, 0).first, 0u);
  EXPECT_EQ(NeededBlocks(100, 4, 64).first, 1u);  // row 100 sees 37 and later
  EXPECT_EQ(NeededBlocks(95, 1, 64).first, 1u);   // sees 32 and later
  EXPECT_EQ(NeededBlocks(94, 1, 64).first, 0u);   // sees 31 and later
  EXPECT_EQ(NeededBlocks(63, 1, 64).first, 0u);
}

TEST_F(ValidateTest, ATokenStillToBeDrawn) {
  spec_.samples = true;
  frame_.batch.step = StepId(9);
  SeqRun& run = frame_.batch.runs[0];
  run.n_rows = 1;
  run.tokens.clear();
  run.outputs.clear();
  run.token_of = StepId(8);
  EXPECT_TRUE(ValidateFrame(frame_, spec_, model_).ok()) << ValidateFrame(frame_, spec_, model_);
  run.token_of = StepId(9);
  EXPECT_THAT(ValidateFrame(frame_, spec_, model_).message(),
              HasSubstr("step 9 is not before step 9"));
  run.token_of = StepId(8);
  run.tokens = {1};
  EXPECT_THAT(ValidateFrame(frame_, spec_, model_).message(),
              HasSubstr("token_of: 1 rows at 100 with 1 ids"));
  run.tokens.clear();
  run.pos = 0;
  EXPECT_THAT(ValidateFrame(frame_, spec_, model_).message(), HasSubstr("token_of: 1 rows at 0"));
  run.pos = 100;
  spec_.samples = false;
  EXPECT_THAT(ValidateFrame(frame_, spec_, model_).message(),
              HasSubstr("only a stage that embeds and samples"));
}

}  // namespace
}  // namespace lanyard::stage
