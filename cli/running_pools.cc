#include "cli/running_pools.h"

#include <fcntl.h>
#include <pwd.h>
#include <sys/file.h>
#include <sys/stat.h>
#include <unistd.h>

#include <algorithm>
#include <cctype>
#include <cerrno>
#include <cstring>
#include <filesystem>
#include <nlohmann/json.hpp>

#include "base/environment.h"
#include "base/file.h"
#include "cli/http_client.h"
#include "cli/pool_json.h"
#include "net/channel.h"

namespace lanyard::cli {
namespace {

namespace fs = std::filesystem;
using nlohmann::ordered_json;

constexpr char kSuffix[] = ".json";
constexpr int kMostNames = 100;  // that are alike

// A folder of this user's that nobody else may write to; no link to one.
bool IsOwn(const std::string& folder) {
  struct stat info {};
  return ::lstat(folder.c_str(), &info) == 0 && S_ISDIR(info.st_mode) &&
         info.st_uid == ::geteuid() && (info.st_mode & (S_IWGRP | S_IWOTH)) == 0;
}

bool IsOrBecomesOwn(const std::string& folder) {
  return (::mkdir(folder.c_str(), 0700) == 0 || errno == EEXIST) && IsOwn(folder);
}

absl::StatusOr<std::string> EntriesFolder() {
  std::string tried;
  for (const std::string& home : RuntimeHomes()) {
    if (IsOwn(home) && IsOrBecomesOwn(home + "/lanyard")) return home + "/lanyard";
    absl::StrAppend(&tried, home, "/lanyard, ");
  }
  // Anybody may have made it before: only what this user alone writes to is believed.
  const std::string shared = absl::StrCat("/tmp/lanyard-", ::geteuid());
  if (IsOrBecomesOwn(shared)) return shared;
  const std::string last = StateHome() + "/run";
  if (MakePrivateDir(last).ok() && IsOwn(last)) return last;
  return FailedPrecondition("none of ", tried, shared, " and ", last,
                            " is a folder that this user alone may write to");
}

// A lock that ends with this object.
class Lock {
 public:
  explicit Lock(int fd, int kind) : held_(fd >= 0 && ::flock(fd, kind | LOCK_NB) == 0), fd_(fd) {}
  ~Lock() {
    if (fd_ >= 0) ::close(fd_);
  }
  Lock(const Lock&) = delete;
  Lock& operator=(const Lock&) = delete;
  bool held() const { return held_; }

 private:
  const bool held_;
  const int fd_;
};

// Removes an entry whose pool is gone. False: its pool runs.
bool RemoveLeftOver(const std::string& path) {
  // An entry is a file; of a pipe that lies there the opening alone would wait.
  const int fd = ::open(path.c_str(), O_RDONLY | O_CLOEXEC | O_NOFOLLOW | O_NONBLOCK);
  if (fd < 0) return errno == ENOENT;
  const Lock lock(fd, LOCK_SH);
  if (!lock.held()) return false;
  struct stat mine {};
  struct stat there {};
  // Another pool may have taken the name since it was opened.
  const bool same =
      ::fstat(fd, &mine) == 0 && ::lstat(path.c_str(), &there) == 0 && mine.st_ino == there.st_ino;
  return same && ::unlink(path.c_str()) == 0;
}

std::string NameOf(const RunningPool& pool) {
  std::string out;
  for (const char c : pool.name) {
    const bool good = std::isalnum(static_cast<unsigned char>(c)) != 0 || c == '-' || c == '_' ||
                      (c == '.' && !out.empty());
    out.push_back(good ? c : '_');
  }
  return out.empty() ? "pool" : out.substr(0, 64);
}

std::string TextOf(const RunningPool& pool, const std::string& name) {
  const ordered_json out = {{"name", name},        {"state", pool.state}, {"url", pool.url},
                            {"admin", pool.admin}, {"model", pool.model}, {"pid", pool.pid}};
  return OneLine(out) + "\n";
}

// Who only sees their own pools is told when the folder that they named is somebody else's.
std::string OfAnotherUser(const std::string& state) {
  struct stat info {};
  if (::stat(state.c_str(), &info) != 0) {
    return errno == EACCES
               ? "; this user may not look into that folder, so the pool may be another user's"
               : "";
  }
  if (info.st_uid == ::geteuid()) return "";
  const passwd* const owner = ::getpwuid(info.st_uid);
  const std::string who = owner == nullptr ? absl::StrCat("user ", info.st_uid)
                                           : absl::StrCat("the user '", owner->pw_name, "'");
  return absl::StrCat("; that folder belongs to ", who,
                      ", whose pools are seen by that user alone");
}

// As the file system has it, so that two ways to one folder are one.
std::string Canonical(const std::string& path) {
  std::error_code ec;
  const fs::path out = fs::weakly_canonical(path, ec);
  if (ec) return path;
  return out.has_filename() ? out.string() : out.parent_path().string();  // "DIR/"
}

}  // namespace

std::vector<RunningPool> RunningPools() {
  std::vector<RunningPool> out;
  const absl::StatusOr<std::string> folder = EntriesFolder();
  if (!folder.ok()) return out;
  std::error_code ec;
  for (const auto& entry : fs::directory_iterator(*folder, ec)) {
    const std::string path = entry.path().string();
    if (!path.ends_with(kSuffix) || !fs::is_regular_file(entry.symlink_status(ec))) continue;
    if (RemoveLeftOver(path)) continue;
    const absl::StatusOr<std::string> text = ReadSmallFile(path);
    if (!text.ok()) continue;
    const auto json = ordered_json::parse(*text, nullptr, /*allow_exceptions=*/false);
    if (!json.is_object() || Text(json, "url").empty()) continue;
    out.push_back({Text(json, "name"), Text(json, "state"), Text(json, "url"), Text(json, "admin"),
                   Text(json, "model"), static_cast<pid_t>(Count(json, "pid"))});
  }
  std::sort(out.begin(), out.end(),
            [](const RunningPool& a, const RunningPool& b) { return a.name < b.name; });
  return out;
}

absl::StatusOr<RunningPool> FindRunningPool(const std::string& name_or_state) {
  const std::vector<RunningPool> pools = RunningPools();
  const std::string state = Canonical(fs::absolute(name_or_state).string());
  for (const RunningPool& pool : pools) {
    if (pool.name == name_or_state || Canonical(pool.state) == state) return pool;
  }
  return NotFound("no pool of lanyard up named '", name_or_state,
                  "', and none with that state directory, runs on this machine as this user",
                  OfAnotherUser(name_or_state), HowToFindAPool());
}

std::optional<RunningPool> RunningPoolAt(const std::string& url) {
  const absl::StatusOr<PoolUrl> wanted = ParsePoolUrl(url);
  if (!wanted.ok() || !net::IsLoopbackHost(wanted->host)) return std::nullopt;
  for (const RunningPool& pool : RunningPools()) {
    const absl::StatusOr<PoolUrl> own = ParsePoolUrl(pool.url);
    if (own.ok() && own->port == wanted->port) return pool;
  }
  return std::nullopt;
}

bool HoldsState(const RunningPool& pool) {
  const int fd = ::open((pool.state + "/" + kStateLock).c_str(), O_RDONLY | O_CLOEXEC | O_NONBLOCK);
  const Lock lock(fd, LOCK_SH);
  return fd >= 0 && !lock.held();
}

std::string ListOf(const std::vector<RunningPool>& pools) {
  std::string out;
  for (const RunningPool& pool : pools) {
    absl::StrAppend(&out, "\n  --pool ", pool.name, "   ", pool.url, ", model ", pool.model,
                    ", state ", pool.state);
  }
  return out;
}

std::string HowToFindAPool() {
  const std::vector<RunningPool> pools = RunningPools();
  const std::string elsewhere =
      "\n  The address of one elsewhere is given with --url (or LANYARD_URL).";
  if (!pools.empty()) return absl::StrCat("\n  On this machine runs:", ListOf(pools), elsewhere);
  return absl::StrCat("\n  Start one with: lanyard up --model FILE.gguf", elsewhere);
}

absl::StatusOr<std::unique_ptr<PoolEntry>> PoolEntry::Make(RunningPool pool) {
  ASSIGN_OR_RETURN(const std::string folder, EntriesFolder());
  const std::string stem = NameOf(pool);
  for (int i = 1; i <= kMostNames; ++i) {
    const std::string name = i == 1 ? stem : absl::StrCat(stem, "-", i);
    const std::string path = absl::StrCat(folder, "/", name, kSuffix);
    if (!RemoveLeftOver(path)) continue;
    // It appears under its name whole and locked.
    const std::string made = absl::StrCat(folder, "/", ::getpid(), ".new");
    ::unlink(made.c_str());
    const int fd = ::open(made.c_str(), O_RDWR | O_CREAT | O_EXCL | O_NOFOLLOW | O_CLOEXEC, 0600);
    if (fd < 0) return Unavailable("cannot write ", made, ": ", std::strerror(errno));
    const std::string text = TextOf(pool, name);
    const bool written = ::flock(fd, LOCK_EX | LOCK_NB) == 0 &&
                         ::write(fd, text.data(), text.size()) == static_cast<ssize_t>(text.size());
    const bool linked = written && ::link(made.c_str(), path.c_str()) == 0;
    const int error = errno;
    ::unlink(made.c_str());
    if (linked) return std::unique_ptr<PoolEntry>(new PoolEntry(name, path, fd));
    ::close(fd);
    if (!written || error != EEXIST)
      return Unavailable("cannot write ", path, ": ", std::strerror(error));
  }
  return ResourceExhausted(kMostNames, " pools of this name run: ", stem);
}

PoolEntry::~PoolEntry() {
  ::unlink(path_.c_str());
  ::close(fd_);
}

}  // namespace lanyard::cli
