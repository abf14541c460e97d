// The pools of `lanyard up` that run on this machine, of this user: an entry each in a folder that
// only this user writes to, locked as long as the pool runs. What is not locked is left over from a
// pool that was killed.
#pragma once

#include <sys/types.h>

#include <memory>
#include <optional>
#include <string>
#include <vector>

#include "base/status.h"

namespace lanyard::cli {

struct RunningPool {
  std::string name;   // of its state directory; unique among those that run
  std::string state;  // its state directory, absolute
  std::string url;
  std::string admin = {};  // the administrator's folder; empty with --http-open
  std::string model = {};
  pid_t pid = 0;  // of `lanyard up`
};

// In the order of their names. Removes what was left over.
std::vector<RunningPool> RunningPools();
// By name or state directory. NotFound lists those that run.
absl::StatusOr<RunningPool> FindRunningPool(const std::string& name_or_state);
// The one that answers at this URL of this machine.
std::optional<RunningPool> RunningPoolAt(const std::string& url);
// Whether its `lanyard up` still has its state directory: after its coordinator there are workers
// to end.
bool HoldsState(const RunningPool& pool);
// The file in a state directory that `lanyard up` locks as long as it runs.
inline constexpr char kStateLock[] = "lock";
// One line for each, with what to type: "\n  --pool NAME   URL, model, state".
std::string ListOf(const std::vector<RunningPool>& pools);
// What to do when no pool was found or reached: the ones that run, or how to start one.
std::string HowToFindAPool();

// Makes a pool known until it is destroyed or the process ends.
class PoolEntry {
 public:
  // The name may get a number when another pool has it.
  static absl::StatusOr<std::unique_ptr<PoolEntry>> Make(RunningPool pool);
  ~PoolEntry();
  PoolEntry(const PoolEntry&) = delete;
  PoolEntry& operator=(const PoolEntry&) = delete;
  const std::string& name() const { return name_; }

 private:
  PoolEntry(std::string name, std::string path, int fd)
      : name_(std::move(name)), path_(std::move(path)), fd_(fd) {}
  const std::string name_;
  const std::string path_;
  const int fd_;
};

}  // namespace lanyard::cli
