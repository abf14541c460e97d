#include "web/address.h"

#include <arpa/inet.h>
#include <ifaddrs.h>
#include <netinet/in.h>

#include <algorithm>
#include <array>
#include <cctype>
#include <cstring>

#include "base/ip.h"

namespace lanyard::web {
namespace {

bool AnyInterfaceIsPublic() {
  ifaddrs* list = nullptr;
  if (getifaddrs(&list) != 0) return true;  // it is not known, so ask for the flag
  bool found = false;
  for (const ifaddrs* i = list; i != nullptr; i = i->ifa_next) {
    if (i->ifa_addr == nullptr) continue;
    if (i->ifa_addr->sa_family == AF_INET6) {
      IpAddress::Bytes bytes{};
      std::memcpy(bytes.data(), &reinterpret_cast<const sockaddr_in6*>(i->ifa_addr)->sin6_addr,
                  bytes.size());
      found = found || IpAddress(bytes).is_public();
    } else if (i->ifa_addr->sa_family == AF_INET) {
      std::array<uint8_t, 4> v4{};
      std::memcpy(v4.data(), &reinterpret_cast<const sockaddr_in*>(i->ifa_addr)->sin_addr,
                  v4.size());
      found = found || IpAddress::V4(v4[0], v4[1], v4[2], v4[3]).is_public();
    }
  }
  freeifaddrs(list);
  return found;
}

// Makes "::1" of "[::1]:8080", and "localhost" of "LocalHost.:80".
std::string HostName(std::string_view authority) {
  if (!authority.empty() && authority.front() == '[') {
    const size_t end = authority.find(']');
    authority = authority.substr(1, end == std::string_view::npos ? end : end - 1);
  } else {
    authority = authority.substr(0, authority.find(':'));
  }
  std::string name(authority);
  if (!name.empty() && name.back() == '.') name.pop_back();
  std::transform(name.begin(), name.end(), name.begin(),
                 [](unsigned char c) { return static_cast<char>(std::tolower(c)); });
  return name;
}

bool IsLoopbackName(const std::string& name) {
  const auto address = IpAddress::Parse(name);
  return name == "localhost" || (address.has_value() && address->is_loopback());
}

bool IsOurs(const std::string& name, const HostPolicy& policy) {
  if (std::find(policy.names.begin(), policy.names.end(), name) != policy.names.end()) return true;
  if (policy.listen.loopback) return IsLoopbackName(name);
  const auto address = IpAddress::Parse(name);
  if (policy.listen.wildcard) return address.has_value() || name == "localhost";
  return address.has_value() && address == IpAddress::Parse(policy.listen.host);
}

// Of letters, digits, '-', '_' and dots between them (RFC 1123, and what office networks add).
bool IsHostName(std::string_view name) {
  if (name.empty() || name.size() > 253 || name.front() == '-' || name.front() == '.') return false;
  return std::all_of(name.begin(), name.end(), [](unsigned char c) {
    return std::isalnum(c) != 0 || c == '-' || c == '_' || c == '.';
  });
}

}  // namespace

absl::StatusOr<std::vector<std::string>> ParseHostNames(const std::vector<std::string>& names) {
  std::vector<std::string> out;
  for (const std::string& name : names) {
    if (IpAddress::Parse(name).has_value()) {
      out.push_back(HostName("[" + name + "]"));
      continue;
    }
    if (name.find_first_of(":/") != std::string::npos || !IsHostName(HostName(name))) {
      return InvalidArgument("'", name, "' is not the name of a host; give it without scheme and ",
                             "port, for example pc1.lan");
    }
    out.push_back(HostName(name));
  }
  return out;
}

absl::StatusOr<ListenAddress> ParseListen(const std::string& listen) {
  const size_t colon = listen.rfind(':');
  if (colon == std::string::npos || colon + 1 == listen.size() || listen.size() - colon > 6) {
    return InvalidArgument("the HTTP address '", listen,
                           "' is not ADDRESS:PORT; for example 127.0.0.1:8080");
  }
  uint32_t port = 0;
  for (size_t i = colon + 1; i < listen.size(); ++i) {
    if (listen[i] < '0' || listen[i] > '9') {
      return InvalidArgument("the port of the HTTP address '", listen,
                             "' is not a number; for example 127.0.0.1:8080");
    }
    port = port * 10 + static_cast<uint32_t>(listen[i] - '0');
  }
  if (port > 65535)
    return InvalidArgument("port ", port, " of the HTTP address '", listen, "' is above 65535");
  ListenAddress out;
  out.port = static_cast<uint16_t>(port);
  out.host = listen.substr(0, colon);
  if (out.host.size() > 2 && out.host.front() == '[' && out.host.back() == ']') {
    out.host = out.host.substr(1, out.host.size() - 2);
  }
  if (out.host == "localhost") out.host = "127.0.0.1";
  const auto address = IpAddress::Parse(out.host);
  if (!address.has_value()) {
    return InvalidArgument("the HTTP address '", listen,
                           "' does not start with an IP address or localhost");
  }
  out.loopback = address->is_loopback();
  out.wildcard = address->is_unspecified();
  out.is_public = out.wildcard ? AnyInterfaceIsPublic() : address->is_public();
  return out;
}

std::string ClientGroup(const std::string& numeric) {
  const auto address = IpAddress::Parse(numeric);
  if (!address.has_value()) return numeric;
  const IpAddress client = address->Client();
  return std::string(client.bytes().begin(), client.bytes().end());
}

std::string CheckHost(std::string_view host, const HostPolicy& policy) {
  if (host.empty() || IsOurs(HostName(host), policy)) return "";
  const std::string asked =
      absl::StrCat("the request came for host '", AbslView(host.substr(0, 100)), "'. ");
  const std::string name = HostName(host.substr(0, 100));
  const std::string allow =
      IsHostName(name)
          ? absl::StrCat(", or let the server go by that name: start it with --http-name ", name)
          : "";
  if (policy.listen.loopback) {
    return absl::StrCat("This server listens on this machine only, but ", asked,
                        "Use 127.0.0.1 or localhost", allow, ".");
  }
  return absl::StrCat("This server does not go by that name: ", asked, "Use its address", allow,
                      ".");
}

}  // namespace lanyard::web
