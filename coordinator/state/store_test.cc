#include "coordinator/state/store.h"

#include <SQLiteCpp/SQLiteCpp.h>
#include <gtest/gtest.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <unistd.h>

#include <filesystem>
#include <fstream>
#include <random>
#include <thread>

#include "coordinator/state/migrations.h"

namespace lanyard::coordinator {
namespace {

class StoreTest : public ::testing::Test {
 protected:
  StoreTest()
      : directory_(::testing::TempDir() + absl::StrCat("store-", ::getpid())),
        path_(directory_ + "/lanyard.db") {
    std::filesystem::create_directories(directory_);
  }
  ~StoreTest() override { std::filesystem::remove_all(directory_); }

  static absl::Status Insert(SQLite::Database& database, int i) {
    SQLite::Statement insert(
        database,
        "INSERT INTO api_keys (id, name, secret_sha256, created_unix_s) VALUES (?, ?, ?, 0)");
    insert.bind(1, absl::StrFormat("%012x", i));
    insert.bind(2, absl::StrCat("n", i));
    const std::string digest(32, 'x');
    insert.bind(3, digest.data(), 32);
    insert.exec();
    return absl::OkStatus();
  }
  static absl::StatusOr<int> Count(Store& store) {
    return store.Read([](SQLite::Database& database) -> absl::StatusOr<int> {
      return database.execAndGet("SELECT count(*) FROM api_keys").getInt();
    });
  }
  std::string Said(absl::StatusCode code) const {
    const auto store = Store::Open(path_);
    EXPECT_EQ(store.status().code(), code) << store.status();
    EXPECT_NE(store.status().message().find(path_), absl::string_view::npos);
    return Str(store.status().message());
  }

  const std::string directory_;
  const std::string path_;
};

TEST_F(StoreTest, KeepsWhatWasWrittenAndIsPrivate) {
  {
    const auto store = Store::Open(path_);
    ASSERT_TRUE(store.ok()) << store.status();
    EXPECT_EQ((*store)->version(), static_cast<int>(Migrations().size()));
    ASSERT_TRUE((*store)->Write([](SQLite::Database& d) { return Insert(d, 1); }).ok());
    for (const auto& file : std::filesystem::directory_iterator(directory_)) {
      struct stat st = {};
      ASSERT_EQ(::stat(file.path().c_str(), &st), 0);
      EXPECT_EQ(st.st_mode & 0777, 0600u) << file.path();
    }
  }
  ASSERT_EQ(::chmod(path_.c_str(), 0644), 0);
  const auto store = Store::Open(path_);
  ASSERT_TRUE(store.ok()) << store.status();
  EXPECT_EQ(*Count(**store), 1);
  struct stat st = {};
  ASSERT_EQ(::stat(path_.c_str(), &st), 0);
  EXPECT_EQ(st.st_mode & 0777, 0600u);
}

TEST_F(StoreTest, SettingsHold) {
  const auto store = Store::Open(path_);
  ASSERT_TRUE(store.ok());
  const auto pragma = [&](const char* name) {
    return *(*store)->Read([&](SQLite::Database& d) -> absl::StatusOr<std::string> {
      return d.execAndGet(absl::StrCat("PRAGMA ", name)).getString();
    });
  };
  EXPECT_EQ(pragma("journal_mode"), "wal");
  EXPECT_EQ(pragma("secure_delete"), "1");
  EXPECT_EQ(pragma("foreign_keys"), "1");
  EXPECT_EQ(pragma("synchronous"), "2");
  // Every table is STRICT.
  const auto loose = (*store)->Read([](SQLite::Database& d) -> absl::StatusOr<int> {
    return d
        .execAndGet(
            "SELECT count(*) FROM pragma_table_list WHERE schema = 'main' AND NOT strict AND name "
            "NOT LIKE "
            "'sqlite_%'")
        .getInt();
  });
  EXPECT_EQ(*loose, 0);
}

TEST_F(StoreTest, AnErrorTakesEverythingBack) {
  const auto store = Store::Open(path_);
  ASSERT_TRUE(store.ok());
  const absl::Status refused = (*store)->Write([](SQLite::Database& d) {
    RETURN_IF_ERROR(Insert(d, 1));
    return NotFound("on second thoughts");
  });
  EXPECT_EQ(refused, absl::NotFoundError("on second thoughts"));
  const absl::Status thrown = (*store)->Write([](SQLite::Database& d) {
    RETURN_IF_ERROR(Insert(d, 2));
    return Insert(d, 2);
  });
  EXPECT_EQ(thrown.code(), absl::StatusCode::kAlreadyExists);
  EXPECT_NE(thrown.message().find(path_), absl::string_view::npos);
  const auto wrong = (*store)->Read([](SQLite::Database& d) -> absl::StatusOr<int> {
    return d.execAndGet("SELECT nonsense FROM nowhere").getInt();
  });
  EXPECT_EQ(wrong.status().code(), absl::StatusCode::kInternal);
  EXPECT_NE(wrong.status().message().find("nowhere"), absl::string_view::npos);
  EXPECT_EQ(*Count(**store), 0);
}

TEST_F(StoreTest, ThreadsTakeTurns) {
  const auto store = Store::Open(path_);
  ASSERT_TRUE(store.ok());
  std::vector<std::thread> threads;
  for (int t = 0; t < 4; ++t) {
    threads.emplace_back([&, t] {
      for (int i = 0; i < 25; ++i) {
        EXPECT_TRUE(
            (*store)->Write([&](SQLite::Database& d) { return Insert(d, 100 * t + i); }).ok());
      }
    });
  }
  for (auto& thread : threads) thread.join();
  EXPECT_EQ(*Count(**store), 100);
}

TEST_F(StoreTest, NewerAndForeignDatabasesAreRefusedByName) {
  ASSERT_TRUE(Store::Open(path_).ok());
  {
    SQLite::Database database(path_, SQLite::OPEN_READWRITE);
    database.exec("PRAGMA user_version = 77");
  }
  EXPECT_NE(Said(absl::StatusCode::kFailedPrecondition).find("version 77"), std::string::npos);
  std::filesystem::remove(path_);
  {
    SQLite::Database database(path_, SQLite::OPEN_READWRITE | SQLite::OPEN_CREATE);
    database.exec("CREATE TABLE recipes (x)");
  }
  EXPECT_NE(Said(absl::StatusCode::kFailedPrecondition).find("not Lanyard's"), std::string::npos);
}

TEST_F(StoreTest, NoFileToHave) {
  for (const char* path : {"/proc/no/such.db", "/nowhere/x.db"}) {
    EXPECT_EQ(Store::Open(path).status().code(), absl::StatusCode::kFailedPrecondition) << path;
  }
  std::filesystem::create_directories(path_);
  EXPECT_EQ(Store::Open(path_).status().code(), absl::StatusCode::kFailedPrecondition);
  std::filesystem::remove(path_);
  std::filesystem::create_symlink("/etc/hostname", path_);  // a link might lead anywhere
  EXPECT_EQ(Store::Open(path_).status().code(), absl::StatusCode::kFailedPrecondition);
}

TEST_F(StoreTest, ASecondProcessIsTold) {
  const auto store = Store::Open(path_);
  ASSERT_TRUE(store.ok());
  const pid_t child = ::fork();
  if (child == 0) ::_exit(absl::IsUnavailable(Store::Open(path_).status()) ? 0 : 1);
  int status = -1;
  ASSERT_EQ(::waitpid(child, &status, 0), child);
  EXPECT_EQ(status, 0);
}

// Every page of a damaged file: an error with a type, or a database that works; never an end of the
// process.
TEST_F(StoreTest, DamageIsAnError) {
  {
    const auto store = Store::Open(path_);
    ASSERT_TRUE(store.ok());
    ASSERT_TRUE((*store)
                    ->Write([](SQLite::Database& d) {
                      for (int i = 0; i < 300; ++i) RETURN_IF_ERROR(Insert(d, i));
                      return absl::OkStatus();
                    })
                    .ok());
  }
  std::ifstream in(path_, std::ios::binary);
  const std::string whole{std::istreambuf_iterator<char>(in), std::istreambuf_iterator<char>()};
  ASSERT_GT(whole.size(), 8192u);
  std::mt19937 random(7);
  int refused = 0;
  const auto attempt = [&](const std::string& bytes) {
    std::filesystem::remove(path_ + "-wal");
    std::ofstream(path_, std::ios::binary | std::ios::trunc) << bytes << std::flush;
    const auto store = Store::Open(path_);
    if (!store.ok()) {
      ++refused;
      EXPECT_NE(store.status().message().find(path_), absl::string_view::npos);
      EXPECT_NE(store.status().code(), absl::StatusCode::kInternal) << store.status();
      return;
    }
    static_cast<void>(Count(**store));
  };
  for (int i = 0; i < 150; ++i) {
    std::string bytes = whole;
    for (int k = 0; k < 8; ++k) bytes[random() % bytes.size()] = static_cast<char>(random());
    attempt(bytes);
  }
  for (size_t n = 1; n < whole.size(); n += 997) attempt(whole.substr(0, n));
  EXPECT_GT(refused, 50);
  attempt("This is no database at all." + std::string(5000, '.'));
  EXPECT_EQ(Store::Open(path_).status().code(), absl::StatusCode::kDataLoss);
}

}  // namespace
}  // namespace lanyard::coordinator
