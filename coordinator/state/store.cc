#include "coordinator/state/store.h"

#include <SQLiteCpp/SQLiteCpp.h>
#include <fcntl.h>
#include <sqlite3.h>
#include <sys/stat.h>
#include <unistd.h>

#include <cerrno>
#include <cstring>

#include "base/log.h"
#include "coordinator/state/migrations.h"

namespace lanyard::coordinator {
namespace {

constexpr int kBusyTimeoutMs = 3000;        // time for a coordinator that is just ending
constexpr int kApplicationId = 0x4c616e79;  // "Lany", in the file's header

// Makes a Status of SQLite's error, with the path and what to do.
absl::Status ToStatus(const SQLite::Exception& e, const std::string& path) {
  const std::string said = absl::StrCat(path, ": ", e.what());
  switch (e.getErrorCode() & 0xff) {
    case SQLITE_CORRUPT:
    case SQLITE_NOTADB:
      return absl::DataLossError(
          absl::StrCat("the database ", said,
                       "; it is damaged or no database. Put a backup in its place, or move it "
                       "away: the coordinator ",
                       "then makes an empty one, and keys are to be created again"));
    case SQLITE_BUSY:
    case SQLITE_LOCKED:
      return Unavailable("the database ", said,
                         "; another coordinator uses it. Stop that one, or give this one another ",
                         "--state");
    case SQLITE_FULL:
      return ResourceExhausted("the database ", said, "; free some space on its disk");
    case SQLITE_CANTOPEN:
    case SQLITE_PERM:
    case SQLITE_READONLY:
    case SQLITE_AUTH:
      return FailedPrecondition("the database ", said,
                                "; the coordinator's user must be able to write the file and its ",
                                "folder");
    case SQLITE_IOERR:
      return Unavailable("the database ", said, "; look at the disk and at the system's log");
    case SQLITE_CONSTRAINT:
      return absl::AlreadyExistsError(absl::StrCat("the database ", said));
    default:
      return Internal("the database ", said);
  }
}

// Makes the file with its mode before SQLite opens it; SQLite gives the files beside it (-wal,
// -shm) the same mode.
absl::Status MakePrivate(const std::string& path) {
  const int fd = ::open(path.c_str(), O_RDWR | O_CREAT | O_CLOEXEC | O_NOFOLLOW, 0600);
  if (fd < 0) {
    return FailedPrecondition(
        "cannot open the database ", path, ": ", std::strerror(errno),
        "; the coordinator's user must be able to write the file and its folder");
  }
  struct stat st = {};
  absl::Status result;
  if (::fstat(fd, &st) != 0 || !S_ISREG(st.st_mode)) {
    result = FailedPrecondition("the database ", path, " is not a file");
  } else if ((st.st_mode & 0077) != 0) {
    LogWarning("the database ", path, " could be read by others; its mode is 0600 again");
    if (::fchmod(fd, 0600) != 0) {
      result = FailedPrecondition("cannot take the mode of ", path,
                                  " back to 0600: ", std::strerror(errno));
    }
  }
  ::close(fd);
  return result;
}

void Configure(SQLite::Database& database) {
  // One process has the file; this also keeps the WAL's index out of shared memory. It must come
  // before the first access.
  database.exec("PRAGMA locking_mode = EXCLUSIVE");
  database.exec("PRAGMA journal_mode = WAL");
  database.exec("PRAGMA synchronous = FULL");  // a revocation outlives a loss of power
  database.exec("PRAGMA secure_delete = ON");
  database.exec("PRAGMA foreign_keys = ON");
  database.exec("PRAGMA trusted_schema = OFF");
  database.exec("PRAGMA cell_size_check = ON");
}

}  // namespace

Store::Store(std::string path, std::unique_ptr<SQLite::Database> database)
    : path_(std::move(path)), database_(std::move(database)) {}

Store::~Store() = default;

absl::StatusOr<std::unique_ptr<Store>> Store::Open(const std::string& path) {
  RETURN_IF_ERROR(MakePrivate(path));
  try {
    auto database =
        std::make_unique<SQLite::Database>(path, SQLite::OPEN_READWRITE, kBusyTimeoutMs);
    Configure(*database);
    auto store = std::unique_ptr<Store>(new Store(path, std::move(database)));
    RETURN_IF_ERROR(store->Migrate());
    return store;
  } catch (const SQLite::Exception& e) {
    // So far only questions were asked that every file of ours answers: its tables are not those of
    // its version.
    if ((e.getErrorCode() & 0xff) == SQLITE_ERROR)
      return ToStatus(SQLite::Exception(e.what(), SQLITE_CORRUPT), path);
    return ToStatus(e, path);
  }
}

absl::Status Store::Migrate() {
  MutexLock lock(&mu_);
  SQLite::Database& database = *database_;
  const std::string check = database.execAndGet("PRAGMA quick_check(1)").getString();
  if (check != "ok") throw SQLite::Exception(check, SQLITE_CORRUPT);
  const int application = database.execAndGet("PRAGMA application_id").getInt();
  version_ = database.execAndGet("PRAGMA user_version").getInt();
  const bool empty = database.execAndGet("SELECT count(*) FROM sqlite_schema").getInt() == 0;
  if (!(empty && application == 0 && version_ == 0) && application != kApplicationId) {
    return FailedPrecondition("the database ", path_, " is not Lanyard's; give another --state");
  }
  const auto migrations = Migrations();
  const int newest = static_cast<int>(migrations.size());
  if (version_ < 0 || version_ > newest) {
    return FailedPrecondition(
        "the database ", path_, " has version ", version_,
        ", from a newer Lanyard; this one knows up to ", newest,
        ". Install the newer version, or put back the backup from before the update");
  }
  for (; version_ < newest; ++version_) {
    SQLite::Transaction transaction(database, SQLite::TransactionBehavior::IMMEDIATE);
    database.exec(migrations[static_cast<size_t>(version_)]);
    database.exec(absl::StrCat("PRAGMA application_id = ", kApplicationId));
    database.exec(absl::StrCat("PRAGMA user_version = ", version_ + 1));
    transaction.commit();
  }
  return absl::OkStatus();
}

absl::Status Store::Run(Work work, bool write) {
  MutexLock lock(&mu_);
  try {
    SQLite::Transaction transaction(*database_, write ? SQLite::TransactionBehavior::IMMEDIATE
                                                      : SQLite::TransactionBehavior::DEFERRED);
    RETURN_IF_ERROR(work(*database_));  // the transaction's end rolls back
    transaction.commit();
    return absl::OkStatus();
  } catch (const SQLite::Exception& e) {
    return ToStatus(e, path_);
  } catch (const std::exception& e) {
    return Internal("the database ", path_, ": ", e.what());
  }
}

}  // namespace lanyard::coordinator
