#include "base/output.h"

#include <fcntl.h>
#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <unistd.h>

#include <cstdio>
#include <cstdlib>
#include <string>

namespace lanyard {
namespace {

using ::testing::ExitedWithCode;

// Says one word on a stdout that is `path`, or closed, and ends as a program does.
void SayOn(const char* path, int code) {
  ::close(STDOUT_FILENO);
  if (path != nullptr && ::open(path, O_WRONLY) != STDOUT_FILENO) std::_Exit(99);
  HoldStandardStreams();
  std::printf("word\n");
  std::_Exit(EndOfOutput(code));
}

TEST(OutputDeathTest, WhatDidNotArriveIsAnError) {
  EXPECT_EXIT(SayOn("/dev/null", kOk), ExitedWithCode(kOk), "^$");
  EXPECT_EXIT(SayOn("/dev/full", kOk), ExitedWithCode(kFailed),
              "error: cannot write to standard output: No space left on device");
  EXPECT_EXIT(SayOn(nullptr, kOk), ExitedWithCode(kFailed),
              "error: cannot write to standard output: Bad file descriptor");
  // What failed before is the program's news.
  EXPECT_EXIT(SayOn("/dev/full", kNotFound), ExitedWithCode(kNotFound), "^$");
}

void OpenWithoutStreams() {
  for (const int fd : {STDIN_FILENO, STDOUT_FILENO, STDERR_FILENO}) ::close(fd);
  HoldStandardStreams();
  const int fd = ::open("/dev/null", O_WRONLY);
  char byte = 0;
  const bool unusable = ::read(STDIN_FILENO, &byte, 1) < 0 && ::write(STDOUT_FILENO, "x", 1) < 0 &&
                        ::write(STDERR_FILENO, "x", 1) < 0;
  std::_Exit(fd > STDERR_FILENO && unusable ? 0 : 1);
}

TEST(OutputDeathTest, NoFileGetsTheNumberOfAStream) {
  EXPECT_EXIT(OpenWithoutStreams(), ExitedWithCode(0), "");
}

}  // namespace
}  // namespace lanyard
