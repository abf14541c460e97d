#include "engine/ops/math.h"

#include <gtest/gtest.h>

#include <cmath>
#include <random>

namespace lanyard::ops {
namespace {

// libm as the yardstick: it is allowed in tests, not on the data path.
TEST(Exp, WithinTwoUlp) {
  double worst = 0;
  for (float x = -87.0f; x < 88.0f; x += 0.0137f) {
    const double exact = std::exp(static_cast<double>(x));
    const float got = Exp(x);
    const double ulp = std::nextafter(got, HUGE_VALF) - got;
    worst = std::max(worst, std::fabs(got - exact) / ulp);
  }
  EXPECT_LT(worst, 2.0);
}

TEST(Exp, Edges) {
  EXPECT_EQ(Exp(0.0f), 1.0f);
  EXPECT_EQ(Exp(-0.0f), 1.0f);
  EXPECT_EQ(Exp(-87.1f), 0.0f);
  EXPECT_EQ(Exp(-HUGE_VALF), 0.0f);
  EXPECT_EQ(Exp(88.1f), HUGE_VALF);
  EXPECT_EQ(Exp(HUGE_VALF), HUGE_VALF);
  EXPECT_TRUE(std::isnan(Exp(NAN)));
}

TEST(Activations, CloseToTheirFormulas) {
  for (double x = -20; x < 20; x += 0.0101) {
    const float f = static_cast<float>(x);
    const double d = f;
    EXPECT_NEAR(Silu(f), d / (1 + std::exp(-d)), 1e-6 * (1 + std::fabs(d)));
    const double gelu = 0.5 * d * (1 + std::tanh(std::sqrt(2 / M_PI) * (d + 0.044715 * d * d * d)));
    EXPECT_NEAR(Gelu(f), gelu, 1e-6 * (1 + std::fabs(d)));
  }
  EXPECT_EQ(Silu(-1000.0f), 0.0f);
  EXPECT_EQ(Gelu(1000.0f), 1000.0f);
  EXPECT_EQ(Gelu(-1000.0f), 0.0f);
}

TEST(Doubles, ExpAndLog) {
  std::mt19937_64 rng(1);
  std::uniform_real_distribution<double> wide(-700, 700);
  for (int i = 0; i < 20000; ++i) {
    const double x = wide(rng);
    EXPECT_NEAR(ExpDouble(x) / std::exp(x), 1, 1e-14) << x;
    const double y = std::exp(wide(rng));
    EXPECT_NEAR(LogDouble(y), std::log(y), 1e-14 * (1 + std::fabs(std::log(y)))) << y;
  }
  EXPECT_EQ(LogDouble(1), 0);
  EXPECT_EQ(ExpDouble(-1000), 0);
  EXPECT_EQ(ExpDouble(1000), HUGE_VAL);
}

// Angles of a rotation: up to a million positions at frequency 1.
TEST(Doubles, SinCos) {
  std::mt19937_64 rng(2);
  std::uniform_real_distribution<double> angle(-1e6, 1e6);
  for (int i = 0; i < 40000; ++i) {
    const double x = i < 10000 ? i * 0.785398163397448 : angle(rng);
    double s, c;
    SinCosDouble(x, &s, &c);
    EXPECT_NEAR(s, std::sin(x), 1e-14) << x;
    EXPECT_NEAR(c, std::cos(x), 1e-14) << x;
  }
}

}  // namespace
}  // namespace lanyard::ops
