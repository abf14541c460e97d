#include "engine/ops/quant.h"

#include <gtest/gtest.h>

#include <cmath>
#include <cstring>
#include <fstream>
#include <iterator>
#include <limits>
#include <vector>

#include "base/bytes.h"
#include "base/half.h"
#include "engine/ops/matmul.h"

namespace lanyard::ops {
namespace {

TEST(F16, EveryPattern) {
  for (uint32_t h = 0; h < 0x10000; ++h) {
    const int exponent = (h >> 10) & 31;
    const double mantissa = h & 0x3ff;
    const float f = HalfToFloat(static_cast<uint16_t>(h));
    if (exponent == 31) {
      ASSERT_EQ(std::isnan(f), mantissa != 0) << h;
      ASSERT_EQ(std::isinf(f), mantissa == 0) << h;
    } else {
      const double magnitude =
          exponent == 0 ? std::ldexp(mantissa, -24) : std::ldexp(1024 + mantissa, exponent - 25);
      ASSERT_EQ(static_cast<double>(f), h & 0x8000 ? -magnitude : magnitude) << h;
    }
    ASSERT_EQ(std::signbit(f), (h & 0x8000) != 0) << h;
    if (!std::isnan(f)) {
      ASSERT_EQ(FloatToHalf(f), h);
    } else {
      ASSERT_TRUE(std::isnan(HalfToFloat(FloatToHalf(f))));
    }
  }
}

TEST(F16, RoundsToNearestEven) {
  for (uint32_t h = 0; h < 0x7c00; ++h) {
    const float low = HalfToFloat(static_cast<uint16_t>(h));
    const float high = h + 1 == 0x7c00 ? 65536.0f : HalfToFloat(static_cast<uint16_t>(h + 1));
    const float middle = low + (high - low) / 2;  // exact
    const uint32_t even = h % 2 == 0 ? h : h + 1;
    ASSERT_EQ(FloatToHalf(middle), even) << h;
    ASSERT_EQ(FloatToHalf(std::nextafter(middle, 0.0f)), h);
    ASSERT_EQ(FloatToHalf(std::nextafter(middle, 1e9f)), h + 1);
    ASSERT_EQ(FloatToHalf(-middle), even | 0x8000);
  }
  EXPECT_EQ(FloatToHalf(1e30f), 0x7c00);
  EXPECT_EQ(FloatToHalf(std::numeric_limits<float>::infinity()), 0x7c00);
  EXPECT_EQ(FloatToHalf(1e-30f), 0);
  EXPECT_EQ(FloatToHalf(std::numeric_limits<float>::denorm_min()), 0);
}

TEST(QuantiseBlock, ScaleSumsAndTies) {
  float x[kBlock] = {};
  x[0] = -254;  // amax / 127 = 2
  x[1] = 254;
  x[2] = 1;   // 0.5 -> 0
  x[3] = 3;   // 1.5 -> 2
  x[4] = -5;  // -2.5 -> -2
  x[16] = 7;  // 3.5 -> 4
  x[31] = 100.9f;
  ActBlock block;
  QuantiseBlock(x, &block);
  EXPECT_EQ(block.d, 2);
  EXPECT_EQ(block.q[0], -127);
  EXPECT_EQ(block.q[1], 127);
  EXPECT_EQ(block.q[2], 0);
  EXPECT_EQ(block.q[3], 2);
  EXPECT_EQ(block.q[4], -2);
  EXPECT_EQ(block.q[16], 4);
  EXPECT_EQ(block.q[31], 50);
  EXPECT_EQ(block.sum_lo, 0);
  EXPECT_EQ(block.sum_hi, 54);
  EXPECT_EQ(block.s, 108);
}

TEST(QuantiseBlock, LimitsOfTheFormat) {
  const float kInf = std::numeric_limits<float>::infinity();
  float x[kBlock] = {};
  ActBlock block;
  for (float tiny : {0.0f, -0.0f, std::numeric_limits<float>::denorm_min(), kTinyAmax / 2}) {
    x[7] = tiny;
    QuantiseBlock(x, &block);
    EXPECT_EQ(block.d, 0);
    EXPECT_EQ(block.s, 0);
    EXPECT_EQ(block.q[7], 0);
  }
  for (float amax : {kTinyAmax, 1.0f, 3.0e38f, std::numeric_limits<float>::max()}) {
    for (int i = 0; i < kBlock; ++i) x[i] = i % 2 ? -amax : amax;
    QuantiseBlock(x, &block);
    EXPECT_EQ(block.d, amax / 127.0f);
    for (int i = 0; i < kBlock; ++i) ASSERT_EQ(block.q[i], i % 2 ? -127 : 127) << amax;
    EXPECT_EQ(block.sum_lo + block.sum_hi, 0);
  }
  for (float bad : {kInf, -kInf, std::numeric_limits<float>::quiet_NaN()}) {
    x[3] = bad;
    QuantiseBlock(x, &block);
    EXPECT_TRUE(std::isnan(block.d));
    EXPECT_EQ(block.q[0], 0);
  }
}

// Every amax: the largest element becomes 127, never 128.
TEST(QuantiseBlock, NeverLeavesTheRange) {
  float x[kBlock] = {};
  ActBlock block;
  for (uint32_t bits = 0x0d800000; bits < 0x7f800000; bits += 99991) {
    x[0] = LoadUnaligned<float>(&bits);
    QuantiseBlock(x, &block);
    ASSERT_EQ(block.q[0], 127) << x[0];
  }
}

// Against the `gguf` package's own dequantisation (tools/make_quant_fixture.py).
TEST(DequantizeRow, EqualsGgufPackage) {
  const std::string path = std::string(LANYARD_SOURCE_DIR) + "/tests/data/quants/dequantized.bin";
  std::ifstream in(path, std::ios::binary);
  ASSERT_TRUE(in) << path;
  const std::vector<char> data((std::istreambuf_iterator<char>(in)),
                               std::istreambuf_iterator<char>());
  size_t at = 0;
  int types = 0;
  while (at < data.size()) {
    ASSERT_LE(at + 12, data.size());
    const auto type = static_cast<TensorType>(LoadUnaligned<uint32_t>(&data[at]));
    const auto elements = LoadUnaligned<uint32_t>(&data[at + 4]);
    const auto size = LoadUnaligned<uint32_t>(&data[at + 8]);
    at += 12;
    ASSERT_LE(at + size + elements * 4, data.size());
    const auto traits = TraitsOf(type);
    ASSERT_TRUE(traits.has_value());
    ASSERT_EQ(size, elements / traits->elements * traits->bytes);
    std::vector<float> out(elements);
    DequantizeRow(type, reinterpret_cast<const uint8_t*>(&data[at]), elements, out.data());
    at += size;
    for (uint32_t i = 0; i < elements; ++i, at += 4) {
      ASSERT_EQ(out[i], LoadUnaligned<float>(&data[at])) << traits->name << " element " << i;
    }
    ++types;
  }
  EXPECT_EQ(types, 7);
}

}  // namespace
}  // namespace lanyard::ops
