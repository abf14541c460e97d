// The child processes of `lanyard up`: they start in a process group of their own with output to a
// log file, their end is noticed, and they can be stopped. The parent has one thread, so fork is
// safe.
#pragma once

#include <sys/types.h>

#include <chrono>
#include <optional>
#include <set>
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
  int exit_code() const { return exit_code_; }  // of the last end; -1: a signal, or none yet
  pid_t pid() const { return pid_; }
  const ProcessSpec& spec() const { return spec_; }
  void Signal(int number) const;

 private:
  ProcessSpec spec_;
  pid_t pid_ = -1;
  int exit_code_ = -1;
};

// Sends SIGTERM to all, then SIGKILL to those that still run after `grace`; returns when none is
// left.
void StopAll(const std::vector<Process*>& processes, std::chrono::milliseconds grace);

// The last `lines` lines of a file; empty when it cannot be read.
std::string LastLines(const std::string& path, int lines);

// What a program said that was its end: the last line of its log without "error: ", or
// nothing where that is an ordinary line of a log.
std::string LastWords(const std::string& log_path);

// Reads what comes to a log: the warnings and errors among its lines, each once.
class Complaints {
 public:
  explicit Complaints(std::string log_path) : path_(std::move(log_path)) {}
  // The new ones, without time and program.
  std::vector<std::string> Next();

 private:
  const std::string path_;
  int64_t at_ = 0;
  std::string rest_;  // of a line that is not whole yet
  std::set<std::string> told_;
};

// When to start a process that died again: 0.25 s, 0.5 s, ... at most 10 s; a life of a minute
// starts from the front.
class BackOff {
 public:
  // To be called when the process ended; returns the time at which it may start again.
  TimeNs NextStart(TimeNs started, TimeNs ended);
  int failures() const { return failures_; }

 private:
  int failures_ = 0;
};

}  // namespace lanyard::cli
