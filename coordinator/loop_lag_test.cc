#include "coordinator/loop_lag.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

namespace lanyard::coordinator {
namespace {

using ::testing::HasSubstr;

TEST(LoopLag, SlowTurnsAreToldOnceInTenSeconds) {
  LoopLag lag;
  const TimeNs t = 1000 * kSecond;
  EXPECT_FALSE(lag.OnTurn(t, t + kSlowTurn - 1));
  const auto first = lag.OnTurn(t, t + 120 * kMillisecond);
  ASSERT_TRUE(first);
  EXPECT_THAT(*first, HasSubstr("120 ms"));
  for (int i = 1; i < 20; ++i) {
    const TimeNs began = t + i * 500 * kMillisecond;
    EXPECT_FALSE(lag.OnTurn(began, began + (i == 7 ? 450 : 110) * kMillisecond)) << i;
  }
  // The rest is told with the next turn, slow or not, and only once.
  const auto rest = lag.OnTurn(t + 11 * kSecond, t + 11 * kSecond + 1);
  ASSERT_TRUE(rest);
  EXPECT_THAT(*rest, HasSubstr("450 ms"));
  EXPECT_THAT(*rest, HasSubstr("19 times"));
  EXPECT_FALSE(lag.OnTurn(t + 60 * kSecond, t + 60 * kSecond + 1));
}

}  // namespace
}  // namespace lanyard::coordinator
