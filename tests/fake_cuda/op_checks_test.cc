// The shipped kernels through the driver on fake cards: the op checks of `lanyard gpu-check` and
// the probe. (Every shape and both compilers: tests/ptx.)
#include "engine/cuda/op_checks.h"

#include "engine/cuda/probe.h"
#include "engine/ops/cuda/ptx_image.h"
#include "tests/fake_cuda/fixture.h"

namespace lanyard::fake_cuda {
namespace {

using cuda::Context;
using cuda::Driver;
using cuda::Module;

// Of a card of this compute capability, with the driver's version. Null: this build has no kernels
// for it.
std::shared_ptr<Module> Shipped(const std::string& config) {
  FakeCuda::Get().Reset(config);
  auto driver = Driver::Open();
  EXPECT_TRUE(driver.ok()) << driver.status();
  auto context = Context::Create(*driver, 0);
  EXPECT_TRUE(context.ok()) << context.status();
  auto module = Module::LoadShipped(*context);
  if (absl::IsFailedPrecondition(module.status())) return nullptr;
  EXPECT_TRUE(module.ok()) << module.status();
  return module.ok() ? *module : nullptr;
}

class ShippedKernels : public ::testing::TestWithParam<const char*> {};
INSTANTIATE_TEST_SUITE_P(Cards, ShippedKernels, ::testing::Values("6.1", "7.5", "8.6"),
                         [](const auto& info) {
                           return std::string("cc") + info.param[0] + info.param[2];
                         });

TEST_P(ShippedKernels, EveryOpGivesTheBitsOfTheReference) {
  const auto module = Shipped(std::string("seed=11,cc=") + GetParam());
  if (module == nullptr)
    GTEST_SKIP() << "this build has no kernels for compute capability " << GetParam();
  auto checks = cuda::RunOpChecks(module, {.small = true, .seed = 3, .progress = nullptr});
  ASSERT_OK(checks);
  EXPECT_GT(checks->size(), 40u);
  int fast_checks = 0;
  for (const cuda::OpCheck& check : *checks) {
    EXPECT_TRUE(check.ok()) << check.op << " (" << check.variant << "): " << check.different
                            << " of " << check.values << ", " << check.first << check.error;
    // The fast form of attention is for level 80, and says so elsewhere.
    const bool fast = check.op.find("fast form") != std::string::npos;
    EXPECT_EQ(check.skipped.empty(), !fast || module->level() >= 80) << check.op;
    EXPECT_EQ(check.values == 0, !check.skipped.empty()) << check.op;
    fast_checks += fast ? 1 : 0;
  }
  EXPECT_EQ(fast_checks, 4);
  EXPECT_EQ(FakeCuda::Get().Reports(), "");
  EXPECT_EQ(FakeCuda::Get().UsedBytes(0), 0u);
}

TEST_P(ShippedKernels, ProbeMeasuresAndGivesBack) {
  const auto module = Shipped(std::string("seed=2,memory=64MiB,sms=1,cc=") + GetParam());
  if (module == nullptr)
    GTEST_SKIP() << "this build has no kernels for compute capability " << GetParam();
  cuda::ProbeOptions options;
  options.buffer_bytes = 1 << 20;
  options.repeats = 1;
  options.loops = 4;
  auto probe = cuda::ProbeCard(module, options);
  ASSERT_OK(probe);
  EXPECT_GT(probe->read_bytes_per_second, 0);
  EXPECT_GT(probe->copy_bytes_per_second, 0);
  EXPECT_GT(probe->int8_dp4a_ops_per_second, 0);
  EXPECT_GT(probe->f32_fma_ops_per_second, 0);
  EXPECT_GT(probe->to_device_bytes_per_second, 0);
  EXPECT_GT(probe->to_host_bytes_per_second, 0);
  EXPECT_GT(probe->launch_seconds, 0);
  const bool tensor_cores = module->level() >= 75;
  EXPECT_EQ(probe->int8_mma_ops_per_second > 0, tensor_cores);
  EXPECT_EQ(probe->f16_mma_ops_per_second > 0, tensor_cores);
  EXPECT_EQ(FakeCuda::Get().UsedBytes(0), 0u);
  EXPECT_EQ(FakeCuda::Get().Reports(), "");
}

TEST(ShippedKernelsDriver, OldestDriverCompilesThem) {
  const auto levels = ops::cuda::PtxLevels();
  if (levels.empty() || levels.front() > 61)
    GTEST_SKIP() << "kernels of nvcc, or none: they need a new driver";
  EXPECT_NE(Shipped("driver=11040,cc=8.6"), nullptr);
}

TEST(ShippedKernelsDriver, LostCardEndsTheChecks) {
  const auto module = Shipped("lose_at_work=40,cc=8.6");
  if (module == nullptr) GTEST_SKIP() << "this build has no kernels";
  EXPECT_EQ(
      cuda::RunOpChecks(module, {.small = true, .seed = 1, .progress = nullptr}).status().code(),
      absl::StatusCode::kUnavailable);
}

TEST(ShippedKernelsDriver, FullCardIsAnErrorOfTheCheck) {
  const auto module = Shipped("fail_alloc=3,cc=8.6");
  if (module == nullptr) GTEST_SKIP() << "this build has no kernels";
  auto checks = cuda::RunOpChecks(module, {.small = true, .seed = 1, .progress = nullptr});
  ASSERT_OK(checks);
  EXPECT_FALSE(checks->front().ok());
  EXPECT_THAT(checks->front().error, testing::HasSubstr("OUT_OF_MEMORY"));
  EXPECT_TRUE(checks->back().ok());
}

TEST(ShippedKernelsDriver, CardTooOldIsToldWhatItNeeds) {
  FakeCuda::Get().Reset("cc=5.2");
  auto driver = Driver::Open();
  ASSERT_OK(driver);
  auto context = Context::Create(*driver, 0);
  ASSERT_OK(context);
  const absl::Status status = Module::LoadShipped(*context).status();
  EXPECT_EQ(status.code(), absl::StatusCode::kFailedPrecondition);
}

}  // namespace
}  // namespace lanyard::fake_cuda
