// Addresses that a server listens on, who can reach them, and which Host headers fit them. No
// sockets are opened.
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

// Names for HostPolicy as people write them: in any case, with or without the dot at the end.
// InvalidArgument for what is no host's name alone, such as a URL.
absl::StatusOr<std::vector<std::string>> ParseHostNames(const std::vector<std::string>& names);

struct HostPolicy {
  ListenAddress listen;
  std::vector<std::string> names;  // of this server besides its address, in lower case
  bool tls = false;
  std::vector<std::string> origins = {};  // of web pages that may ask besides its own (ParseOrigin)
};

// The DNS-rebinding guard. Empty when the request may go on, else the message of a 403. host: whom
// the request is for. It must be one of the names, or the address: on loopback any loopback name,
// on a wildcard any number (a rebinding needs a name). Of pages' origins: web/browser.h.
std::string CheckHost(std::string_view host, const HostPolicy& policy);

}  // namespace lanyard::web
