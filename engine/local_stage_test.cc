#include "engine/local_stage.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <cmath>

#include "engine/chain.h"
#include "engine/testing/random_model.h"
#include "engine/weight_shelf.h"
#include "stage/hidden.h"

namespace lanyard::engine {
namespace {

using ::testing::HasSubstr;
using testing::RandomModel;

stage::NumericsId F16() { return {kNumericsVersion, stage::KvType::kF16, stage::WireType::kF16}; }

// The second of two stages of a small llama, and a frame of two rows for it.
class SecondStage : public ::testing::Test {
 protected:
  SecondStage() : model_(testing::SmallLlama(), {TensorType::kQ8_0}, 1) {
    ChainOptions options;
    options.stages = 2;
    options.numerics = F16();
    options.max_context = 64;
    spec_ = (*CutEvenly(model_.shape(), options))[1];
    frame_.plan = spec_.plan;
    frame_.epoch = spec_.epoch;
    frame_.stage = 1;
    frame_.numerics = F16();
    stage::SeqRun run;
    run.seq = SeqId(4);
    run.n_rows = 2;
    run.tables = {{0, {1}}};
    stage::OutputRequest out;
    out.row = 1;
    out.sample.temperature = 0;
    out.top = 3;
    run.outputs = {out, out};
    run.outputs[1].want = {7, 0};
    frame_.batch.runs = {run};
    std::vector<float> x(2 * model_.shape().d_model);
    for (size_t i = 0; i < x.size(); ++i) x[i] = std::sin(static_cast<float>(i));
    frame_.hidden = stage::EncodeHidden(stage::WireType::kF16, x.data(), 2, model_.shape().d_model);
  }

  RandomModel model_;
  stage::StageSpec spec_;
  stage::StepFrame frame_;
};

TEST_F(SecondStage, Answers) {
  const auto stage = LocalStage::Create(model_.shape(), spec_, model_, {});
  ASSERT_TRUE(stage.ok()) << stage.status();
  ASSERT_TRUE(stage::ValidateFrame(frame_, spec_, FrameModelOf(model_.shape())).ok());
  const auto out = (*stage)->Run(frame_, {});
  ASSERT_TRUE(out.ok()) << out.status();
  ASSERT_EQ(out->tokens.size(), 2u);
  const stage::TokenOut& token = out->tokens[0];
  EXPECT_EQ(token.seq, SeqId(4));
  EXPECT_EQ(token.pos, 1u);
  ASSERT_EQ(token.top.size(), 3u);
  EXPECT_EQ(token.token, token.top[0].first);
  EXPECT_NEAR(token.logprob, token.top[0].second - token.lse, 1e-5);
  EXPECT_GE(token.top[0].second, token.top[1].second);
  EXPECT_EQ(out->tokens[1].want.size(), 2u);
  EXPECT_EQ(out->tokens[1].lse, token.lse);
}

TEST_F(SecondStage, ARowThatIsNotFiniteFailsItsOwnOutputs) {
  const auto stage = LocalStage::Create(model_.shape(), spec_, model_, {});
  ASSERT_TRUE(stage.ok());
  const auto good = (*stage)->Run(frame_, {});
  ASSERT_TRUE(good.ok());
  const uint16_t infinity = 0x7c00, nan = 0x7e01;
  for (const uint16_t bad : {infinity, nan}) {
    stage::StepFrame frame = frame_;
    std::memcpy(frame.hidden.data.data() + 2 + 2 * 95, &bad, 2);
    const auto out = (*stage)->Run(frame, {});
    ASSERT_TRUE(out.ok()) << out.status();
    for (const stage::TokenOut& token : out->tokens) {
      EXPECT_TRUE(absl::IsInternal(token.status)) << token.status;
      EXPECT_EQ(token.pos, 1u);
      EXPECT_EQ(token.token, -1);
    }
    const auto again = (*stage)->Run(frame_, {});
    ASSERT_TRUE(again.ok());
    EXPECT_EQ(again->tokens[0].top, good->tokens[0].top) << "it harms nothing that comes later";
  }
  stage::StepFrame frame = frame_;
  frame.hidden.data[1] = 120;  // an exponent that no stage makes
  EXPECT_TRUE(
      absl::IsInvalidArgument(stage::ValidateFrame(frame, spec_, FrameModelOf(model_.shape()))));
}

// One token of a model is damaged. The text that has it gets an error, whatever the cut; the texts
// beside it, and the one that gets its pages afterwards, have the bits that they have alone.
TEST(NotFinite, EndsItsOwnSequenceOnly) {
  constexpr int32_t kBadToken = 7;
  for (const bool quantised : {false, true}) {
    RandomModel model(testing::SmallLlama(), {quantised ? TensorType::kQ8_0 : TensorType::kF32}, 5);
    model.Overflow("token_embd.weight", kBadToken);
    for (const uint32_t stages : {1u, 2u, 3u}) {
      SCOPED_TRACE(absl::StrCat(stages, " stages, quantised ", quantised));
      ChainOptions options;
      options.stages = stages;
      options.numerics = quantised ? F16()
                                   : stage::NumericsId{kNumericsVersion, stage::KvType::kF32,
                                                       stage::WireType::kF32};
      options.max_context = 64;
      options.sequences = 3;
      const auto feed = [](uint64_t seq, std::vector<int32_t> tokens) {
        stage::OutputRequest out;
        out.row = static_cast<uint32_t>(tokens.size()) - 1;
        out.sample.temperature = 0;
        out.top = 4;
        return Feed{SeqId(seq), std::move(tokens), {out}};
      };
      const std::vector<int32_t> left = {1, 2, 3, 4, 5}, right = {9, 8, 6};
      const auto alone = [&](const std::vector<int32_t>& text) {
        const auto chain = *Chain::Create(model.shape(), model, options);
        const Feed one = feed(1, text);
        return (*chain->Step(std::span(&one, 1)))[0];
      };
      const auto same = [](const stage::TokenOut& a, const stage::TokenOut& b) {
        return a.status.ok() && b.status.ok() && a.token == b.token && a.lse == b.lse &&
               a.top == b.top;
      };
      const auto chain = *Chain::Create(model.shape(), model, options);
      // The bad token is read first and the output comes a step later: its KV is what is not
      // finite.
      const Feed early{SeqId(2), {3, kBadToken, 4}, {}};
      ASSERT_TRUE(chain->Step(std::span(&early, 1)).ok());
      const std::vector<Feed> feeds = {feed(1, left), feed(2, {5, 6}), feed(3, right)};
      const auto out = chain->Step(feeds);
      ASSERT_TRUE(out.ok()) << out.status();
      ASSERT_EQ(out->size(), 3u);
      EXPECT_TRUE(same((*out)[0], alone(left)));
      EXPECT_TRUE(absl::IsInternal((*out)[1].status)) << (*out)[1].status;
      EXPECT_TRUE(same((*out)[2], alone(right)));
      chain->Release(SeqId(2));
      const Feed after = feed(4, right);
      EXPECT_TRUE(same((*chain->Step(std::span(&after, 1)))[0], alone(right)));
    }
  }
}

// Reads of the tensors that were there before fail.
class OnlyNew final : public model::TensorSource {
 public:
  OnlyNew(const model::TensorSource& all, const WeightShelf& shelf) : all_(all), shelf_(shelf) {}
  const model::TensorInfo* Find(std::string_view name) const override { return all_.Find(name); }
  absl::Status Read(std::string_view name, uint64_t offset, std::span<uint8_t> out) const override {
    if (shelf_.Has(name)) return Internal(AbslView(name), " was read again");
    return all_.Read(name, offset, out);
  }

 private:
  const model::TensorSource& all_;
  const WeightShelf& shelf_;
};

TEST_F(SecondStage, TakesItsLayersFromTheStageBefore) {
  WeightShelf shelf;
  StageOptions options;
  options.shelf = &shelf;
  stage::StageSpec head = spec_;
  head.layers.begin += 1;
  {
    const auto before = LocalStage::Create(model_.shape(), head, model_, options);
    ASSERT_TRUE(before.ok()) << before.status();
    EXPECT_TRUE(shelf.Has("output_norm.weight"));
    shelf.Hold([](std::string_view tensor) { return tensor != "output_norm.weight"; });
  }
  EXPECT_FALSE(shelf.Has("output_norm.weight")) << "nobody wanted it";
  const OnlyNew source(model_, shelf);  // outlives the stage, which keeps a reference to it
  const auto after = LocalStage::Create(model_.shape(), spec_, source, options);
  shelf.LetGo();
  ASSERT_TRUE(after.ok()) << after.status();
  const auto fresh = LocalStage::Create(model_.shape(), spec_, model_, {});
  ASSERT_TRUE(fresh.ok());
  EXPECT_EQ((*after)->memory().weights, (*fresh)->memory().weights);
  const auto got = (*after)->Run(frame_, {}), want = (*fresh)->Run(frame_, {});
  ASSERT_TRUE(got.ok() && want.ok());
  EXPECT_EQ(got->tokens[0].top, want->tokens[0].top);
  EXPECT_EQ(got->tokens[0].lse, want->tokens[0].lse);
}

TEST_F(SecondStage, StopsBetweenLayers) {
  const auto stage = LocalStage::Create(model_.shape(), spec_, model_, {});
  ASSERT_TRUE(stage.ok());
  std::stop_source stop;
  stop.request_stop();
  EXPECT_EQ((*stage)->Run(frame_, stop.get_token()).status().code(), absl::StatusCode::kCancelled);
}

TEST_F(SecondStage, NamesWhatIsMissing) {
  model_.Remove("blk.2.ffn_up.weight");
  const auto stage = LocalStage::Create(model_.shape(), spec_, model_, {});
  EXPECT_EQ(stage.status().code(), absl::StatusCode::kNotFound);
  EXPECT_THAT(std::string(stage.status().message()), HasSubstr("blk.2.ffn_up.weight"));
}

TEST_F(SecondStage, ReportsProgressInBytes) {
  uint64_t last = 0, all = 0;
  const auto stage =
      LocalStage::Create(model_.shape(), spec_, model_, {}, [&](uint64_t done, uint64_t total) {
        EXPECT_GE(done, last);
        last = done;
        all = total;
      });
  ASSERT_TRUE(stage.ok());
  EXPECT_GT(all, 0u);
  EXPECT_EQ(last, all);
}

TEST_F(SecondStage, RefusesBadDuties) {
  stage::StageSpec spec = spec_;
  spec.layers.end = 9;
  EXPECT_EQ(LocalStage::Create(model_.shape(), spec, model_, {}).status().code(),
            absl::StatusCode::kInvalidArgument);
  spec = spec_;
  spec.group_blocks.clear();
  EXPECT_FALSE(LocalStage::Create(model_.shape(), spec, model_, {}).ok());
  spec = spec_;
  spec.numerics.version = 99;
  EXPECT_EQ(LocalStage::Create(model_.shape(), spec, model_, {}).status().code(),
            absl::StatusCode::kFailedPrecondition);
}

// The processor has no fast attention: it takes a stage without layers, and says what to do about
// others.
TEST(FastAttention, IsNotForTheProcessor) {
  const RandomModel model(testing::SmallLlama(), {TensorType::kQ4_1}, 3);
  ChainOptions options;
  options.stages = model.shape().n_layers + 2;  // an embedding alone, layers, a head alone
  options.numerics = F16();
  options.numerics.attention = stage::AttentionForm::kFast;
  options.max_context = 64;
  const std::vector<stage::StageSpec> specs = *CutEvenly(model.shape(), options);
  for (const stage::StageSpec& spec : specs) {
    const auto stage = LocalStage::Create(model.shape(), spec, model, {});
    if (spec.layers.size() == 0) {
      EXPECT_TRUE(stage.ok()) << stage.status();
      continue;
    }
    ASSERT_TRUE(absl::IsFailedPrecondition(stage.status())) << stage.status();
    for (const char* said : {"layers [", "left for the processor", "-attn.fast",
                             "--attention exact", "no card is used"}) {
      EXPECT_NE(stage.status().message().find(said), absl::string_view::npos)
          << said << ": " << stage.status();
    }
  }
}

TEST(PlanMemory, IsWhatIsHeld) {
  for (const auto kv : {stage::KvType::kF32, stage::KvType::kF16, stage::KvType::kQ8}) {
    const RandomModel model(testing::SmallGemma3(), {TensorType::kQ4_1}, 3);
    ChainOptions options;
    options.numerics = F16();
    options.numerics.kv = kv;
    options.max_context = 300;
    const stage::StageSpec spec = (*CutEvenly(model.shape(), options))[0];
    const auto stage = LocalStage::Create(model.shape(), spec, model, {});
    ASSERT_TRUE(stage.ok());
    const StageMemory plan = PlanMemory(model.shape(), spec, model.Infos(), {});
    const StageMemory& held = (*stage)->memory();
    EXPECT_EQ(plan.kv, held.kv);
    EXPECT_EQ(plan.buffers, held.buffers);
    EXPECT_EQ(plan.weights, held.weights);
  }
}

TEST(DefaultNumerics, FollowsTheWeights) {
  model::ModelShape shape = testing::SmallLlama();
  EXPECT_EQ(DefaultNumerics(shape).ToString(), "n1-kv.f16-wire.f16");
  shape.float_weights = true;
  EXPECT_EQ(DefaultNumerics(shape).ToString(), "n1-kv.f32-wire.f32");
}

TEST(Chain, CutsAndRefuses) {
  const model::ModelShape shape = testing::SmallLlama();
  ChainOptions options;
  options.max_context = 64;
  for (uint32_t n = 1; n <= shape.n_layers + 2; ++n) {
    options.stages = n;
    const auto specs = CutEvenly(shape, options);
    ASSERT_TRUE(specs.ok());
    uint32_t next = 0;
    for (const stage::StageSpec& s : *specs) {
      EXPECT_EQ(s.layers.begin, next);
      next = s.layers.end;
      EXPECT_EQ(s.embeds, s.index == 0);
      EXPECT_EQ(s.samples, s.index + 1 == n);
    }
    EXPECT_EQ(next, shape.n_layers);
  }
  for (const uint32_t bad : {0u, shape.n_layers + 3}) {
    options.stages = bad;
    EXPECT_FALSE(CutEvenly(shape, options).ok());
  }
}

}  // namespace
}  // namespace lanyard::engine
