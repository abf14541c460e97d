// The coordinator's database: one SQLite file (WAL, STRICT tables, foreign keys, deleted data is
// overwritten) that only its owner can read. This class knows connections, transactions and the
// numbered migrations (migrations.cc). The SQL of a table stands in the class that owns the table,
// inside a function given to Write or Read.
#pragma once

#include <memory>
#include <string>
#include <type_traits>
#include <utility>

#include "absl/functional/function_ref.h"
#include "base/mutex.h"
#include "base/status.h"

namespace SQLite {
class Database;
}

namespace lanyard::coordinator {

// Thread-safe: it runs one function at a time. Functions are short and never call the Store again.
class Store {
 public:
  // Opens or makes the file and brings its tables up to date. The file belongs to this process as
  // long as the Store lives. Errors name the path and say what to do: DataLoss (the file is damaged
  // or no database), FailedPrecondition (it is of a newer Lanyard or not Lanyard's, or cannot be
  // read or written), Unavailable (another process has it).
  static absl::StatusOr<std::unique_ptr<Store>> Open(const std::string& path);
  ~Store();
  Store(const Store&) = delete;
  Store& operator=(const Store&) = delete;

  // Runs `f(SQLite::Database&)`, which returns a Status or StatusOr, in a transaction: all of it is
  // on the disk when the result is OK, and nothing otherwise. SQLite's exceptions become a Status.
  template <typename F>
  std::invoke_result_t<F, SQLite::Database&> Write(F&& f) {
    return Call(std::forward<F>(f), /*write=*/true);
  }
  // The same, for functions that only read.
  template <typename F>
  std::invoke_result_t<F, SQLite::Database&> Read(F&& f) {
    return Call(std::forward<F>(f), /*write=*/false);
  }

  const std::string& path() const { return path_; }
  int version() const { return version_; }

 private:
  using Work = absl::FunctionRef<absl::Status(SQLite::Database&)>;

  Store(std::string path, std::unique_ptr<SQLite::Database> database);
  absl::Status Migrate();
  absl::Status Run(Work work, bool write);

  template <typename F>
  std::invoke_result_t<F, SQLite::Database&> Call(F&& f, bool write) {
    using Result = std::invoke_result_t<F, SQLite::Database&>;
    if constexpr (std::is_same_v<Result, absl::Status>) {
      return Run(f, write);
    } else {
      Result result = absl::InternalError("not run");
      const absl::Status status = Run(
          [&](SQLite::Database& database) {
            result = f(database);
            return result.status();
          },
          write);
      if (!status.ok()) return status;
      return result;
    }
  }

  const std::string path_;
  int version_ = 0;
  Mutex mu_;
  const std::unique_ptr<SQLite::Database> database_ ABSL_PT_GUARDED_BY(mu_);
};

}  // namespace lanyard::coordinator
