#include "base/log.h"

#include <gtest/gtest.h>

namespace lanyard {
namespace {

TEST(LogTest, ReadsItsOwnLines) {
  SetupLog({LogLevel::kInfo, false, "w-1"});
  testing::internal::CaptureStderr();
  LogWarning("not joined: error 7");
  std::string line = testing::internal::GetCapturedStderr();
  SetupLog({});
  ASSERT_FALSE(line.empty());
  line.pop_back();
  const auto read = ParseLogLine(line);
  ASSERT_TRUE(read.has_value()) << line;
  EXPECT_EQ(read->level, LogLevel::kWarning);
  EXPECT_EQ(read->words, "not joined: error 7");
}

TEST(LogTest, NothingCommandsTheTerminal) {
  SetupLog({LogLevel::kInfo, false, "w-1"});
  testing::internal::CaptureStderr();
  LogWarning("a\x1b[2J\xC2\x9b", "2J\n", "\xC3\xA9");
  const std::string line = testing::internal::GetCapturedStderr();
  SetupLog({});
  EXPECT_NE(line.find("a\\u001b[2J\\u009b2J\\u000a\xC3\xA9\n"), std::string::npos) << line;
}

TEST(LogTest, AndNoOthers) {
  EXPECT_EQ(ParseLogLine("12:00:00.000 error x")->level, LogLevel::kError);
  for (const char* other : {"", "lanyard-worker: error x", "12:00:00.000", "12:00:00.000 a b c",
                            "12:00:00,000 w1 error x", "12:00:00.000 w1 off x"}) {
    EXPECT_FALSE(ParseLogLine(other).has_value()) << other;
  }
}

}  // namespace
}  // namespace lanyard
