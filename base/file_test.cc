#include "base/file.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <sys/stat.h>
#include <unistd.h>

#include <filesystem>
#include <string>
#include <thread>

namespace lanyard {
namespace {

class SmallFileTest : public ::testing::Test {
 protected:
  SmallFileTest() : folder_(::testing::TempDir() + absl::StrCat("small-file-", getpid())) {
    std::filesystem::create_directories(folder_);
  }
  ~SmallFileTest() override { std::filesystem::remove_all(folder_); }

  const std::string folder_;
};

TEST_F(SmallFileTest, WhatIsNoFileIsRefusedWithoutWaiting) {
  const std::string pipe = folder_ + "/pipe";
  ASSERT_EQ(::mkfifo(pipe.c_str(), 0600), 0);
  std::filesystem::create_symlink(pipe, folder_ + "/link");
  for (const std::string& path : {pipe, folder_ + "/link", folder_, std::string("/dev/zero")}) {
    const auto text = ReadSmallFile(path);
    EXPECT_EQ(text.status().code(), absl::StatusCode::kFailedPrecondition) << text.status();
    EXPECT_NE(text.status().message().find(path), std::string::npos) << text.status();
  }
  EXPECT_TRUE(absl::IsNotFound(ReadSmallFile(folder_ + "/none").status()));
  EXPECT_TRUE(absl::IsNotFound(ReadSmallInput(folder_ + "/none").status()));
}

TEST_F(SmallFileTest, AnInputMayBeAPipe) {
  const std::string pipe = folder_ + "/pipe";
  ASSERT_EQ(::mkfifo(pipe.c_str(), 0600), 0);
  std::thread writer([&] {
    // The writer of a pipe writes into it, where WriteSmallFile would replace it.
    FILE* out = std::fopen(pipe.c_str(), "w");
    std::fputs("token", out);
    std::fclose(out);
  });
  EXPECT_EQ(ReadSmallInput(pipe).value_or("?"), "token");
  writer.join();
}

TEST_F(SmallFileTest, BothKeepTheLimit) {
  const std::string path = folder_ + "/file";
  ASSERT_TRUE(WriteSmallFile(path, "123456789").ok());
  EXPECT_EQ(*ReadSmallFile(path, 9), "123456789");
  EXPECT_EQ(*ReadSmallInput(path, 9), "123456789");
  EXPECT_TRUE(absl::IsResourceExhausted(ReadSmallFile(path, 8).status()));
  EXPECT_TRUE(absl::IsResourceExhausted(ReadSmallInput(path, 8).status()));
}

using ::testing::HasSubstr;
using ::testing::Not;

class File : public ::testing::Test {
 protected:
  void SetUp() override { std::filesystem::create_directories(folder_ + "/folder"); }
  void TearDown() override { std::filesystem::remove_all(folder_); }
  std::string At(const std::string& name) const { return folder_ + "/" + name; }

  const std::string folder_ = ::testing::TempDir() + "file_" + std::to_string(getpid());
};

TEST_F(File, IsReadAsItWasWritten) {
  ASSERT_TRUE(WriteSmallFile(At("a"), "text").ok());
  EXPECT_EQ(*ReadSmallFile(At("a")), "text");
  EXPECT_TRUE(absl::IsResourceExhausted(ReadSmallFile(At("a"), 3).status()));
  EXPECT_TRUE(absl::IsNotFound(ReadSmallFile(At("b")).status()));
}

TEST_F(File, WhatIsNoneIsToldFromWhatCannotBeReached) {
  ASSERT_TRUE(WriteSmallFile(At("a"), "text").ok());
  const absl::Status folder = ReadSmallFile(At("folder")).status();
  EXPECT_EQ(folder, FailedPrecondition(At("folder"), " is a folder, and not a file"));
  EXPECT_TRUE(absl::IsFailedPrecondition(ReadSmallFile(At("a/b")).status()));
  EXPECT_TRUE(absl::IsPermissionDenied(FileError("read", "x", EACCES)));
  EXPECT_TRUE(absl::IsUnavailable(FileError("read", "x", EIO)));
  if (geteuid() == 0) return;  // who may read everything
  ASSERT_EQ(chmod(At("a").c_str(), 0), 0);
  EXPECT_TRUE(absl::IsPermissionDenied(ReadSmallFile(At("a")).status()));
}

TEST_F(File, WhatIsNoneIsNotReplaced) {
  ASSERT_EQ(mkfifo(At("pipe").c_str(), 0600), 0);
  std::filesystem::create_symlink(At("pipe"), At("link"));
  for (const char* name : {"pipe", "link", "folder"}) {
    const absl::Status written = WriteSmallFile(At(name), "text");
    EXPECT_TRUE(absl::IsFailedPrecondition(written)) << name << ": " << written;
    EXPECT_THAT(Str(written.message()), HasSubstr(At(name) + " is a "));
    EXPECT_FALSE(std::filesystem::is_regular_file(At(name)));
  }
  EXPECT_TRUE(std::filesystem::is_symlink(At("link")));
}

// The words are for whichever option named the folder.
TEST_F(File, AFolderThatCannotBeMadeNamesNoOption) {
  ASSERT_TRUE(WriteSmallFile(At("a"), "text").ok());
  for (const std::string& path : {At("a"), At("a/b")}) {
    const absl::Status made = MakePrivateDir(path);
    EXPECT_THAT(Str(made.message()), HasSubstr("choose another"));
    EXPECT_THAT(Str(made.message()), Not(HasSubstr("--")));
  }
}

}  // namespace
}  // namespace lanyard
