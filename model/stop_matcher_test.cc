#include "model/stop_matcher.h"

#include <gtest/gtest.h>

#include <random>

namespace lanyard::model {
namespace {

TEST(StopMatcher, FindsAStopAcrossPieces) {
  StopMatcher m({"END", "\n\nUser:"});
  EXPECT_EQ(m.Push("hello E"), "hello ");
  EXPECT_EQ(m.Push("N"), "");
  EXPECT_EQ(m.Push("X \n"), "ENX ");
  EXPECT_EQ(m.Push("\nUse"), "");
  EXPECT_FALSE(m.stopped());
  EXPECT_EQ(m.Push("r: more"), "");
  EXPECT_TRUE(m.stopped());
  EXPECT_EQ(m.stop(), "\n\nUser:");
  EXPECT_EQ(m.Push("more"), "");
  EXPECT_EQ(m.Flush(), "");
}

TEST(StopMatcher, HeldTextComesOutAtTheEnd) {
  StopMatcher m({"abc"});
  EXPECT_EQ(m.Push("xab"), "x");
  EXPECT_EQ(m.Flush(), "ab");
  EXPECT_FALSE(m.stopped());
}

TEST(StopMatcher, WithoutStopsEverythingPasses) {
  StopMatcher none;
  EXPECT_EQ(none.Push("a"), "a");
  StopMatcher empty({"", ""});
  EXPECT_EQ(empty.Push("b"), "b");
  EXPECT_FALSE(empty.stopped());
}

TEST(StopMatcher, NeverCutsACharacter) {
  StopMatcher m({"\xA9z"});  // begins with the second half of U+00E9
  EXPECT_EQ(m.Push("caf\u00E9"), "caf");
  EXPECT_EQ(m.Push("!"), "\u00E9!");
}

// Against a plain search, over every way of cutting small texts.
TEST(StopMatcher, AgreesWithPlainSearch) {
  std::mt19937 random(1);
  const auto word = [&](int longest) {
    std::string s(1 + random() % longest, 'a');
    for (char& c : s) c = static_cast<char>('a' + random() % 2);
    return s;
  };
  for (int round = 0; round < 5000; ++round) {
    const std::vector<std::string> stops = {word(4), word(6), word(5)};
    const std::string text = word(40);
    size_t best_end = std::string::npos, best_begin = 0;
    for (const std::string& s : stops) {
      const size_t at = text.find(s);
      if (at == std::string::npos) continue;
      const size_t end = at + s.size();
      if (end < best_end || (end == best_end && at < best_begin)) {
        best_end = end;
        best_begin = at;
      }
    }
    StopMatcher m(stops);
    std::string got;
    for (size_t i = 0; i < text.size();) {
      const size_t n = 1 + random() % 5;
      got += m.Push(std::string_view(text).substr(i, n));
      i += n;
    }
    got += m.Flush();
    EXPECT_EQ(m.stopped(), best_end != std::string::npos);
    EXPECT_EQ(got, best_end == std::string::npos ? text : text.substr(0, best_begin));
  }
}

}  // namespace
}  // namespace lanyard::model
