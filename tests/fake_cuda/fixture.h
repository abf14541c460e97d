// A card of the fake library with the test kernels loaded, for the tests of this folder.
#pragma once

#include <memory>
#include <string>
#include <string_view>
#include <vector>

#include "engine/cuda/driver.h"
#include "gmock/gmock.h"
#include "gtest/gtest.h"
#include "tests/fake_cuda/fake_cuda.h"
#include "tests/fake_cuda/test_kernels.h"

namespace lanyard::fake_cuda {

#define EXPECT_OK(expr) EXPECT_EQ(::lanyard::status_internal::ToStatus(expr), absl::OkStatus())
#define ASSERT_OK(expr)                                                  \
  do {                                                                   \
    const absl::Status ok_ = ::lanyard::status_internal::ToStatus(expr); \
    ASSERT_TRUE(ok_.ok()) << ok_;                                        \
  } while (0)

struct Rig {
  std::shared_ptr<const cuda::Driver> driver;
  std::vector<std::shared_ptr<cuda::Context>> contexts;
  std::vector<std::shared_ptr<cuda::Module>> modules;
};

// Opens the driver, and makes a context and a module of every card.
inline absl::StatusOr<Rig> OpenRig() {
  Rig rig;
  ASSIGN_OR_RETURN(rig.driver, cuda::Driver::Open());
  for (const cuda::DeviceInfo& device : rig.driver->devices()) {
    ASSIGN_OR_RETURN(auto context, cuda::Context::Create(rig.driver, device.ordinal));
    const std::string_view images[] = {kMixPtx};
    ASSIGN_OR_RETURN(auto module, cuda::Module::Load(context, images));
    rig.contexts.push_back(std::move(context));
    rig.modules.push_back(std::move(module));
  }
  return rig;
}

inline absl::Status Mix(cuda::Stream& stream, const MixArgs& args,
                        std::string_view kernel = "mix") {
  return ops::cuda::LaunchWith(stream, kernel, {(args.n + 63) / 64}, {64}, args);
}

}  // namespace lanyard::fake_cuda
