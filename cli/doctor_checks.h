// Concludes from what `lanyard doctor` saw what is wrong. It has no I/O and no clock.
#pragma once

#include <string>
#include <vector>

#include "base/exit_code.h"
#include "cli/doctor_facts.h"

namespace lanyard::cli {

struct Finding {
  std::string where;  // "this machine", "coordinator", "pc-7", "pc-7 -> pc-8"
  std::string check;  // one word, stable: "memory" "disk" "isa" "card" "key" "certificate"
                      // "weights" "name" "port" "tls" "rights" "join" "version" "clock" "pool"
                      // "lost" "silent" "link" "mtu" "speed" "access"
  std::string what;
  std::string cause;
  std::string next;  // a command, or what to do
};

struct Good {
  std::string where;
  std::string check;
  std::string text;
};

// What nobody can say anything about, because it was not looked at.
struct NotLooked {
  std::string where;
  std::string check;
  std::string why;
  std::string next;  // how to have it looked at
  absl::StatusCode code = absl::StatusCode::kUnavailable;
};

struct Report {
  std::vector<Finding> findings;
  std::vector<Good> good;
  std::vector<NotLooked> not_looked;
};

// Everything was looked at, and nothing is wrong.
bool IsHealthy(const Report& report);

// kOk for a healthy one, kFailed with findings; without any, what kept from looking: kUnreachable
// (no pool was found), kDenied, or kTimedOut.
ExitCode DoctorExitCode(const Report& report);

// The last line: "All is well." for a healthy report and for no other.
std::string Verdict(const Report& report);

void CheckMachine(const MachineFacts& facts, Report* out);
void CheckCoordinator(const CoordinatorFacts& facts, Report* out);
void CheckPool(const PoolFacts& facts, Report* out);
void SkipPool(Report* out);  // instead, when there are no facts

}  // namespace lanyard::cli
