// Stages of plans with fast attention: near the exact form, in the same bits whatever the chunks,
// the batch, the cut and the card of a generation; and who may not compute them.
#include <cmath>
#include <nlohmann/json.hpp>

#include "tests/cuda_stage/rig.h"

namespace lanyard::engine {
namespace {

// Two cards that have it, one that has not.
constexpr char kCards[] = "devices=3,memory=64MiB,cc=8.6/8.6/7.5,seed=5,peer=1";

stage::NumericsId Fast(stage::KvType kv) {
  stage::NumericsId id = Id(kv, stage::WireType::kF16);
  id.attention = stage::AttentionForm::kFast;
  return id;
}

model::ModelShape LlamaOf(uint32_t heads, uint32_t kv_heads, uint32_t head_dim) {
  model::ModelShape s = testing::SmallLlama();
  s.n_heads = heads;
  s.n_kv_heads = kv_heads;
  s.head_dim = head_dim;
  s.n_rot = head_dim;
  s.attention_scale = 1 / std::sqrt(static_cast<float>(head_dim));
  return s;
}

model::ModelShape Gemma3Of(uint32_t head_dim) {
  model::ModelShape s = testing::SmallGemma3();
  s.head_dim = head_dim;
  s.n_rot = head_dim;
  s.attention_scale = 1 / std::sqrt(static_cast<float>(head_dim));
  return s;
}

struct FastCase {
  const char* name;
  model::ModelShape shape;
  stage::KvType kv;
  uint32_t seed;
};

std::vector<FastCase> FastCases() {
  return {{"llama_64", LlamaOf(4, 2, 64), stage::KvType::kF16, 1},
          {"llama_128_kv8", LlamaOf(3, 1, 128), stage::KvType::kQ8, 2},
          {"gemma3_64_kv8", Gemma3Of(64), stage::KvType::kQ8, 3},
          {"gemma3_256", Gemma3Of(256), stage::KvType::kF16, 4}};
}

class FastStages : public ::testing::TestWithParam<FastCase> {
 protected:
  FastStages() : model_(GetParam().shape, kQuantised, GetParam().seed) {}

  void SetUp() override {
    auto cards = OpenCards(kCards);
    ASSERT_TRUE(cards.ok()) << cards.status();
    cards_ = *std::move(cards);
  }

  absl::StatusOr<std::vector<EvalResult>> Get(const Config& config) {
    auto out = Answers(model_.shape(), model_, Fast(GetParam().kv), config);
    EXPECT_EQ(fake_cuda::FakeCuda::Get().Reports(), "");
    return out;
  }

  const RandomModel model_;
  std::vector<std::shared_ptr<CudaDevice>> cards_;
};

// Launches of kernels whose names begin so.
uint64_t Launches(const std::string& prefix) {
  uint64_t n = 0;
  const auto stats = nlohmann::json::parse(fake_cuda::FakeCuda::Get().Stats());
  for (const auto& [name, counts] : stats["by_kernel"].items()) {
    if (name.rfind(prefix, 0) == 0) n += counts["launches"].get<uint64_t>();
  }
  return n;
}

// Root mean square of the differences of log-sum-exps.
double Distance(const std::vector<EvalResult>& a, const std::vector<EvalResult>& b) {
  double sum = 0;
  size_t n = 0;
  for (size_t i = 0; i < a.size(); ++i) {
    for (size_t p = 0; p < a[i].positions.size(); ++p, ++n) {
      sum += std::pow(double{a[i].positions[p].lse} - b[i].positions[p].lse, 2);
    }
  }
  return std::sqrt(sum / static_cast<double>(n));
}

// As near as keys and values in 16 or 8 bits are to those in 32: models amplify roundings
// differently, this one all alike.
TEST_P(FastStages, NearTheExactFormAndByItsOwnKernels) {
  const uint32_t longest = 270;  // more than one span
  const auto fast = Get({{cards_[0]}, 1, 512, false, longest});
  ASSERT_TRUE(fast.ok()) << fast.status();
  EXPECT_GT(Launches("lanyard_attend_fast_split_"), 0u);
  EXPECT_GT(Launches("lanyard_attend_fast_"), Launches("lanyard_attend_fast_split_"));
  EXPECT_EQ(Launches("lanyard_attend_decode_") + Launches("lanyard_attend_prefill_") +
                Launches("lanyard_attend_rows_"),
            0u);
  Config on_cpu;
  on_cpu.longest = longest;
  const auto exact =
      Answers(model_.shape(), model_, Id(GetParam().kv, stage::WireType::kF16), on_cpu);
  const auto kv_f32 =
      Answers(model_.shape(), model_, Id(stage::KvType::kF32, stage::WireType::kF16), on_cpu);
  ASSERT_TRUE(exact.ok() && kv_f32.ok());
  ASSERT_EQ(fast->size(), exact->size());
  const double near = Distance(*fast, *exact);
  EXPECT_GT(near, 0) << "the exact form, under another name";
  EXPECT_LT(near, 1.5 * Distance(*kv_f32, *exact));
}

TEST_P(FastStages, SameBitsInEveryChunkBatchAndCut) {
  const auto expected = Get({{cards_[0]}, 1, 512, false, 20});
  ASSERT_TRUE(expected.ok()) << expected.status();
  const uint32_t layers = model_.shape().n_layers;
  // Row by row (graphs among them), mixed steps, chunks that begin and end inside pages and tiles.
  for (const Config& config :
       {Config{{cards_[0]}, 1, 1, true, 20}, Config{{cards_[1]}, layers, 7, true, 20},
        Config{{cards_[0]}, layers + 2, 33, false, 20}}) {
    SCOPED_TRACE(absl::StrCat("stages ", config.stages, " chunk ", config.chunk,
                              config.batch ? " batch" : ""));
    const auto got = Get(config);
    ASSERT_TRUE(got.ok()) << got.status();
    ExpectSame(*expected, *got);
  }
}

// Layers over two cards, an old one between them that gets none, and a head that finds no room on a
// card.
TEST_P(FastStages, SeveralCards) {
  const auto expected = Get({{cards_[0]}, 1, 512, false, 20});
  ASSERT_TRUE(expected.ok()) << expected.status();
  ChainOptions options = OptionsOf(Config{{}, 1, 32, true, 20}, Fast(GetParam().kv));
  const stage::StageSpec spec = (*CutEvenly(model_.shape(), options))[0];
  const uint32_t n = model_.shape().n_layers;
  const std::vector<std::shared_ptr<Device>> devices = {RoomFor(cards_[0], model_, spec, {0, 1}),
                                                        cards_[2],
                                                        RoomFor(cards_[1], model_, spec, {1, n})};
  const auto stage = LocalStage::Create(model_.shape(), spec, model_, {1, ops::BestIsa(), devices});
  ASSERT_TRUE(stage.ok()) << stage.status();
  const auto& on = (*stage)->memory().devices;
  ASSERT_EQ(on.size(), 2u);
  EXPECT_EQ(on[0].name, "cuda:0");
  EXPECT_EQ(on[0].layers, (stage::LayerRange{0, 1}));
  EXPECT_EQ(on[1].name, "cuda:1");
  EXPECT_EQ(on[1].layers, (stage::LayerRange{1, n}));
  EXPECT_FALSE(on[1].head);
  const auto got = Get({devices, 1, 32, true, 20});
  ASSERT_TRUE(got.ok()) << got.status();
  ExpectSame(*expected, *got);
}

INSTANTIATE_TEST_SUITE_P(Models, FastStages, ::testing::ValuesIn(FastCases()),
                         [](const auto& info) { return std::string(info.param.name); });

class FastRefusals : public ::testing::Test {
 protected:
  void SetUp() override {
    auto cards = OpenCards(kCards);
    ASSERT_TRUE(cards.ok()) << cards.status();
    cards_ = *std::move(cards);
  }

  // What a stage of the whole model says on these devices.
  static std::string Said(const model::ModelShape& shape, stage::NumericsId id,
                          const std::vector<std::shared_ptr<Device>>& devices) {
    const RandomModel model(shape, kQuantised, 7);
    const stage::StageSpec spec = (*CutEvenly(shape, OptionsOf(Config{}, id)))[0];
    const auto stage = LocalStage::Create(shape, spec, model, {1, ops::BestIsa(), devices});
    EXPECT_TRUE(absl::IsFailedPrecondition(stage.status())) << stage.status();
    return std::string(stage.status().message());
  }

  std::vector<std::shared_ptr<CudaDevice>> cards_;
};

TEST_F(FastRefusals, SayWhatAndWhere) {
  using ::testing::AllOf;
  using ::testing::HasSubstr;
  const stage::NumericsId f16 = Fast(stage::KvType::kF16);
  const model::ModelShape good = LlamaOf(6, 2, 64);
  EXPECT_THAT(
      Said(good, f16, {cards_[2]}),
      AllOf(HasSubstr("layers [0, 3) are left for the processor"), HasSubstr("cuda:2"),
            HasSubstr("level 75"), HasSubstr("needs level 80"), HasSubstr("--attention exact")));
  EXPECT_THAT(Said(testing::SmallLlama(), f16, {cards_[0]}),
              AllOf(HasSubstr("cuda:0"), HasSubstr("have 16")));
  EXPECT_THAT(Said(good, Fast(stage::KvType::kF32), {cards_[0]}),
              AllOf(HasSubstr("cuda:0"), HasSubstr("--kv f16")));
  // A card that is full: the rest has nowhere to go.
  const RandomModel model(good, kQuantised, 7);
  const stage::StageSpec spec = (*CutEvenly(good, OptionsOf(Config{}, f16)))[0];
  EXPECT_THAT(Said(good, f16, {RoomFor(cards_[0], model, spec, {0, 2})}),
              AllOf(HasSubstr("layers [2, 3) are left"), HasSubstr("cuda:0 has no more room")));
}

// What the planner goes by (stage/) and what there are kernels for (engine/ops/cuda) are the same.
TEST_F(FastRefusals, PlannerAndKernelsAgree) {
  int fast = 0;
  for (const stage::KvType kv : {stage::KvType::kF32, stage::KvType::kF16, stage::KvType::kQ8}) {
    for (const uint32_t head_dim : {16u, 64u, 80u, 96u, 128u, 192u, 256u, 512u}) {
      for (const uint32_t kv_heads : {1u, 2u, 3u}) {
        for (const uint32_t heads : {1u, 2u, 12u, 32u, 33u, 64u, 66u}) {
          const bool planned = stage::CheckFastAttention({heads, kv_heads, head_dim}, kv).ok();
          EXPECT_EQ(planned,
                    ops::cuda::HasFastAttention({heads, kv_heads, head_dim}, KvElementOf(kv), 80))
              << heads << "/" << kv_heads << " of " << head_dim;
          fast += planned ? 1 : 0;
        }
      }
    }
  }
  EXPECT_GT(fast, 50);
  EXPECT_TRUE(cards_[0]->fast_attention());
  EXPECT_FALSE(cards_[2]->fast_attention());
  EXPECT_FALSE(ops::cuda::HasFastAttention({6, 2, 64}, ops::KvElement::kF16, 75));
}

}  // namespace
}  // namespace lanyard::engine
