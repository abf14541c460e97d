#include "base/utf8.h"

#include <gtest/gtest.h>

#include <string>

namespace lanyard {
namespace {

TEST(Utf8, TheFirstByteThatIsNone) {
  for (const char* good : {"", "a", "Grüße", "你好", "🌍", "\xf4\x8f\xbf\xbf"})
    EXPECT_EQ(FindNoUtf8(good), std::string::npos) << good;
  // Alone, cut off, overlong, a surrogate, beyond U+10FFFF.
  for (const char* bad : {"\xff", "\x80", "\xc3", "\xe4\xbd", "\xc0\xaf", "\xe0\x80\xaf",
                          "\xed\xa0\x80", "\xf0\x80\x80\xaf", "\xf4\x90\x80\x80", "\xf5"}) {
    EXPECT_EQ(FindNoUtf8(bad), 0U);
    EXPECT_EQ(FindNoUtf8("ü" + std::string(bad) + "ü"), 2U);
  }
}

}  // namespace
}  // namespace lanyard
