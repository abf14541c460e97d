#include "base/file.h"

#include <gtest/gtest.h>
#include <sys/stat.h>
#include <unistd.h>

#include <filesystem>
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

}  // namespace
}  // namespace lanyard
