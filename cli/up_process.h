// The child processes of `lanyard up`: they start in a process group of their own with output to a
// log file, their end is noticed, and they can be stopped. The parent has one thread, so fork is
// safe.
#pragma once

#include <sys/types.h>

#include <chrono>
#include <optional>
#include <string>
#include <vector>

#include "base/clock.h"
#include "base/status.h"

namespace lanyard::cli {

struct ProcessSpec {
  std::string name;               // "coordinator", "w1"
  std::string program;            // its path
  std::vector<std::string> args;  // without argv[0]
  std::string log_path;           // stdout and stderr are appended to it
};

class Process {
 public:
  explicit Process(ProcessSpec spec) : spec_(std::move(spec)) {}

  // Forks and executes; the child gets SIGTERM when the parent dies. NotFound: the program is
  // missing.
  absl::Status Start();
  // Says once how it ended ("exit code 1", "signal 9 (Killed)"); nullopt while it runs.
  std::optional<std::string> Poll();
  bool running() const { return pid_ > 0; }
  bool exited_cleanly() const { return exited_cleanly_; }  // its last end was exit code 0
  pid_t pid() const { return pid_; }
  const ProcessSpec& spec() const { return spec_; }
  void Signal(int number) const;

 private:
  ProcessSpec spec_;
  pid_t pid_ = -1;
  bool exited_cleanly_ = false;
};

// Sends SIGTERM to all, then SIGKILL to those that still run after `grace`; returns when none is
// left.
void StopAll(const std::vector<Process*>& processes, std::chrono::milliseconds grace);

// The last `lines` lines of a file; empty when it cannot be read.
std::string LastLines(const std::string& path, int lines);

// Says when to start a process that died again: after 0.25 s, 0.5 s, ... at most 10 s. After a life
// of a minute it begins at 0.25 s again.
class BackOff {
 public:
  // To be called when the process ended; returns the time at which it may start again.
  TimeNs NextStart(TimeNs started, TimeNs ended);
  int failures() const { return failures_; }

 private:
  int failures_ = 0;
};

}  // namespace lanyard::cli
