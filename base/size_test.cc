#include "base/size.h"

#include <gtest/gtest.h>

namespace lanyard {
namespace {

TEST(Size, Parses) {
  EXPECT_EQ(ParseSize("123").value(), 123u);
  EXPECT_EQ(ParseSize("200MiB").value(), 200u << 20);
  EXPECT_EQ(ParseSize("1.5GiB").value(), (3ull << 30) / 2);
  EXPECT_EQ(ParseSize("8GB").value(), 8000000000u);
  EXPECT_EQ(ParseSize("88 mib").value(), 88u << 20);
  EXPECT_EQ(ParseSize("512K").value(), 512u << 10);
}

TEST(Size, RefusesByName) {
  for (const char* text : {"", "MiB", "12 parsecs", "-1", "1..2", "9e9", "nan", "99999999999TiB"}) {
    const auto size = ParseSize(text);
    ASSERT_FALSE(size.ok()) << text;
    EXPECT_NE(size.status().message().find(text), absl::string_view::npos) << size.status();
  }
}

TEST(Size, Formats) {
  EXPECT_EQ(FormatSize(0), "0 B");
  EXPECT_EQ(FormatSize(88u << 20), "88.0 MiB");
  EXPECT_EQ(FormatSize(3ull << 29), "1.50 GiB");
}

}  // namespace
}  // namespace lanyard
