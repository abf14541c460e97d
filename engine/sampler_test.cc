#include "engine/sampler.h"

#include <gtest/gtest.h>

#include <algorithm>
#include <cmath>
#include <map>
#include <random>

namespace lanyard::engine {
namespace {

class SamplerTest : public ::testing::Test {
 protected:
  // Draws many tokens of one row; the seed varies.
  std::map<int32_t, int> Draw(const std::vector<float>& logits, stage::SampleSpec spec, int n) {
    EXPECT_TRUE(sampler_.SetRow(logits.data(), static_cast<int64_t>(logits.size())).ok());
    std::map<int32_t, int> counts;
    for (int i = 0; i < n; ++i) {
      stage::OutputRequest request;
      request.sample = spec;
      request.sample.seed = static_cast<uint64_t>(i);
      stage::TokenOut out;
      out.pos = 5;
      sampler_.Answer(request, &out);
      ++counts[out.token];
    }
    return counts;
  }

  ops::ThreadPool pool_{1};
  Sampler sampler_{ops::BestIsa(), &pool_};
};

TEST_F(SamplerTest, GreedyTakesTheLowestOfEquals) {
  std::vector<float> logits(9000, 1.0f);
  logits[70] = logits[5000] = logits[71] = 3.5f;
  stage::SampleSpec spec;
  spec.temperature = 0;
  EXPECT_EQ(Draw(logits, spec, 1).begin()->first, 70);
}

TEST_F(SamplerTest, TopIsSortedWithTiesToTheLowerId) {
  std::mt19937 rng(1);
  std::vector<float> logits(10000);
  for (float& x : logits) x = static_cast<float>(static_cast<int>(rng() % 100));
  ASSERT_TRUE(sampler_.SetRow(logits.data(), 10000).ok());
  std::vector<std::pair<float, int32_t>> expected;
  for (int32_t i = 0; i < 10000; ++i) expected.emplace_back(-logits[i], i);
  std::sort(expected.begin(), expected.end());
  for (const uint32_t k : {1u, 7u, 300u, 1024u}) {
    stage::OutputRequest request;
    request.top = k;
    request.want = {9999, 0};
    stage::TokenOut out;
    sampler_.Answer(request, &out);
    ASSERT_EQ(out.top.size(), k);
    for (uint32_t i = 0; i < k; ++i) {
      EXPECT_EQ(out.top[i].first, expected[i].second);
      EXPECT_EQ(out.top[i].second, -expected[i].first);
    }
    EXPECT_EQ(out.want, (std::vector<float>{logits[9999], logits[0]}));
  }
}

TEST_F(SamplerTest, LogSumExp) {
  std::mt19937 rng(2);
  std::normal_distribution<float> normal(0, 3);
  std::vector<float> logits(20001);
  double sum = 0;
  for (float& x : logits) sum += std::exp(static_cast<double>(x = normal(rng)));
  ASSERT_TRUE(sampler_.SetRow(logits.data(), 20001).ok());
  stage::TokenOut out;
  sampler_.Answer({}, &out);
  EXPECT_NEAR(out.lse, std::log(sum), 2e-6);
  EXPECT_NEAR(out.logprob, logits[out.token] - std::log(sum), 1e-5);
}

TEST_F(SamplerTest, FrequenciesFollowTheDistribution) {
  const std::vector<float> logits = {std::log(0.1f), std::log(0.2f), std::log(0.3f),
                                     std::log(0.4f)};
  const int n = 20000;
  for (const float temperature : {1.0f, 0.5f}) {
    double total = 0;
    for (int i = 1; i <= 4; ++i) total += std::pow(i, 1 / temperature);
    auto counts = Draw(logits, {temperature}, n);
    for (int i = 1; i <= 4; ++i) {
      EXPECT_NEAR(counts[i - 1] / double(n), std::pow(i, 1 / temperature) / total, 0.015)
          << temperature;
    }
  }
}

TEST_F(SamplerTest, CutsOffTheTail) {
  const std::vector<float> logits = {std::log(0.1f), std::log(0.2f), std::log(0.3f),
                                     std::log(0.4f)};
  const auto ids = [&](stage::SampleSpec spec) {
    std::vector<int32_t> out;
    for (const auto& [id, count] : Draw(logits, spec, 400)) out.push_back(id);
    return out;
  };
  EXPECT_EQ(ids({.temperature = 1, .top_k = 2}), (std::vector<int32_t>{2, 3}));
  EXPECT_EQ(ids({.temperature = 1, .top_k = 1}), (std::vector<int32_t>{3}));
  EXPECT_EQ(ids({.temperature = 1, .top_p = 0.65f}), (std::vector<int32_t>{2, 3}));
  EXPECT_EQ(ids({.temperature = 1, .top_p = 0.75f}), (std::vector<int32_t>{1, 2, 3}));
  EXPECT_EQ(ids({.temperature = 1, .min_p = 0.6f}), (std::vector<int32_t>{2, 3}));
  EXPECT_EQ(ids({.temperature = 1, .min_p = 1}), (std::vector<int32_t>{3}));
  // top_p counts what top_k left: 0.4 of 0.7 is 0.57.
  EXPECT_EQ(ids({.temperature = 1, .top_k = 2, .top_p = 0.55f}), (std::vector<int32_t>{3}));
  // Cuts come before the temperature: a hot one does not bring tokens back.
  EXPECT_EQ(ids({.temperature = 10, .min_p = 0.6f}), (std::vector<int32_t>{2, 3}));
}

TEST_F(SamplerTest, TopPOfAFlatRowOfManyTokens) {
  const std::vector<float> logits(30000, 0.0f);
  const auto counts = Draw(logits, {.temperature = 1, .top_p = 0.5f}, 200);
  EXPECT_LT(counts.rbegin()->first, 15000 + 2);
  EXPECT_GT(counts.rbegin()->first, 13000);
}

TEST_F(SamplerTest, SameOnEveryInstructionSetAndThreadCount) {
  std::mt19937 rng(3);
  std::normal_distribution<float> normal(0, 2);
  std::vector<float> logits(13001);
  for (float& x : logits) x = normal(rng);
  ops::ThreadPool two(2);
  const stage::SampleSpec specs[] = {
      {.temperature = 0.8f},
      {.temperature = 1.3f, .top_k = 40, .top_p = 0.9f, .min_p = 0.05f},
      {.temperature = 1, .top_p = 0.95f},
      {.temperature = 1, .min_p = 0.01f}};
  Sampler reference(ops::Isa::kScalar, &pool_);
  ASSERT_TRUE(reference.SetRow(logits.data(), 13001).ok());
  for (const ops::Isa isa : ops::RunnableIsas()) {
    Sampler other(isa, &two);
    ASSERT_TRUE(other.SetRow(logits.data(), 13001).ok());
    for (const stage::SampleSpec& spec : specs) {
      for (uint32_t pos = 0; pos < 50; ++pos) {
        stage::OutputRequest request;
        request.sample = spec;
        request.sample.seed = 42;
        stage::TokenOut a, b;
        a.pos = b.pos = pos;
        reference.Answer(request, &a);
        other.Answer(request, &b);
        ASSERT_EQ(a.token, b.token) << ops::IsaName(isa) << " " << pos;
        ASSERT_EQ(a.lse, b.lse);
        ASSERT_EQ(a.logprob, b.logprob);
      }
    }
  }
}

TEST_F(SamplerTest, DrawIsAFunctionOfSeedAndPosition) {
  EXPECT_EQ(UniformDraw(1, 2), UniformDraw(1, 2));
  double sum = 0;
  for (uint64_t i = 0; i < 10000; ++i) {
    const double u = UniformDraw(9, i);
    ASSERT_GE(u, 0);
    ASSERT_LT(u, 1);
    EXPECT_NE(u, UniformDraw(10, i));
    sum += u;
  }
  EXPECT_NEAR(sum / 10000, 0.5, 0.02);
}

TEST_F(SamplerTest, RefusesRowsThatAreNotFinite) {
  std::vector<float> logits(5000, 0.5f);
  for (const float bad : {NAN, INFINITY}) {
    logits[4999] = bad;
    EXPECT_EQ(sampler_.SetRow(logits.data(), 5000).code(), absl::StatusCode::kInternal);
  }
}

}  // namespace
}  // namespace lanyard::engine
