// Hears from logind that the machine is about to sleep, and holds it up for as long as the worker
// needs to leave its pool politely (org.freedesktop.login1.Manager: Inhibit, PrepareForSleep;
// https://www.freedesktop.org/wiki/Software/systemd/inhibit/).
#pragma once

#include <functional>
#include <memory>

namespace lanyard::worker {

struct SleepCalls {
  // The machine sleeps as soon as this returns; logind waits for 5 s at most.
  std::function<void()> before;
  // It woke up, or does not sleep after all.
  std::function<void()> after;
};

class SleepWatch {
 public:
  // Starts a thread, which makes the calls. Where there is no system bus or no logind it looks for
  // them from time to time and makes none.
  static std::unique_ptr<SleepWatch> Start(SleepCalls calls);
  // Waits for a call that runs; there is none after it.
  virtual ~SleepWatch() = default;
};

}  // namespace lanyard::worker
