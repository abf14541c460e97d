#include "coordinator/state/state_dir.h"

#include <gtest/gtest.h>
#include <sys/stat.h>
#include <unistd.h>

#include <filesystem>

namespace lanyard::coordinator {
namespace {

class StateDirTest : public ::testing::Test {
 protected:
  StateDirTest() : path_(::testing::TempDir() + absl::StrCat("state-", ::getpid())) {}
  ~StateDirTest() override { std::filesystem::remove_all(path_); }
  const std::string path_;
};

TEST_F(StateDirTest, EpochsOutliveTheProcess) {
  {
    const auto state = StateDirectory::Open(path_ + "/deep/er");
    ASSERT_TRUE(state.ok()) << state.status();
    EXPECT_EQ(*state->LastEpoch(), Epoch(0));
    ASSERT_TRUE(state->SaveEpoch(Epoch(12)).ok());
    ASSERT_TRUE(state->SaveEpoch(Epoch(13)).ok());
  }
  const auto state = StateDirectory::Open(path_ + "/deep/er");
  EXPECT_EQ(*state->LastEpoch(), Epoch(13));
  struct stat st = {};
  ASSERT_EQ(::stat((path_ + "/deep/er").c_str(), &st), 0);
  EXPECT_EQ(st.st_mode & 0777, 0700u);
}

TEST_F(StateDirTest, AnEpochThatMakesNoSenseIsAnError) {
  const auto state = StateDirectory::Open(path_);
  ASSERT_TRUE(state.ok());
  for (const char* text : {"", "x", "-3", "12 13", "99999999999999999999999"}) {
    ASSERT_TRUE(state->Write("epoch", text).ok());
    EXPECT_FALSE(state->LastEpoch().ok()) << text;
  }
}

TEST_F(StateDirTest, NoDirectoryIsAnErrorThatNamesIt) {
  const auto state = StateDirectory::Open("/proc/no/such");
  ASSERT_FALSE(state.ok());
  EXPECT_NE(state.status().message().find("/proc/no/such"), std::string::npos);
  EXPECT_FALSE(StateDirectory::Open(path_)->Read("nothing").has_value());
}

}  // namespace
}  // namespace lanyard::coordinator
