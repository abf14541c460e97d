#include "cli/running_pools.h"

#include <fcntl.h>
#include <gtest/gtest.h>
#include <sys/file.h>
#include <sys/stat.h>
#include <unistd.h>

#include <cstdlib>
#include <filesystem>
#include <fstream>

#include "cli/http_client.h"

namespace lanyard::cli {
namespace {

namespace fs = std::filesystem;

// A user's runtime directory and home with nothing in them, and no variable of Lanyard's.
class RunningPoolsTest : public testing::Test {
 protected:
  RunningPoolsTest() {
    char name[] = "/tmp/lanyard-pools-XXXXXX";
    root_ = ::mkdtemp(name);
    ::mkdir((root_ + "/run").c_str(), 0700);
    ::setenv("XDG_RUNTIME_DIR", (root_ + "/run").c_str(), 1);
    ::setenv("XDG_STATE_HOME", (root_ + "/state").c_str(), 1);
    for (const char* name : {"LANYARD_URL", "LANYARD_ADMIN", "LANYARD_API_KEY"}) ::unsetenv(name);
  }
  ~RunningPoolsTest() override {
    ::unsetenv("XDG_RUNTIME_DIR");
    ::unsetenv("XDG_STATE_HOME");
    fs::remove_all(root_);
  }
  std::unique_ptr<PoolEntry> Make(const std::string& state, const std::string& url) {
    auto entry =
        PoolEntry::Make({fs::path(state).filename().string(), state, url, "", "m", ::getpid()});
    EXPECT_TRUE(entry.ok()) << entry.status();
    return entry.ok() ? *std::move(entry) : nullptr;
  }
  // The URL of the pool that is found, or the error.
  static std::string Words(const std::string& pool = "", const std::string& url = "") {
    HttpClient::Options options;
    options.pool = pool;
    options.url = url;
    const auto client = HttpClient::Create(options);
    return client.ok() ? client->url() : Str(client.status().message());
  }
  std::string root_;
};

TEST_F(RunningPoolsTest, AnEntryLastsAsLongAsItsPool) {
  EXPECT_TRUE(RunningPools().empty());
  {
    const auto entry = Make(root_ + "/x/fine", "https://127.0.0.1:1");
    ASSERT_EQ(RunningPools().size(), 1u);
    const RunningPool pool = RunningPools().front();
    EXPECT_EQ(pool.name, "fine");
    EXPECT_EQ(pool.url, "https://127.0.0.1:1");
    EXPECT_EQ(pool.pid, ::getpid());
    EXPECT_EQ(FindRunningPool("fine")->url, pool.url);
    EXPECT_EQ(FindRunningPool(root_ + "/x/../x/fine/")->url, pool.url);
    EXPECT_EQ(Words(), "https://127.0.0.1:1");
  }
  EXPECT_TRUE(RunningPools().empty());
  EXPECT_TRUE(fs::is_empty(root_ + "/run/lanyard"));
}

TEST_F(RunningPoolsTest, WhatAKilledPoolLeftIsCleared) {
  Make(root_ + "/a", "http://127.0.0.1:1").reset();  // makes the folder
  const std::string left = root_ + "/run/lanyard/old.json";
  std::ofstream(left) << R"({"name":"old","url":"http://127.0.0.1:2","state":"/old"})";
  EXPECT_TRUE(RunningPools().empty());
  EXPECT_FALSE(fs::exists(left));
}

TEST_F(RunningPoolsTest, SeveralAreListedWithWhatToType) {
  const auto one = Make(root_ + "/x/same", "https://127.0.0.1:1");
  const auto two = Make(root_ + "/y/same", "http://127.0.0.1:2");
  EXPECT_EQ(two->name(), "same-2");
  const std::string words = Words();
  EXPECT_NE(words.find("--pool same   https://127.0.0.1:1"), std::string::npos) << words;
  EXPECT_NE(words.find("--pool same-2   http://127.0.0.1:2"), std::string::npos) << words;
  EXPECT_EQ(Words("same-2"), "http://127.0.0.1:2");
  EXPECT_EQ(Words(root_ + "/x/same"), "https://127.0.0.1:1");
  EXPECT_EQ(Words("", "http://h:5"), "http://h:5");
  const std::string unknown = Words("other");
  EXPECT_NE(unknown.find("'other'"), std::string::npos) << unknown;
  EXPECT_NE(unknown.find("--pool same-2"), std::string::npos) << unknown;
}

TEST_F(RunningPoolsTest, WithoutAPoolNoAddressIsMadeUp) {
  const auto none = HttpClient::Create({});
  EXPECT_EQ(none.status().code(), absl::StatusCode::kUnavailable);
  const std::string words = Str(none.status().message());
  EXPECT_EQ(words.find("://"), std::string::npos) << words;
  EXPECT_NE(words.find("lanyard up --model"), std::string::npos) << words;
}

TEST_F(RunningPoolsTest, AFolderThatOthersMayWriteToIsNotBelieved) {
  const std::string folder = root_ + "/run/lanyard";
  for (const auto& [path, mode] : {std::pair(folder, 0770), std::pair(root_ + "/run", 0777)}) {
    ::mkdir(folder.c_str(), 0700);
    ASSERT_EQ(::chmod(path.c_str(), static_cast<mode_t>(mode)), 0);
    const auto entry = Make(root_ + "/z", "http://127.0.0.1:3");
    ASSERT_NE(entry, nullptr);
    EXPECT_TRUE(fs::is_empty(folder)) << path;
    ASSERT_EQ(::chmod(path.c_str(), 0700), 0);
  }
  fs::remove(folder);
  fs::create_symlink(root_ + "/state", folder);  // nor one that is only pointed at
  fs::create_directory(root_ + "/state");
  const auto entry = Make(root_ + "/z", "http://127.0.0.1:3");
  EXPECT_TRUE(fs::is_empty(root_ + "/state"));
}

// To open a pipe would wait until somebody writes to it.
TEST_F(RunningPoolsTest, WhatIsNoFileIsPassedOver) {
  const auto entry = Make(root_ + "/a", "http://127.0.0.1:1");
  ASSERT_EQ(::mkfifo((root_ + "/run/lanyard/pipe.json").c_str(), 0600), 0);
  fs::create_directory(root_ + "/run/lanyard/folder.json");
  fs::create_symlink(root_ + "/run/lanyard/a.json", root_ + "/run/lanyard/link.json");
  ASSERT_EQ(RunningPools().size(), 1U);
  EXPECT_EQ(RunningPools().front().name, "a");
  EXPECT_TRUE(fs::exists(root_ + "/run/lanyard/pipe.json"));
}

TEST_F(RunningPoolsTest, APoolIsKnownByItsPort) {
  const auto entry = Make(root_ + "/a", "https://127.0.0.1:7001");
  EXPECT_EQ(RunningPoolAt("https://localhost:7001")->name, "a");
  EXPECT_EQ(RunningPoolAt("127.0.0.1:7001")->name, "a");
  EXPECT_FALSE(RunningPoolAt("https://127.0.0.1:7002").has_value());
  EXPECT_FALSE(RunningPoolAt("https://192.0.2.1:7001").has_value());  // another machine's
}

TEST_F(RunningPoolsTest, AStateDirectoryIsHeldAsLongAsItsLock) {
  const RunningPool pool{"a", root_, "https://127.0.0.1:1"};
  EXPECT_FALSE(HoldsState(pool));
  const int fd = ::open((root_ + "/" + kStateLock).c_str(), O_RDWR | O_CREAT, 0600);
  ASSERT_GE(fd, 0);
  EXPECT_FALSE(HoldsState(pool));
  ASSERT_EQ(::flock(fd, LOCK_EX), 0);
  EXPECT_TRUE(HoldsState(pool));
  ::close(fd);
  EXPECT_FALSE(HoldsState(pool));
}

TEST_F(RunningPoolsTest, TheFolderOfAnotherUserIsNamedAsThat) {
  EXPECT_EQ(Words(root_).find("belongs to"), std::string::npos);
  if (::geteuid() != 0) return;  // only root gives folders away
  fs::create_directory(root_ + "/theirs");
  ASSERT_EQ(::chown((root_ + "/theirs").c_str(), 12345, 12345), 0);
  const std::string words = Words(root_ + "/theirs");
  EXPECT_NE(words.find("belongs to user 12345"), std::string::npos) << words;
}

TEST_F(RunningPoolsTest, NamesAreFitToBeTyped) {
  EXPECT_EQ(Make("/x/.my pool;rm", "http://127.0.0.1:1")->name(), "_my_pool_rm");
  EXPECT_EQ(Make("/", "http://127.0.0.1:1")->name(), "pool");
}

}  // namespace
}  // namespace lanyard::cli
