// IP addresses as numbers: networks, what counts as one client, and what the internet can reach. No
// sockets, no names.
#pragma once

#include <array>
#include <compare>
#include <cstdint>
#include <optional>
#include <string>
#include <vector>

#include "base/status.h"

namespace lanyard {

// IPv6; an IPv4 address a.b.c.d is ::ffff:a.b.c.d. A value; default: "::".
class IpAddress {
 public:
  using Bytes = std::array<uint8_t, 16>;

  IpAddress() = default;
  explicit IpAddress(const Bytes& bytes) : bytes_(bytes) {}
  static IpAddress V4(uint8_t a, uint8_t b, uint8_t c, uint8_t d);
  // "10.0.0.1", "fe80::1%eth0" (the zone is dropped), no brackets. nullopt: anything else.
  static std::optional<IpAddress> Parse(std::string numeric);

  bool is_v4() const;
  bool is_loopback() const;
  bool is_unspecified() const;  // 0.0.0.0 and ::
  // By the special registries of IANA: neither loopback, private (RFC 1918, 4193), shared (6598),
  // link-local, documentation nor multicast.
  bool is_public() const;
  // What limits per client count by: the address, or the first 64 bits of an IPv6 one (one machine
  // may have the rest).
  IpAddress Client() const;

  const Bytes& bytes() const { return bytes_; }
  auto operator<=>(const IpAddress&) const = default;

 private:
  Bytes bytes_{};
};

struct Network {
  IpAddress address;
  int prefix_bits = 128;  // of 128; an IPv4 network's are 96 more than written

  // "10.0.0.0/8", "fd00::/8", "192.168.1.7". InvalidArgument with the text otherwise.
  static absl::StatusOr<Network> Parse(const std::string& text);
  bool Contains(const IpAddress& other) const;
};
absl::StatusOr<std::vector<Network>> ParseNetworks(const std::vector<std::string>& texts);

// An office's: loopback, link-local and private ones (RFC 1918, 6598, 4193).
const std::vector<Network>& OfficeNetworks();

}  // namespace lanyard
