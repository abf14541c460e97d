// What the pool remembers of its machines' faults, so that the next plan can leave out one that
// keeps it from serving. It is a state machine without I/O or clock.
#pragma once

#include <cstdint>
#include <map>
#include <set>
#include <string>

#include "base/clock.h"
#include "base/status.h"
#include "coordinator/cluster/pace.h"
#include "net/load_cause.h"

namespace lanyard::coordinator {

struct HealthOptions {
  // So many failures in a row to make a stage ready, and plans leave the machine out.
  uint32_t bench_after = 2;
  // For this long; then it may be planned again. The time doubles with every further failure.
  TimeNs bench_first = 60 * kSecond;
  TimeNs bench_most = 1800 * kSecond;
  PaceOptions pace = {};
};

// A stage that was not made ready.
struct LoadFailure {
  absl::Status why;
  net::LoadCause cause = net::LoadCause::kUnknown;
  // The next machine, where the reason was the link to it: then that one is blamed, until the
  // machine has reached two others neither.
  std::string unreachable = {};
};

// A cause in words.
struct LoadCauseText {
  const char* id;    // for programs: "disk_full"
  const char* what;  // "its disk is full"
  const char* next;  // what to do about it
};
LoadCauseText TextOf(net::LoadCause cause);

// One machine's record.
struct HealthRecord {
  uint32_t load_failures = 0;  // since its last stage that served
  uint64_t losses = 0;         // how often it was lost while it had a stage
  double losses_lately = 0;    // at `lost_at`: each counts half as much an hour later
  TimeNs lost_at = 0;
  uint64_t stalls = 0;  // how often it fell silent for a while and came back
  uint32_t waits = 0;   // load failures that count for nothing (LoadCause::kAgain), since then
  net::LoadCause cause = net::LoadCause::kUnknown;  // of the last failure
  std::string why;                                  // the last failure in the words of who told it
  TimeNs benched_until = 0;                         // 0: it was never left out
  TimeNs bench_time = 0;                            // how long it was left out the last time
};

// Not thread-safe.
class MachineHealth {
 public:
  explicit MachineHealth(HealthOptions options) : options_(options), pace_(options.pace) {}

  // `machine` could not make its stage ready. What passes by itself is remembered and not counted.
  // Returns the machine that plans leave out from now on; empty: none.
  std::string OnLoadFailed(const std::string& machine, const LoadFailure& failure, TimeNs now);
  // A result came through a stage of the machine.
  void OnServed(const std::string& machine);
  void OnLost(const std::string& machine, TimeNs now);
  void OnStall(const std::string& machine) { ++records_[machine].stalls; }
  // An administrator took the machine back, or it came with another address.
  void Forgive(const std::string& machine);

  // Of the last hours, the older the less. The planner passes such a machine over where another
  // does.
  double LossesLately(const std::string& machine, TimeNs now) const;
  bool Benched(const std::string& machine, TimeNs now) const;
  Pace& pace() { return pace_; }
  const Pace& pace() const { return pace_; }
  // Takes machines back whose time has passed.
  void OnTick(TimeNs now);
  // Changes whenever another set of machines is left out, or another one is a straggler.
  uint64_t revision() const { return revision_ + pace_.revision(); }
  // One that failed to load since it last served; null: it did not.
  const HealthRecord* Failing(const std::string& machine) const;
  // Null: nothing is known of it.
  const HealthRecord* Find(const std::string& machine) const;

 private:
  const HealthOptions options_;
  std::map<std::string, HealthRecord> records_;
  std::map<std::string, std::set<std::string>> unreached_;  // by the machine that tried
  std::set<std::string> benched_;
  Pace pace_;
  uint64_t revision_ = 0;
};

}  // namespace lanyard::coordinator
