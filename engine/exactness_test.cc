// The promise of docs/numerics.md: a row's result depends on its own tokens and the weights alone.
// Here over cuts, chunks, threads, batches and instruction sets, bit for bit, on small models with
// weights of every kind.
#include <gtest/gtest.h>

#include <cstring>

#include "engine/evaluate.h"
#include "engine/testing/random_model.h"

namespace lanyard::engine {
namespace {

using testing::RandomModel;

struct Config {
  ops::Isa isa = ops::Isa::kScalar;
  uint32_t stages = 1;
  uint32_t chunk = 512;
  int threads = 1;
  bool batch = false;

  std::string ToString() const {
    return absl::StrCat(ops::IsaName(isa), " stages ", stages, " chunk ", chunk, " threads ",
                        threads, batch ? " batch" : " alone");
  }
};

// Lengths beyond a span of 256 positions, beyond the window, and one token alone.
std::vector<std::vector<int32_t>> Prompts(uint32_t n_vocab) {
  std::vector<std::vector<int32_t>> out;
  for (const uint32_t length : {45u, 1u, 290u}) {
    std::vector<int32_t> tokens;
    for (uint32_t i = 0; i < length; ++i)
      tokens.push_back(static_cast<int32_t>((i * 37 + length * 11) % n_vocab));
    out.push_back(tokens);
  }
  return out;
}

std::vector<EvalResult> RunAll(const RandomModel& model, stage::NumericsId numerics,
                               const Config& config) {
  ChainOptions options;
  options.stages = config.stages;
  options.numerics = numerics;
  options.stage = {config.threads, config.isa};
  options.max_context = 300;
  options.sequences = config.batch ? 3 : 1;
  const auto chain = Chain::Create(model.shape(), model, options);
  EXPECT_TRUE(chain.ok()) << chain.status();
  EvalOptions eval;
  eval.generate = 5;
  eval.chunk = config.chunk;
  eval.batch = config.batch;
  const auto results = Evaluate(**chain, Prompts(model.shape().n_vocab), eval);
  EXPECT_TRUE(results.ok()) << results.status();
  return *results;
}

void ExpectSame(const std::vector<EvalResult>& a, const std::vector<EvalResult>& b) {
  ASSERT_EQ(a.size(), b.size());
  for (size_t i = 0; i < a.size(); ++i) {
    EXPECT_EQ(a[i].greedy, b[i].greedy) << "prompt " << i;
    ASSERT_EQ(a[i].positions.size(), b[i].positions.size());
    for (size_t p = 0; p < a[i].positions.size(); ++p) {
      const EvalPosition &x = a[i].positions[p], &y = b[i].positions[p];
      ASSERT_EQ(std::memcmp(&x.lse, &y.lse, sizeof(float)), 0)
          << "prompt " << i << " position " << p;
      ASSERT_EQ(x.top, y.top) << "prompt " << i << " position " << p;
    }
  }
}

// The scalar reference once, then every instruction set over the cuts.
void Sweep(const RandomModel& model, stage::NumericsId numerics) {
  const std::vector<EvalResult> expected = RunAll(model, numerics, Config());
  ASSERT_FALSE(expected.empty());
  ASSERT_EQ(expected[0].greedy.size(), 5u);
  for (const ops::Isa isa : ops::RunnableIsas()) {
    std::vector<Config> configs = {{isa, 1, 512, 1, false}, {isa, 3, 16, 2, true}};
    if (isa != ops::Isa::kScalar) {
      for (const uint32_t stages : {1u, 2u, 3u, 5u}) {
        for (const uint32_t chunk : {1u, 16u, 512u}) {
          // Threads and batch take turns over the grid: every pair of values occurs.
          const int threads = 1 + static_cast<int>((stages + chunk / 16) % 2);
          configs.push_back({isa, stages, chunk, threads, false});
          configs.push_back({isa, stages, chunk, 3 - threads, true});
        }
      }
    }
    for (const Config& config : configs) {
      SCOPED_TRACE(config.ToString() + " " + numerics.ToString());
      ExpectSame(expected, RunAll(model, numerics, config));
      if (::testing::Test::HasFailure()) return;
    }
  }
}

stage::NumericsId Id(stage::KvType kv, stage::WireType wire) {
  return {kNumericsVersion, kv, wire};
}

const std::vector<TensorType> kFloats = {TensorType::kF32};
const std::vector<TensorType> kQuantised = {TensorType::kQ4_1, TensorType::kQ8_0, TensorType::kF16,
                                            TensorType::kQ5_0, TensorType::kQ4_0, TensorType::kQ4_K,
                                            TensorType::kQ6_K};

TEST(Exactness, LlamaFloat) {
  Sweep(RandomModel(testing::SmallLlama(), kFloats, 1),
        Id(stage::KvType::kF32, stage::WireType::kF32));
}
TEST(Exactness, LlamaQuantised) {
  Sweep(RandomModel(testing::SmallLlama(), kQuantised, 2),
        Id(stage::KvType::kF16, stage::WireType::kF16));
}
TEST(Exactness, LlamaQuantisedKv8) {
  Sweep(RandomModel(testing::SmallLlama(), kQuantised, 3),
        Id(stage::KvType::kQ8, stage::WireType::kF16));
}
TEST(Exactness, Gemma3Float) {
  Sweep(RandomModel(testing::SmallGemma3(), kFloats, 4),
        Id(stage::KvType::kF32, stage::WireType::kF32));
}
TEST(Exactness, Gemma3Quantised) {
  Sweep(RandomModel(testing::SmallGemma3(), kQuantised, 5),
        Id(stage::KvType::kF16, stage::WireType::kF16));
}
TEST(Exactness, Gemma3QuantisedKv8) {
  Sweep(RandomModel(testing::SmallGemma3(), kQuantised, 6),
        Id(stage::KvType::kQ8, stage::WireType::kF16));
}

// The test can tell: another numerics id gives other bits.
TEST(Exactness, OtherNumericsDiffer) {
  const RandomModel model(testing::SmallLlama(), kQuantised, 7);
  const auto a = RunAll(model, Id(stage::KvType::kF16, stage::WireType::kF16), {ops::BestIsa()});
  const auto b = RunAll(model, Id(stage::KvType::kQ8, stage::WireType::kF16), {ops::BestIsa()});
  const auto c = RunAll(model, Id(stage::KvType::kF16, stage::WireType::kF32), {ops::BestIsa()});
  EXPECT_NE(a[2].positions.back().lse, b[2].positions.back().lse);
  EXPECT_NE(a[2].positions.back().lse, c[2].positions.back().lse);
}

}  // namespace
}  // namespace lanyard::engine
