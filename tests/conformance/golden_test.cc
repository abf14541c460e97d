// conformance/README.md's measures, and exactness on the real models.
#include "tests/conformance/golden.h"

#include <gtest/gtest.h>

#include <cstdlib>
#include <cstring>
#include <filesystem>

#include "engine/chain.h"
#include "model/gguf.h"

namespace lanyard {
namespace {

std::string Folder(const char* variable, const std::string& otherwise) {
  const char* env = std::getenv(variable);
  return env != nullptr ? env : std::string(LANYARD_SOURCE_DIR) + otherwise;
}
std::string Conformance() { return Folder("LANYARD_SHARED", "/../shared") + "/conformance"; }

struct Way {
  uint32_t stages = 1;
  uint32_t chunk = 512;
  int threads = 2;
  bool batch = false;
  ops::Isa isa = ops::BestIsa();
  uint32_t generate = 0;
};

absl::StatusOr<std::vector<engine::EvalResult>> Evaluate(const model::GgufFile& file,
                                                         const std::vector<GoldenPrompt>& golden,
                                                         const Way& setup) {
  ASSIGN_OR_RETURN(const model::ModelShape shape, model::ShapeFromGguf(file));
  std::vector<std::vector<int32_t>> prompts;
  size_t longest = 0;
  for (const GoldenPrompt& p : golden) {
    prompts.push_back(p.result.tokens);
    longest = std::max(longest, p.result.tokens.size());
  }
  engine::ChainOptions options;
  options.stages = setup.stages;
  options.numerics = engine::DefaultNumerics(shape);
  options.stage = {setup.threads, setup.isa};
  options.max_context = static_cast<uint32_t>(longest + setup.generate);
  options.sequences = setup.batch ? static_cast<uint32_t>(prompts.size()) : 1;
  ASSIGN_OR_RETURN(const auto chain, engine::Chain::Create(shape, file, options));
  engine::EvalOptions eval;
  eval.generate = setup.generate;
  eval.chunk = setup.chunk;
  eval.batch = setup.batch;
  return engine::Evaluate(*chain, prompts, eval);
}

class Tiny : public ::testing::TestWithParam<std::pair<std::string, double>> {};

TEST_P(Tiny, EveryPositionWithinTolerance) {
  const auto& [name, tolerance] = GetParam();
  const std::string path = Conformance() + "/tiny/" + name + ".gguf";
  if (!std::filesystem::exists(path))
    GTEST_SKIP() << "no conformance data at " << path << " (LANYARD_SHARED)";
  const auto golden = ReadGolden(Conformance() + "/golden/tiny-" + name + ".json");
  ASSERT_TRUE(golden.ok()) << golden.status();
  const auto file = model::GgufFile::Open(path);
  ASSERT_TRUE(file.ok()) << file.status();
  for (const ops::Isa isa : ops::RunnableIsas()) {
    const auto results = Evaluate(**file, *golden, {.isa = isa, .generate = 24});
    ASSERT_TRUE(results.ok()) << results.status();
    const Comparison c = Compare(*golden, *results);
    EXPECT_LE(c.worst_logit, tolerance) << c.ToString();
    EXPECT_LE(c.worst_lse, tolerance) << c.ToString();
    EXPECT_EQ(c.same_top1, c.positions) << c.ToString();
    EXPECT_EQ(c.same_greedy, static_cast<int>(golden->size())) << c.ToString();
    EXPECT_NEAR(c.nll, c.golden_nll, 1e-3) << c.ToString();
  }
}
INSTANTIATE_TEST_SUITE_P(Models, Tiny,
                         ::testing::Values(std::pair{std::string("llama"), 2e-3},
                                           std::pair{std::string("llama-tied-rope-factors"), 2e-3},
                                           std::pair{std::string("gemma3"), 5e-3}),
                         [](const auto& info) {
                           std::string name = info.param.first;
                           for (char& c : name) c = c == '-' ? '_' : c;
                           return name;
                         });

class Real : public ::testing::TestWithParam<std::pair<std::string, std::string>> {
 protected:
  // False when the model or the golden file is absent; the test then skips.
  bool Open() {
    path_ = Folder("LANYARD_MODELS", "/build/models") + "/" + GetParam().first + ".gguf";
    golden_path_ = Conformance() + "/golden/" + GetParam().second + ".json";
    if (!std::filesystem::exists(path_) || !std::filesystem::exists(golden_path_)) return false;
    auto golden = ReadGolden(golden_path_);
    auto file = model::GgufFile::Open(path_);
    EXPECT_TRUE(golden.ok() && file.ok()) << golden.status() << file.status();
    golden_ = *std::move(golden);
    file_ = *std::move(file);
    return true;
  }
  std::string Missing() const {
    return "no " + path_ + " (LANYARD_MODELS) or " + golden_path_ + " (LANYARD_SHARED)";
  }

  std::string path_, golden_path_;
  std::vector<GoldenPrompt> golden_;
  std::unique_ptr<model::GgufFile> file_;
};

TEST_P(Real, AgreesWithLlamaCpp) {
  if (!Open()) GTEST_SKIP() << Missing();
  const auto results = Evaluate(*file_, golden_, {.batch = true});
  ASSERT_TRUE(results.ok()) << results.status();
  const Comparison c = Compare(golden_, *results);
  EXPECT_NEAR(c.nll / c.golden_nll, 1, 0.005) << c.ToString();
  EXPECT_GE(c.same_top1, 0.91 * c.positions) << c.ToString();
  EXPECT_GE(c.clear_same, 0.985 * c.clear) << c.ToString();
  EXPECT_EQ(c.sure_same, c.sure) << c.ToString();
}

TEST_P(Real, SameBitsHoweverItIsRun) {
  if (!Open()) GTEST_SKIP() << Missing();
  golden_ = {golden_[0], golden_[3]};
  const auto expected = Evaluate(*file_, golden_, {.threads = 1, .generate = 4});
  ASSERT_TRUE(expected.ok()) << expected.status();
  std::vector<Way> setups = {{.stages = 2, .chunk = 1, .threads = 1},
                             {.stages = 3, .chunk = 16, .threads = 2, .batch = true},
                             {.stages = 5, .chunk = 16, .threads = 2}};
  for (const ops::Isa isa : ops::RunnableIsas()) {
    if (isa != ops::Isa::kScalar && isa != ops::BestIsa()) {
      setups.push_back({.isa = isa});
      setups.push_back({.stages = 2, .chunk = 16, .threads = 1, .batch = true, .isa = isa});
    }
  }
  for (Way& setup : setups) {
    setup.generate = 4;
    SCOPED_TRACE(
        absl::StrCat(ops::IsaName(setup.isa), " stages ", setup.stages, " chunk ", setup.chunk));
    const auto results = Evaluate(*file_, golden_, setup);
    ASSERT_TRUE(results.ok()) << results.status();
    for (size_t i = 0; i < golden_.size(); ++i) {
      EXPECT_EQ((*results)[i].greedy, (*expected)[i].greedy);
      for (size_t p = 0; p < (*expected)[i].positions.size(); ++p) {
        const auto &a = (*expected)[i].positions[p], &b = (*results)[i].positions[p];
        ASSERT_EQ(std::memcmp(&a.lse, &b.lse, sizeof(float)), 0)
            << "prompt " << i << " position " << p;
        ASSERT_EQ(a.top, b.top) << "prompt " << i << " position " << p;
      }
    }
  }
}
INSTANTIATE_TEST_SUITE_P(
    Models, Real,
    ::testing::Values(std::pair{std::string("smollm2"), std::string("smollm2")},
                      std::pair{std::string("gemma3-270m"), std::string("gemma3")}),
    [](const auto& info) { return info.param.second; });

}  // namespace
}  // namespace lanyard
