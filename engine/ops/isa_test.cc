#include "engine/ops/isa.h"

#include <gtest/gtest.h>

namespace lanyard::ops {
namespace {

TEST(Isa, NamesRoundTrip) {
  const std::vector<Isa> isas = RunnableIsas();
  ASSERT_FALSE(isas.empty());
  EXPECT_EQ(isas.front(), Isa::kScalar);
  EXPECT_EQ(isas.back(), BestIsa());
  for (Isa isa : isas) {
    auto parsed = ParseIsa(IsaName(isa));
    ASSERT_TRUE(parsed.ok()) << parsed.status();
    EXPECT_EQ(*parsed, isa);
  }
}

TEST(Isa, UnknownAndUnavailableAreRefused) {
  EXPECT_EQ(ParseIsa("sse9").status().code(), absl::StatusCode::kInvalidArgument);
  EXPECT_EQ(ParseIsa("").status().code(), absl::StatusCode::kInvalidArgument);
  for (Isa isa : {Isa::kAvx2, Isa::kAvx512}) {
    bool runnable = false;
    for (Isa r : RunnableIsas()) runnable |= r == isa;
    if (!runnable) {
      EXPECT_EQ(ParseIsa(IsaName(isa)).status().code(), absl::StatusCode::kFailedPrecondition);
    }
  }
}

}  // namespace
}  // namespace lanyard::ops
