// The engine against llama.cpp's figures (docs/checklists/golden.md says how near is right), and
// exactness on the real models. The figures lie in tests/data/golden; where LANYARD_SHARED has more
// of them, for models of its own, those are held to as well.
#include "tests/conformance/golden.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <algorithm>
#include <cstring>
#include <filesystem>
#include <fstream>
#include <iostream>
#include <map>
#include <set>
#include <tuple>

#include "base/sha256.h"
#include "engine/chain.h"
#include "model/gguf.h"
#include "model/testing/test_data.h"
#include "model/testing/tiny_models.h"

namespace lanyard {
namespace {

using model::testing::TinyModels;

struct Folder {
  const char* name;
  std::string golden;
  bool shared;
};
const Folder kSources{"Clone", LANYARD_SOURCE_DIR "/tests/data/golden", false};
const Folder kShared{"Shared", model::testing::ConformancePath("golden"), true};
const Folder* const kFolders[] = {&kSources, &kShared};

std::string Identifier(std::string name) {
  std::replace(name.begin(), name.end(), '-', '_');
  return name;
}

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

TEST(Comparison, SeesEveryKindOfDifference) {
  const engine::EvalResult right{
      {5, 6, 7}, {{3, {{1, 2.5f}, {2, 2}, {3, 1}}}, {2, {{4, 2}, {5, 0.5f}, {6, 0}}}}, 2, {9}};
  const auto compare = [&](auto&& spoil) {
    engine::EvalResult other = right;
    spoil(other);
    return Compare({{"", right}}, {other});
  };
  Comparison c = compare([](auto&) {});
  EXPECT_EQ(c.positions, 2);
  EXPECT_EQ(c.clear, 2);
  EXPECT_EQ(c.sure, 1);
  EXPECT_EQ(c.same_top1 + c.clear_same + c.sure_same + c.same_greedy, 2 + 2 + 1 + 1);
  EXPECT_EQ(c.worst_logit + c.worst_lse + c.missing, 0);
  EXPECT_EQ(c.nll, c.golden_nll);
  c = compare([](auto& r) { r.positions[1].top[1].second = 0.25f; });
  EXPECT_EQ(c.worst_logit, 0.25);
  c = compare([](auto& r) { r.positions[0].lse = 3.5f; });
  EXPECT_EQ(c.worst_lse, 0.5);
  c = compare([](auto& r) { std::swap(r.positions[1].top[0], r.positions[1].top[1]); });
  EXPECT_EQ(c.same_top1, 1);
  EXPECT_EQ(c.sure_same, 0);
  c = compare([](auto& r) { r.positions[0].top[1].first = 8; });
  EXPECT_EQ(c.missing, 1);
  c = compare([](auto& r) { r.positions[0].top[2].first = 8; });  // changes places with the next
  EXPECT_EQ(c.missing, 0);
  c = compare([](auto& r) { r.greedy = {8}; });
  EXPECT_EQ(c.same_greedy, 0);
  c = compare([](auto& r) { r.mean_nll = 1; });
  EXPECT_EQ(c.nll, 1);
}

struct TinyCase {
  const Folder* folder;
  std::string model;
  double tolerance;
};
std::vector<TinyCase> TinyCases() {
  std::vector<TinyCase> out;
  for (const auto& model : TinyModels()) out.push_back({&kSources, model.name, model.tolerance});
  for (const char* name : {"llama", "llama-tied-rope-factors", "gemma3"})
    out.push_back({&kShared, name, model::testing::FindTinyModel(name).tolerance});
  return out;
}

class Tiny : public ::testing::TestWithParam<TinyCase> {};

TEST_P(Tiny, EveryPositionWithinTolerance) {
  const TinyCase& c = GetParam();
  const std::string path = model::testing::ConformancePath("tiny/" + c.model + ".gguf");
  if (c.folder->shared && !model::testing::Readable(path))
    GTEST_SKIP() << model::testing::NoConformanceData(path);
  const std::vector<uint8_t> bytes =
      c.folder->shared ? std::vector<uint8_t>() : model::testing::TinyModelFile(c.model);
  const auto file = c.folder->shared ? model::GgufFile::Open(path) : model::GgufFile::Parse(bytes);
  ASSERT_TRUE(file.ok()) << file.status();
  const auto golden = ReadGolden(c.folder->golden + "/tiny-" + c.model + ".json");
  ASSERT_TRUE(golden.ok()) << golden.status();
  for (const ops::Isa isa : ops::RunnableIsas()) {
    const auto results = Evaluate(**file, *golden, {.isa = isa, .generate = 24});
    ASSERT_TRUE(results.ok()) << results.status();
    const Comparison found = Compare(*golden, *results);
    SCOPED_TRACE(absl::StrCat(ops::IsaName(isa), ": ", found.ToString()));
    EXPECT_EQ(found.missing, 0);
    EXPECT_LE(found.worst_logit, c.tolerance);
    EXPECT_LE(found.worst_lse, c.tolerance);
    EXPECT_EQ(found.same_top1, found.positions);
    EXPECT_EQ(found.same_greedy, static_cast<int>(golden->size()));
    EXPECT_NEAR(found.nll, found.golden_nll, 1e-3);
  }
}
INSTANTIATE_TEST_SUITE_P(Models, Tiny, ::testing::ValuesIn(TinyCases()), [](const auto& info) {
  return info.param.folder->name + Identifier("_" + info.param.model);
});

struct RealModel {
  std::string name;   // of the golden figures
  std::string model;  // of the file
};
const RealModel kRealModels[] = {{"smollm2", "smollm2"}, {"gemma3", "gemma3-270m"}};

class Real : public ::testing::TestWithParam<std::tuple<const Folder*, RealModel>> {
 protected:
  void SetUp() override {
    const auto& [folder, real] = GetParam();
    const std::string path = model::testing::RealModelPath(real.model);
    if (!model::testing::Readable(path)) GTEST_SKIP() << model::testing::NoRealModel(path);
    const std::string figures = folder->golden + "/" + real.name + ".json";
    if (folder->shared && !model::testing::Readable(figures))
      GTEST_SKIP() << model::testing::NoConformanceData(figures);
    auto golden = ReadGolden(figures);
    auto file = model::GgufFile::Open(path);
    ASSERT_TRUE(golden.ok() && file.ok()) << golden.status() << file.status();
    golden_ = *std::move(golden);
    file_ = *std::move(file);
  }

  std::vector<GoldenPrompt> golden_;
  std::unique_ptr<model::GgufFile> file_;
};

const auto kNameOfReal = [](const ::testing::TestParamInfo<Real::ParamType>& info) {
  return std::get<0>(info.param)->name + ("_" + std::get<1>(info.param).name);
};

TEST_P(Real, AgreesWithLlamaCpp) {
  const auto results = Evaluate(*file_, golden_, {.batch = true});
  ASSERT_TRUE(results.ok()) << results.status();
  const Comparison c = Compare(golden_, *results);
  std::cout << c.ToString() << "\n";
  EXPECT_NEAR(c.nll / c.golden_nll, 1, 0.005) << c.ToString();
  EXPECT_GE(c.same_top1, 0.91 * c.positions) << c.ToString();
  EXPECT_GE(c.clear_same, 0.985 * c.clear) << c.ToString();
  EXPECT_EQ(c.sure_same, c.sure) << c.ToString();
}
INSTANTIATE_TEST_SUITE_P(Models, Real,
                         ::testing::Combine(::testing::ValuesIn(kFolders),
                                            ::testing::ValuesIn(kRealModels)),
                         kNameOfReal);

class RealBits : public Real {};

TEST_P(RealBits, SameHoweverItIsRun) {
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
INSTANTIATE_TEST_SUITE_P(Models, RealBits,
                         ::testing::Combine(::testing::Values(&kSources),
                                            ::testing::ValuesIn(kRealModels)),
                         kNameOfReal);

// Name -> the model's digest, as tools/make_golden.py wrote them with the figures.
std::map<std::string, std::string> GoldenSums() {
  std::map<std::string, std::string> out;
  std::ifstream in(kSources.golden + "/SHA256SUMS");
  for (std::string sum, name; in >> sum >> name;) out[name] = sum;
  return out;
}

// Of every model there are figures, every figures are of a model, and the models are the ones that
// the figures were taken from.
TEST(GoldenFigures, AreOfTheseModels) {
  std::set<std::string> wanted, found;
  const auto sums = GoldenSums();
  for (const RealModel& real : kRealModels) wanted.insert(real.name);
  for (const auto& model : TinyModels()) {
    wanted.insert("tiny-" + model.name);
    const std::vector<uint8_t> bytes = model::testing::TinyModelFile(model.name);
    const auto sum = sums.find("tiny-" + model.name);
    ASSERT_NE(sum, sums.end()) << model.name;
    EXPECT_EQ(Sha256Hex(bytes), sum->second)
        << model.name << " is not what it was: tools/make_golden.py --tiny makes its figures anew";
  }
  for (const auto& entry : std::filesystem::directory_iterator(kSources.golden)) {
    if (entry.path().extension() == ".json") found.insert(entry.path().stem());
  }
  EXPECT_EQ(found, wanted);
  EXPECT_EQ(sums.size(), wanted.size());
}

std::string FileSum(const std::string& path) {
  std::ifstream in(path, std::ios::binary);
  Sha256 sum;
  std::vector<char> buffer(1 << 20);
  while (in.read(buffer.data(), static_cast<std::streamsize>(buffer.size())), in.gcount() > 0) {
    sum.Update({reinterpret_cast<const uint8_t*>(buffer.data()), static_cast<size_t>(in.gcount())});
  }
  return sum.FinishHex();
}

TEST_P(RealBits, AreOfTheModelWithTheFigures) {
  const auto& real = std::get<1>(GetParam());
  const auto sums = GoldenSums();
  ASSERT_TRUE(sums.contains(real.name));
  EXPECT_EQ(FileSum(model::testing::RealModelPath(real.model)), sums.at(real.name));
}

}  // namespace
}  // namespace lanyard
