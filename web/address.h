// The addresses that a server listens on, who can reach them, and which Host and Origin headers fit
// them. No sockets are opened.
#pragma once

#include <cstdint>
#include <string>
#include <string_view>
#include <vector>

#include "base/status.h"

namespace lanyard::web {

struct ListenAddress {
  std::string host;  // numeric; IPv6 without brackets
  uint16_t port = 0;
  bool loopback = false;
  bool wildcard = false;  // 0.0.0.0 or ::
  // Its number can be reached from the internet; for a wildcard: one of this machine's addresses
  // can.
  bool is_public = false;
};

// Takes "ADDRESS:PORT", "localhost:PORT" or "[ADDRESS]:PORT"; InvalidArgument otherwise.
absl::StatusOr<ListenAddress> ParseListen(const std::string& listen);

// The unit by which limits per client count (IpAddress::Client), as a key.
std::string ClientGroup(const std::string& numeric);

struct HostPolicy {
  ListenAddress listen;
  std::vector<std::string> names;  // names of this server besides its address
  bool tls = false;
};

// The DNS-rebinding and cross-site guard. It returns an empty text when the request may go on, else
// the message of a 403. `host` and `origin` are the headers of these names (empty: absent). The
// host must be one of the names, or the address: on loopback any loopback name fits, on a wildcard
// any number (a rebinding needs a name). An origin must be the host itself, by the same scheme, or
// loopback on a loopback listener.
std::string CheckHostAndOrigin(std::string_view host, std::string_view origin,
                               const HostPolicy& policy);

}  // namespace lanyard::web
