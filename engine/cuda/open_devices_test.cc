#include "engine/cuda/open_devices.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

namespace lanyard::engine {
namespace {

using ::testing::ElementsAre;
using ::testing::HasSubstr;

TEST(ParseDevices, Reads) {
  EXPECT_TRUE(ParseDevices("", "")->automatic);
  EXPECT_TRUE(ParseDevices("auto", "")->automatic);
  const auto cpu = ParseDevices("cpu", "");
  ASSERT_TRUE(cpu.ok());
  EXPECT_FALSE(cpu->automatic);
  EXPECT_TRUE(cpu->cards.empty());
  const auto cards = ParseDevices("cuda:1,cuda:0", "cuda:0=6GiB,100MiB");
  ASSERT_TRUE(cards.ok()) << cards.status();
  EXPECT_THAT(cards->cards, ElementsAre(1, 0));
  EXPECT_EQ(cards->limits.at(0), uint64_t{6} << 30);
  EXPECT_EQ(cards->limits.at(-1), uint64_t{100} << 20);
}

TEST(ParseDevices, RefusesAndNames) {
  for (const char* bad : {"gpu", "cuda", "cuda:", "cuda:x", "cuda:0,", "cuda:0 ",
                          "cuda:99999999999", "cuda:0,cuda:0"}) {
    const auto flags = ParseDevices(bad, "");
    EXPECT_EQ(flags.status().code(), absl::StatusCode::kInvalidArgument) << bad;
    EXPECT_THAT(std::string(flags.status().message()), HasSubstr("--devices")) << bad;
  }
  for (const char* bad : {"much", "cuda:0=", "cuda:0=0", "gpu=1GiB", "1GiB,2GiB"}) {
    const auto flags = ParseDevices("auto", bad);
    EXPECT_FALSE(flags.ok()) << bad;
    EXPECT_THAT(std::string(flags.status().message()), HasSubstr("--vram")) << bad;
  }
}

TEST(OpenDevices, TheProcessorAloneAsksNoDriver) {
  const auto devices = OpenDevices(*ParseDevices("cpu", ""));
  ASSERT_TRUE(devices.ok());
  EXPECT_TRUE(devices->empty());
}

TEST(OpenDevices, NoDriverIsAnErrorForANamedCardOnly) {
  setenv("LANYARD_CUDA_LIBRARY", "/nonexistent/libcuda.so", 1);
  const auto automatic = OpenDevices(*ParseDevices("auto", ""));
  ASSERT_TRUE(automatic.ok()) << automatic.status();
  EXPECT_TRUE(automatic->empty());
  EXPECT_EQ(OpenDevices(*ParseDevices("cuda:0", "")).status().code(), absl::StatusCode::kNotFound);
  unsetenv("LANYARD_CUDA_LIBRARY");
}

}  // namespace
}  // namespace lanyard::engine
