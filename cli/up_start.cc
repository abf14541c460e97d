#include "cli/up_start.h"

#include <fcntl.h>
#include <sys/file.h>
#include <unistd.h>

#include <cerrno>
#include <cstdlib>
#include <cstring>
#include <filesystem>

#include "base/environment.h"
#include "base/listen_check.h"
#include "base/utf8.h"
#include "cli/running_pools.h"

namespace lanyard::cli {
namespace {

namespace fs = std::filesystem;

absl::Status StateInUse(const fs::path& dir, int lock) {
  std::string stop;
  if (const auto pool = FindRunningPool(fs::absolute(dir).string()); pool.ok()) {
    stop = absl::StrCat("stop it with: lanyard stop --pool ", pool->name);
  } else {
    char pid[16] = {};  // a pool that its coordinator does not serve yet
    stop = ::pread(lock, pid, sizeof(pid) - 1, 0) > 0
               ? absl::StrCat("stop it with: kill ", std::atoi(pid))
               : "it is just starting";
  }
  return absl::AlreadyExistsError(absl::StrCat("another pool uses the state directory ",
                                               dir.string(), "; ", stop,
                                               ", or name another with --state"));
}

// The directory for logs, caches and identities, locked for the life of this process (its
// descriptor stays open).
absl::StatusOr<std::string> LockState(const fs::path& dir) {
  std::error_code ec;
  // It travels in JSON: the coordinator's, the line of --json, the entry that other verbs read.
  RETURN_IF_ERROR(
      Annotate(CheckUtf8(fs::absolute(dir, ec).string()), "the state directory " + dir.string()));
  fs::create_directories(dir / "logs", ec);
  if (ec)
    return FailedPrecondition("cannot create the state directory ", dir.string(), ": ",
                              ec.message(), "; name another with --state");
  const int fd = ::open((dir / kStateLock).c_str(), O_RDWR | O_CREAT | O_CLOEXEC, 0600);
  if (fd < 0)
    return FailedPrecondition("cannot write to the state directory ", dir.string(), ": ",
                              std::strerror(errno), "; name another with --state");
  if (::flock(fd, LOCK_EX | LOCK_NB) != 0) {
    const absl::Status used = StateInUse(dir, fd);
    ::close(fd);
    return used;
  }
  const std::string pid = absl::StrCat(::getpid(), "\n");
  if (::ftruncate(fd, 0) != 0 || ::pwrite(fd, pid.data(), pid.size(), 0) < 0)
    return FailedPrecondition("cannot write to the state directory ", dir.string(), ": ",
                              std::strerror(errno), "; name another with --state");
  const fs::path whole = fs::weakly_canonical(dir, ec);
  const bool usable = !ec && CheckUtf8(whole.string()).ok();
  return (usable ? whole : fs::absolute(dir)).string();
}

}  // namespace

absl::Status CheckPort(uint32_t port) {
  std::string instead = "choose another port with --port, or --port 0 for a free one";
  for (const RunningPool& pool : RunningPools()) {
    if (pool.url.ends_with(absl::StrCat(":", port)))
      instead = absl::StrCat("that is the pool ", pool.name,
                             ", which is stopped with: lanyard stop --pool ", pool.name, "; or ",
                             instead);
  }
  return CheckCanListen(absl::StrCat("127.0.0.1:", port), instead);
}

absl::StatusOr<std::string> ChooseState(const std::string& wanted, const std::string& model) {
  if (!wanted.empty()) return LockState(wanted);
  const fs::path base = fs::path(StateHome()) / "up";
  const std::string stem = fs::path(model).stem().string();
  for (int i = 1;; ++i) {
    // Several pools of one model may run at once; each has a directory that it finds again.
    auto state = LockState(base / (i == 1 ? stem : absl::StrCat(stem, "-", i)));
    if (state.ok() || !absl::IsAlreadyExists(state.status()) || i == 100) return state;
  }
}

}  // namespace lanyard::cli
