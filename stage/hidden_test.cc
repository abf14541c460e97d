#include "stage/hidden.h"

#include <gtest/gtest.h>

#include <cmath>
#include <cstring>
#include <random>

#include "base/half.h"

namespace lanyard::stage {
namespace {

// Rows of very unlike sizes, with zeros, tiny values and an outlier.
std::vector<float> Rows(uint32_t rows, uint32_t cols, uint32_t seed) {
  std::mt19937 rng(seed);
  std::normal_distribution<float> normal;
  std::vector<float> x(uint64_t{rows} * cols);
  for (uint32_t r = 0; r < rows; ++r) {
    const float size = std::pow(10.0f, static_cast<float>(r % 11) - 4);
    for (uint32_t c = 0; c < cols; ++c) x[r * cols + c] = normal(rng) * size;
    x[r * cols] = 0;
    x[r * cols + 1] = 1e-30f;
    if (r % 3 == 0) x[r * cols + 2] = 1e5f;
  }
  return x;
}

bool SameBits(const std::vector<float>& a, const std::vector<float>& b) {
  return a.size() == b.size() && std::memcmp(a.data(), b.data(), a.size() * sizeof(float)) == 0;
}

TEST(Half, EveryHalfSurvives) {
  for (uint32_t h = 0; h < 0x10000; ++h) {
    const float x = HalfToFloat(static_cast<uint16_t>(h));
    if (std::isnan(x)) {
      EXPECT_TRUE(std::isnan(HalfToFloat(FloatToHalf(x)))) << h;
    } else {
      EXPECT_EQ(FloatToHalf(x), h);
    }
  }
}

TEST(Half, RoundsToNearestEven) {
  EXPECT_EQ(FloatToHalf(1.0f + 0x1p-11f), 0x3c00);    // halfway, even below
  EXPECT_EQ(FloatToHalf(1.0f + 0x1.8p-10f), 0x3c02);  // halfway, even above
  EXPECT_EQ(FloatToHalf(1.0f + 0x1.01p-11f), 0x3c01);
  EXPECT_EQ(FloatToHalf(65519.0f), 0x7bff);
  EXPECT_EQ(FloatToHalf(65520.0f), 0x7c00);
  EXPECT_EQ(FloatToHalf(0x1p-25f), 0x0000);
  EXPECT_EQ(FloatToHalf(0x1.8p-24f), 0x0002);
  EXPECT_EQ(FloatToHalf(-0x1p-24f), 0x8001);
}

TEST(Hidden, F32IsExact) {
  const std::vector<float> x = Rows(5, 33, 1);
  const auto back = DecodeHidden(EncodeHidden(WireType::kF32, x.data(), 5, 33));
  ASSERT_TRUE(back.ok());
  EXPECT_TRUE(SameBits(*back, x));
}

TEST(Hidden, F16IsCloseAndStable) {
  const uint32_t rows = 23, cols = 67;
  const std::vector<float> x = Rows(rows, cols, 2);
  const auto once = DecodeHidden(EncodeHidden(WireType::kF16, x.data(), rows, cols));
  ASSERT_TRUE(once.ok());
  for (uint32_t r = 0; r < rows; ++r) {
    float amax = 0;
    for (uint32_t c = 0; c < cols; ++c) amax = std::max(amax, std::fabs(x[r * cols + c]));
    for (uint32_t c = 0; c < cols; ++c) {
      const float value = x[r * cols + c];
      EXPECT_NEAR((*once)[r * cols + c], value, std::fabs(value) * 0x1p-11f + amax * 0x1p-38f);
    }
  }
  // Rounding what is rounded changes nothing, by the bytes too.
  const Hidden again = EncodeHidden(WireType::kF16, once->data(), rows, cols);
  const auto twice = DecodeHidden(again);
  ASSERT_TRUE(twice.ok());
  EXPECT_TRUE(SameBits(*twice, *once));
  EXPECT_EQ(again.data, EncodeHidden(WireType::kF16, twice->data(), rows, cols).data);
}

// A largest value that rounds up to the next power of two must not move the row's exponent the
// second time.
TEST(Hidden, StableWhereTheLargestRoundsUp) {
  for (const float amax :
       {1.99999f, 0x1.fffffep5f, 32767.9f, 0x1.ffep-20f, 0x1.fffp90f, 1e-38f, 0x1p-140f}) {
    const std::vector<float> x = {amax, amax / 3,        -amax / 1e4f,
                                  0,    amax * 0x1p-24f, amax * 0x1p-26f};
    const auto once = DecodeHidden(EncodeHidden(WireType::kF16, x.data(), 1, 6));
    ASSERT_TRUE(once.ok()) << amax;
    const auto twice = DecodeHidden(EncodeHidden(WireType::kF16, once->data(), 1, 6));
    ASSERT_TRUE(twice.ok()) << amax;
    EXPECT_TRUE(SameBits(*once, *twice)) << amax;
    std::vector<float> row = x;
    RoundHiddenRow(WireType::kF16, row.data(), 6);
    EXPECT_TRUE(SameBits(row, *once)) << amax;
  }
}

TEST(Hidden, RefusesWrongSizeAndValues) {
  const std::vector<float> x = Rows(2, 8, 3);
  Hidden hidden = EncodeHidden(WireType::kF16, x.data(), 2, 8);
  hidden.data.pop_back();
  EXPECT_EQ(DecodeHidden(hidden).status().code(), absl::StatusCode::kInvalidArgument);
  for (const float bad : {NAN, INFINITY, -INFINITY}) {
    std::vector<float> y = x;
    y[11] = bad;
    const auto status = DecodeHidden(EncodeHidden(WireType::kF32, y.data(), 2, 8)).status();
    EXPECT_EQ(status.code(), absl::StatusCode::kInvalidArgument);
    EXPECT_NE(status.message().find("row 1 column 3"), absl::string_view::npos) << status;
  }
  hidden = EncodeHidden(WireType::kF16, x.data(), 2, 8);
  hidden.data[0] = 120;  // an exponent that no encoder makes
  EXPECT_FALSE(DecodeHidden(hidden).ok());
}

}  // namespace
}  // namespace lanyard::stage
