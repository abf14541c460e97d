// Whether a port is free, asked before work that a taken one would waste, and who has it. Linux.
#pragma once

#include <sys/types.h>

#include <cstdint>
#include <optional>
#include <string>

#include "base/status.h"

namespace lanyard {

struct PortOwner {
  pid_t pid = 0;        // 0: it is another user's, whose processes cannot be looked into
  std::string program;  // "lanyard-coordinator"; empty with pid 0
  std::string user;     // by name, or the number of one without a name
  bool operator==(const PortOwner&) const = default;
};

// Who listens on this TCP port of this machine; nullopt when nobody does or it cannot be known.
std::optional<PortOwner> WhoListens(uint16_t port);
// "lanyard-coordinator (process 4711)" or "a program of the user root"; "another program" when it
// is not known.
std::string DescribeOwner(const std::optional<PortOwner>& owner);

// Binds `address` (HOST:PORT, numeric or localhost; port 0 is always free) and lets go of it.
// FailedPrecondition says who has the port, and `instead`, what to choose; other errors (no such
// address, no right to a port) as the system words them. A malformed address is for the server that
// will listen to refuse: OK here.
absl::Status CheckCanListen(const std::string& address, const std::string& instead);

}  // namespace lanyard
