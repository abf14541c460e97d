// What the tests of kernels share: input numbers, comparison of bits, one device for an image.
#pragma once

#include <cstdint>
#include <cstring>
#include <memory>
#include <random>
#include <string>
#include <type_traits>
#include <vector>

#include "gtest/gtest.h"
#include "tests/ptx/interpreter_launcher.h"

namespace lanyard::ptx {

// True for equal bits, or when both are NaN: a NaN's payload and sign differ between processors and
// are no part of the numerics.
inline bool SameFloat(float a, float b) {
  uint32_t x, y;
  std::memcpy(&x, &a, 4);
  std::memcpy(&y, &b, 4);
  return x == y || (a != a && b != b);
}
inline bool SameHalf(uint16_t a, uint16_t b) {
  return a == b || ((a & 0x7fff) > 0x7c00 && (b & 0x7fff) > 0x7c00);
}

template <typename T>
::testing::AssertionResult SameBits(const std::vector<T>& got, const std::vector<T>& want) {
  if (got.size() != want.size())
    return ::testing::AssertionFailure() << got.size() << " values, not " << want.size();
  size_t wrong = 0, first = 0;
  for (size_t i = 0; i < got.size(); ++i) {
    bool same;
    if constexpr (std::is_same_v<T, float>) {
      same = SameFloat(got[i], want[i]);
    } else {
      same = std::memcmp(&got[i], &want[i], sizeof(T)) == 0;
    }
    if (!same && wrong++ == 0) first = i;
  }
  if (wrong == 0) return ::testing::AssertionSuccess();
  return ::testing::AssertionFailure()
         << wrong << " of " << got.size() << " differ, the first at " << first << ": "
         << std::hexfloat << +got[first] << ", not " << +want[first];
}

class Numbers {
 public:
  explicit Numbers(uint64_t seed) : random_(seed) {}

  uint64_t Below(uint64_t n) { return random_() % n; }
  float Uniform(float scale) {
    return (static_cast<float>(random_() % 2000001) - 1e6f) * 1e-6f * scale;
  }
  std::vector<float> Floats(size_t n, float scale = 1) {
    std::vector<float> out(n);
    for (float& v : out) v = Uniform(scale);
    return out;
  }
  // Some of these are zero, denormal or large (never infinite).
  std::vector<float> Odd(size_t n) {
    std::vector<float> out = Floats(n, 3);
    for (float& v : out) {
      switch (random_() % 8) {
        case 0:
          v = 0;
          break;
        case 1:
          v = -0.0f;
          break;
        case 2:
          v *= 1e-39f;
          break;
        case 3:
          v *= 1e17f;
          break;
        default:
          break;
      }
    }
    return out;
  }
  std::vector<uint8_t> Bytes(size_t n) {
    std::vector<uint8_t> out(n);
    for (uint8_t& v : out) v = static_cast<uint8_t>(random_());
    return out;
  }

 private:
  std::mt19937_64 random_;
};

// Has one device for each test of each image.
class KernelTest : public ::testing::TestWithParam<Image> {
 protected:
  void SetUp() override {
    auto device = InterpreterLauncher::Make(GetParam());
    ASSERT_TRUE(device.ok()) << device.status();
    device_ = *std::move(device);
  }

  template <typename T>
  std::vector<T> Down(const T* address, size_t count) {
    auto values = device_->Download(address, count);
    EXPECT_TRUE(values.ok()) << values.status();
    return values.ok() ? *std::move(values) : std::vector<T>(count);
  }
  uint32_t* Count(uint32_t n) { return device_->Upload(std::vector<uint32_t>{n}, "count"); }

  std::unique_ptr<InterpreterLauncher> device_;
};

inline std::string ImageName(const ::testing::TestParamInfo<Image>& info) {
  return info.param.Name();
}

#define EXPECT_LAUNCH(call)                 \
  do {                                      \
    const absl::Status launched = (call);   \
    EXPECT_TRUE(launched.ok()) << launched; \
  } while (false)

// Runs a suite for every image of this build; without a compiler of kernels there are none.
#define INSTANTIATE_KERNELS(suite) INSTANTIATE_KERNELS_FROM(0, suite)
// For the images of such a level and more.
#define INSTANTIATE_KERNELS_FROM(level, suite)                                                   \
  GTEST_ALLOW_UNINSTANTIATED_PARAMETERIZED_TEST(suite);                                          \
  INSTANTIATE_TEST_SUITE_P(Images, suite, ::testing::ValuesIn(::lanyard::ptx::AllImages(level)), \
                           ::lanyard::ptx::ImageName)

}  // namespace lanyard::ptx
