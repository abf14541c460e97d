#include <gtest/gtest.h>

#include "base/bytes.h"
#include "base/sha256.h"
#include "base/status.h"

namespace lanyard {
namespace {

TEST(Sha256, KnownAnswers) {
  EXPECT_EQ(Sha256Hex({}), "e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855");
  const uint8_t abc[] = {'a', 'b', 'c'};
  EXPECT_EQ(Sha256Hex(abc), "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad");
  EXPECT_TRUE(IsSha256Hex(Sha256Hex(abc)));
  EXPECT_FALSE(IsSha256Hex("../../etc/passwd"));
}

TEST(Bytes, CheckedArithmeticRefusesOverflow) {
  EXPECT_EQ(CheckedMul(1ull << 32, 1ull << 31), 1ull << 63);
  EXPECT_FALSE(CheckedMul(1ull << 32, 1ull << 32).has_value());
  EXPECT_FALSE(CheckedAdd(~0ull, 1).has_value());
}

absl::StatusOr<int> Half(int x) {
  if (x % 2 != 0) return InvalidArgument("odd: ", x);
  return x / 2;
}
absl::StatusOr<int> Quarter(int x) {
  ASSIGN_OR_RETURN(const int half, Half(x));
  return Half(half);
}

TEST(Status, MacrosPassTheErrorOn) {
  EXPECT_EQ(*Quarter(8), 2);
  EXPECT_EQ(Annotate(Quarter(6).status(), "quarter").message(), "quarter: odd: 3");
}

}  // namespace
}  // namespace lanyard
