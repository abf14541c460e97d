// Finds out whether an address can be reached at all, before TLS and gRPC put their words around
// it.
#pragma once

#include <cstdint>
#include <string>
#include <vector>

#include "base/status.h"

namespace lanyard::net {

// Returns the numeric addresses of a host's name. NotFound: the name is not known. Unavailable: the
// name server does not answer.
absl::StatusOr<std::vector<std::string>> ResolveHost(const std::string& host);

struct Reached {
  uint64_t connect_ns = 0;  // time of the TCP handshake
  uint32_t mtu_bytes = 0;   // MTU of the way as the kernel knows it; 0: not known
};

// Connects and closes. The errors are those of ResolveHost, and DeadlineExceeded when nothing
// answers (a firewall drops, or the machine is off), and Unavailable when the connection is refused
// or there is no route.
absl::StatusOr<Reached> Reach(const std::string& address, int timeout_ms);

// Splits the "host:port" of an address that CheckAddress passed; brackets are dropped.
void SplitAddress(const std::string& address, std::string* host, std::string* port);

}  // namespace lanyard::net
