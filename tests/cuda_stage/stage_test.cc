// A stage on cards gives the bits of a stage on the processor: over models, types, cuts, chunks,
// batches, several cards and layers partly in RAM. The cards are interpreted (tests/fake_cuda):
// streams run late and in any order that events allow.
#include <algorithm>

#include "model/gguf.h"
#include "model/testing/tiny_models.h"
#include "tests/cuda_stage/rig.h"

namespace lanyard::engine {
namespace {

constexpr char kTwoCards[] = "devices=2,memory=64MiB,cc=8.6/7.5,seed=3,peer=1";

struct Case {
  const char* name;
  model::ModelShape shape;
  std::vector<TensorType> types;
  stage::NumericsId numerics;
  uint32_t seed;
};

std::vector<Case> Cases() {
  using stage::KvType;
  using stage::WireType;
  return {
      {"llama_f32", testing::SmallLlama(), kFloats, Id(KvType::kF32, WireType::kF32), 1},
      {"llama_quantised", testing::SmallLlama(), kQuantised, Id(KvType::kF16, WireType::kF16), 2},
      {"llama_kv8", testing::SmallLlama(), kQuantised, Id(KvType::kQ8, WireType::kF16), 3},
      {"gemma3_f32", testing::SmallGemma3(), kFloats, Id(KvType::kF32, WireType::kF32), 4},
      {"gemma3_quantised", testing::SmallGemma3(), kQuantised, Id(KvType::kF16, WireType::kF16),
       5}};
}

class StageOnCards : public ::testing::TestWithParam<Case> {
 protected:
  StageOnCards() : model_(GetParam().shape, GetParam().types, GetParam().seed) {}

  void SetUp() override {
    auto cards = OpenCards(kTwoCards);
    ASSERT_TRUE(cards.ok()) << cards.status();
    cards_ = *std::move(cards);
  }

  void Expect(const Config& config) {
    Config on_cpu;
    on_cpu.longest = config.longest;
    const auto expected = Answers(model_.shape(), model_, GetParam().numerics, on_cpu);
    ASSERT_TRUE(expected.ok()) << expected.status();
    const auto got = Answers(model_.shape(), model_, GetParam().numerics, config);
    ASSERT_TRUE(got.ok()) << got.status() << "\n" << fake_cuda::FakeCuda::Get().Reports();
    ExpectSame(*expected, *got);
    EXPECT_EQ(fake_cuda::FakeCuda::Get().Reports(), "");
  }

  const RandomModel model_;
  std::vector<std::shared_ptr<CudaDevice>> cards_;
};

TEST_P(StageOnCards, OneCard) { Expect({{cards_[0]}, 1, 512, false, 270}); }
TEST_P(StageOnCards, OldCardInChunksAndBatches) { Expect({{cards_[1]}, 1, 16, true, 60}); }

TEST_P(StageOnCards, CutAtEveryLayer) {
  const uint32_t layers = model_.shape().n_layers;
  for (const uint32_t stages : {layers, layers + 2}) Expect({{cards_[0]}, stages, 64, true, 20});
}

// Every split of the layers over two cards and RAM.
TEST_P(StageOnCards, TwoCardsAndRam) {
  const uint32_t n = model_.shape().n_layers;
  const stage::StageSpec spec =
      (*CutEvenly(model_.shape(), OptionsOf(Config{{}, 1, 32, true, 20}, GetParam().numerics)))[0];
  for (uint32_t first = 0; first <= n; ++first) {
    for (uint32_t second = first; second <= n; ++second) {
      if ((first + second) % 2 == 1) continue;  // half of them are enough
      std::vector<std::shared_ptr<Device>> devices;
      if (first > 0) devices.push_back(RoomFor(cards_[0], model_, spec, {0, first}));
      if (second > first) devices.push_back(RoomFor(cards_[1], model_, spec, {first, second}));
      SCOPED_TRACE(absl::StrCat("layers ", first, " and ", second - first, " on cards"));
      const auto stage =
          LocalStage::Create(model_.shape(), spec, model_, {1, ops::BestIsa(), devices});
      ASSERT_TRUE(stage.ok()) << stage.status();
      uint32_t on_cards = 0;
      for (const StageMemory::OnDevice& device : (*stage)->memory().devices)
        on_cards += device.layers.size();
      EXPECT_EQ(on_cards, second);
      Expect({devices, 1, 32, true, 20});
    }
  }
}

TEST_P(StageOnCards, PlannedIsHeld) {
  const stage::StageSpec spec =
      (*CutEvenly(model_.shape(), OptionsOf(Config{}, GetParam().numerics)))[0];
  const StageOptions options{1, ops::BestIsa(), {cards_[0]}};
  const StageMemory plan = PlanMemory(model_.shape(), spec, model_.Infos(), options);
  const uint64_t before = fake_cuda::FakeCuda::Get().UsedBytes(0);
  const auto stage = LocalStage::Create(model_.shape(), spec, model_, options);
  ASSERT_TRUE(stage.ok()) << stage.status();
  ASSERT_EQ(plan.devices.size(), 1u);
  const BackendMemory& held = (*stage)->memory().devices.at(0).memory;
  // Neighbours are packed as one matrix, padded once.
  EXPECT_GE(plan.devices[0].memory.weights, held.weights);
  EXPECT_LE(plan.devices[0].memory.weights, held.weights * 105 / 100);
  EXPECT_EQ(plan.devices[0].memory.kv, held.kv);
  EXPECT_EQ(plan.devices[0].memory.buffers, held.buffers);
  EXPECT_TRUE(plan.devices[0].head);
  EXPECT_LE(fake_cuda::FakeCuda::Get().UsedBytes(0) - before, plan.devices[0].memory.total());
}

// The golden models: what a file of each family has.
class TinyModels : public ::testing::TestWithParam<model::testing::TinyModel> {};

TEST_P(TinyModels, OnTwoCards) {
  const std::vector<uint8_t> bytes = model::testing::TinyModelWriter(GetParam()).Build();
  const auto file = model::GgufFile::Parse(bytes);
  ASSERT_TRUE(file.ok()) << file.status();
  const auto shape = model::ShapeFromGguf(**file);
  ASSERT_TRUE(shape.ok()) << shape.status();
  const auto expected = Answers(*shape, **file, DefaultNumerics(*shape), Config{});
  ASSERT_TRUE(expected.ok()) << expected.status();
  const auto cards = OpenCards(kTwoCards);
  ASSERT_TRUE(cards.ok()) << cards.status();
  for (const uint32_t stages : {1u, 2u}) {
    const auto got = Answers(*shape, **file, DefaultNumerics(*shape),
                             {{(*cards)[0], (*cards)[1]}, stages, 32, true, 20});
    ASSERT_TRUE(got.ok()) << got.status();
    ExpectSame(*expected, *got);
  }
  EXPECT_EQ(fake_cuda::FakeCuda::Get().Reports(), "");
}

INSTANTIATE_TEST_SUITE_P(Golden, TinyModels, ::testing::ValuesIn(model::testing::TinyModels()),
                         [](const auto& info) {
                           std::string name = info.param.name;
                           std::replace(name.begin(), name.end(), '-', '_');
                           return name;
                         });

INSTANTIATE_TEST_SUITE_P(Models, StageOnCards, ::testing::ValuesIn(Cases()),
                         [](const auto& info) { return std::string(info.param.name); });

}  // namespace
}  // namespace lanyard::engine
