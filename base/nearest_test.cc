#include "base/nearest.h"

#include "gtest/gtest.h"

namespace lanyard {
namespace {

TEST(Nearest, DistanceCountsMistakesOfTyping) {
  EXPECT_EQ(EditDistance("", ""), 0u);
  EXPECT_EQ(EditDistance("abc", ""), 3u);
  EXPECT_EQ(EditDistance("", "abc"), 3u);
  EXPECT_EQ(EditDistance("save", "save"), 0u);
  EXPECT_EQ(EditDistance("sve", "save"), 1u);
  EXPECT_EQ(EditDistance("savee", "save"), 1u);
  EXPECT_EQ(EditDistance("sage", "save"), 1u);
  EXPECT_EQ(EditDistance("saev", "save"), 1u);  // two letters swapped are one mistake
  EXPECT_EQ(EditDistance("asve", "save"), 1u);
  EXPECT_EQ(EditDistance("kitten", "sitting"), 3u);
}

TEST(Nearest, TheFirstOfEquals) {
  EXPECT_EQ(Nearest("x", {}), "");
  EXPECT_EQ(Nearest("saev", {"set", "show", "save"}), "save");
  EXPECT_EQ(Nearest("aa", {"ab", "ac"}), "ab");
}

}  // namespace
}  // namespace lanyard
