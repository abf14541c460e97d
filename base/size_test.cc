#include "base/size.h"

#include <gtest/gtest.h>

namespace lanyard {
namespace {

TEST(SizeTest, ParsesUnits) {
  EXPECT_EQ(*ParseSize("1000000"), 1000000u);
  EXPECT_EQ(*ParseSize("88MiB"), 88u << 20);
  EXPECT_EQ(*ParseSize("1.5GiB"), 3ull << 29);
  EXPECT_EQ(*ParseSize(" 64 k "), 64u << 10);
  EXPECT_EQ(*ParseSize("2GB"), 2000000000u);
  EXPECT_EQ(*ParseSize("200mib"), 200u << 20);
  EXPECT_EQ(*ParseSize("12B"), 12u);
}

TEST(SizeTest, RefusesWithTheText) {
  for (const char* bad :
       {"", "MiB", "-5", "1.2.3", "5 parsecs", "0", "0.1", "99999999999TiB", "nan", "1e5"}) {
    const auto got = ParseSize(bad);
    ASSERT_FALSE(got.ok()) << bad << " = " << *got;
    EXPECT_NE(Str(got.status().message()).find(bad), std::string::npos);
  }
}

TEST(SizeTest, ALimitBelowTheLeastIsRefusedWithBoth) {
  EXPECT_EQ(*ParseLimit("8MiB", 8 << 20), 8u << 20);
  const auto words = [](const char* text) {
    return Str(ParseLimit(text, uint64_t{8} << 20).status().message());
  };
  EXPECT_EQ(words("40"),
            "'40' is 40 B; at least 8.0 MiB can work. Without a unit it is bytes; write for "
            "example 40GiB");
  // Whose unit was written meant it.
  EXPECT_EQ(words("40KiB"), "'40KiB' is 40.0 KiB; at least 8.0 MiB can work");
  EXPECT_NE(words("40 parsecs").find("unknown unit"), std::string::npos);
}

TEST(SizeTest, Formats) {
  EXPECT_EQ(FormatSize(0), "0 B");
  EXPECT_EQ(FormatSize(1536), "1.5 KiB");
  EXPECT_EQ(FormatSize(88u << 20), "88.0 MiB");
  EXPECT_EQ(FormatSize(200u << 20), "200 MiB");
}

}  // namespace
}  // namespace lanyard
