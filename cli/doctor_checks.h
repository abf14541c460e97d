// Concludes from what `lanyard doctor` saw what is wrong. It has no I/O and no clock.
#pragma once

#include <string>
#include <vector>

#include "cli/doctor_facts.h"

namespace lanyard::cli {

struct Finding {
  std::string where;  // "this machine", "coordinator", "pc-7", "pc-7 -> pc-8"
  // One stable word: "memory" "disk" "isa" "card" "key" "certificate" "weights" "name" "port" "tls"
  // "rights" "join" "version" "clock" "pool" "lost" "silent" "link" "mtu" "speed".
  std::string check;
  std::string what;
  std::string cause;
  std::string next;  // a command, or what to do
};

struct Good {
  std::string where;
  std::string check;
  std::string text;
};

struct Report {
  std::vector<Finding> findings;
  std::vector<Good> good;
};

void CheckMachine(const MachineFacts& facts, Report* out);
void CheckCoordinator(const CoordinatorFacts& facts, Report* out);
void CheckPool(const PoolFacts& facts, Report* out);

}  // namespace lanyard::cli
