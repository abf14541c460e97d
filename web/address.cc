#include "web/address.h"

#include <arpa/inet.h>
#include <ifaddrs.h>
#include <netinet/in.h>

#include <algorithm>
#include <array>
#include <cctype>
#include <cstring>
#include <optional>

namespace lanyard::web {
namespace {

// 16 bytes; IPv4 as ::ffff:a.b.c.d.
using Bytes = std::array<uint8_t, 16>;

bool IsV4(const Bytes& a) {
  static constexpr std::array<uint8_t, 12> kMapped = {0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0xff, 0xff};
  return std::equal(kMapped.begin(), kMapped.end(), a.begin());
}

std::optional<Bytes> ToBytes(std::string numeric) {
  numeric.resize(std::min(numeric.find('%'), numeric.size()));  // the zone of a link-local address
  Bytes out{};
  if (inet_pton(AF_INET6, numeric.c_str(), out.data()) == 1) return out;
  out[10] = out[11] = 0xff;
  if (inet_pton(AF_INET, numeric.c_str(), out.data() + 12) == 1) return out;
  return std::nullopt;
}

struct Net {
  Bytes address;
  int bits;
};

bool Contains(const Net& net, const Bytes& a) {
  for (int i = 0; i < net.bits; ++i) {
    const int shift = 7 - i % 8;
    if (((net.address[static_cast<size_t>(i / 8)] ^ a[static_cast<size_t>(i / 8)]) >> shift & 1) != 0) return false;
  }
  return true;
}

Net V4(uint8_t a, uint8_t b, uint8_t c, int bits) {
  return {{0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0xff, 0xff, a, b, c, 0}, 96 + bits};
}

// Neither loopback, private (RFC 1918, 4193), shared (6598), link-local, documentation nor multicast.
bool IsPublic(const Bytes& a) {
  if (!IsV4(a)) {
    static const Net kGlobal = {{0x20}, 3};
    static const Net kDocumentation = {{0x20, 0x01, 0x0d, 0xb8}, 32};
    return Contains(kGlobal, a) && !Contains(kDocumentation, a);
  }
  // https://www.iana.org/assignments/iana-ipv4-special-registry
  static const Net kOthers[] = {V4(0, 0, 0, 8),      V4(10, 0, 0, 8),     V4(100, 64, 0, 10),  V4(127, 0, 0, 8),
                                V4(169, 254, 0, 16), V4(172, 16, 0, 12),  V4(192, 0, 0, 24),   V4(192, 0, 2, 24),
                                V4(192, 168, 0, 16), V4(198, 18, 0, 15),  V4(198, 51, 100, 24), V4(203, 0, 113, 24),
                                V4(224, 0, 0, 4),    V4(240, 0, 0, 4)};
  return std::none_of(std::begin(kOthers), std::end(kOthers), [&](const Net& net) { return Contains(net, a); });
}

bool AnyInterfaceIsPublic() {
  ifaddrs* list = nullptr;
  if (getifaddrs(&list) != 0) return true;  // not known: ask for the flag
  bool found = false;
  for (const ifaddrs* i = list; i != nullptr; i = i->ifa_next) {
    if (i->ifa_addr == nullptr) continue;
    Bytes bytes{};
    if (i->ifa_addr->sa_family == AF_INET6) {
      std::memcpy(bytes.data(), &reinterpret_cast<const sockaddr_in6*>(i->ifa_addr)->sin6_addr, 16);
    } else if (i->ifa_addr->sa_family == AF_INET) {
      bytes[10] = bytes[11] = 0xff;
      std::memcpy(bytes.data() + 12, &reinterpret_cast<const sockaddr_in*>(i->ifa_addr)->sin_addr, 4);
    } else {
      continue;
    }
    found = found || IsPublic(bytes);
  }
  freeifaddrs(list);
  return found;
}

// "[::1]:8080" -> "::1"; "LocalHost.:80" -> "localhost".
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

bool IsLoopback(const Bytes& a) {
  static const Net kV6 = {{0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 1}, 128};
  return Contains(V4(127, 0, 0, 8), a) || Contains(kV6, a);
}

bool IsLoopbackName(const std::string& name) {
  if (name == "localhost") return true;
  const auto bytes = ToBytes(name);
  return bytes.has_value() && IsLoopback(*bytes);
}

bool IsOurs(const std::string& name, const HostPolicy& policy) {
  if (std::find(policy.names.begin(), policy.names.end(), name) != policy.names.end()) return true;
  if (policy.listen.loopback) return IsLoopbackName(name);
  const auto bytes = ToBytes(name);
  if (policy.listen.wildcard) return bytes.has_value() || name == "localhost";
  return bytes.has_value() && bytes == ToBytes(policy.listen.host);
}

}  // namespace

absl::StatusOr<ListenAddress> ParseListen(const std::string& listen) {
  const size_t colon = listen.rfind(':');
  if (colon == std::string::npos || colon + 1 == listen.size() || listen.size() - colon > 6) {
    return InvalidArgument("the HTTP address '", listen, "' is not ADDRESS:PORT; for example 127.0.0.1:8080");
  }
  uint32_t port = 0;
  for (size_t i = colon + 1; i < listen.size(); ++i) {
    if (listen[i] < '0' || listen[i] > '9') {
      return InvalidArgument("the port of the HTTP address '", listen, "' is not a number; for example 127.0.0.1:8080");
    }
    port = port * 10 + static_cast<uint32_t>(listen[i] - '0');
  }
  if (port > 65535) return InvalidArgument("port ", port, " of the HTTP address '", listen, "' is above 65535");
  ListenAddress out;
  out.port = static_cast<uint16_t>(port);
  out.host = listen.substr(0, colon);
  if (out.host.size() > 2 && out.host.front() == '[' && out.host.back() == ']') {
    out.host = out.host.substr(1, out.host.size() - 2);
  }
  if (out.host == "localhost") out.host = "127.0.0.1";
  const auto bytes = ToBytes(out.host);
  if (!bytes.has_value()) {
    return InvalidArgument("the HTTP address '", listen, "' does not start with an IP address or localhost");
  }
  out.loopback = IsLoopback(*bytes);
  out.wildcard = std::all_of(bytes->begin() + 12, bytes->end(), [](uint8_t b) { return b == 0; }) &&
                 (IsV4(*bytes) || std::all_of(bytes->begin(), bytes->end(), [](uint8_t b) { return b == 0; }));
  out.is_public = out.wildcard ? AnyInterfaceIsPublic() : IsPublic(*bytes);
  return out;
}

std::string ClientGroup(const std::string& numeric) {
  const auto bytes = ToBytes(numeric);
  if (!bytes.has_value()) return numeric;
  if (IsV4(*bytes)) return std::string(bytes->begin() + 12, bytes->end());
  return std::string(bytes->begin(), bytes->begin() + 8);
}

std::string CheckHostAndOrigin(std::string_view host, std::string_view origin, const HostPolicy& policy) {
  if (!host.empty() && !IsOurs(HostName(host), policy)) {
    const std::string asked = absl::StrCat("the request came for host '", AbslView(host.substr(0, 100)), "'. ");
    if (policy.listen.loopback) {
      return absl::StrCat("This server listens on this machine only, but ", asked, "Use 127.0.0.1 or localhost.");
    }
    return absl::StrCat("This server does not go by that name: ", asked, "Use its address, or have the name configured.");
  }
  if (origin.empty()) return "";
  std::string_view authority = origin;
  std::string_view scheme;
  if (const size_t at = authority.find("://"); at != std::string_view::npos) {
    scheme = authority.substr(0, at);
    authority.remove_prefix(at + 3);
  }
  const bool same = !host.empty() && authority == host && scheme == (policy.tls ? "https" : "http");
  if (same || (policy.listen.loopback && !scheme.empty() && IsLoopbackName(HostName(authority)))) return "";
  return absl::StrCat("Requests from web pages of another origin ('", AbslView(origin.substr(0, 100)),
                      "') are not accepted.");
}

}  // namespace lanyard::web
