// IP addresses as numbers: networks, which addresses count as one client, and which the internet
// can reach. No sockets and no names are involved.
#pragma once

#include <array>
#include <compare>
#include <cstdint>
#include <optional>
#include <string>
#include <vector>

#include "base/status.h"

namespace lanyard {

// An IPv6 address; the IPv4 address a.b.c.d is ::ffff:a.b.c.d. It is a value; the default is "::".
class IpAddress {
 public:
  using Bytes = std::array<uint8_t, 16>;

  IpAddress() = default;
  explicit IpAddress(const Bytes& bytes) : bytes_(bytes) {}
  static IpAddress V4(uint8_t a, uint8_t b, uint8_t c, uint8_t d);
  // Takes "10.0.0.1" or "fe80::1%eth0" (the zone is dropped), without brackets. Other texts give
  // nullopt.
  static std::optional<IpAddress> Parse(std::string numeric);

  bool is_v4() const;
  bool is_loopback() const;
  bool is_unspecified() const;  // 0.0.0.0 and ::
  // True when IANA's special registries do not list it as loopback, private (RFC 1918, 4193),
  // shared (6598), link-local, documentation or multicast.
  bool is_public() const;
  // The unit by which limits per client count: the address, or the first 64 bits of an IPv6
  // address, since one machine may have the rest.
  IpAddress Client() const;

  const Bytes& bytes() const { return bytes_; }
  auto operator<=>(const IpAddress&) const = default;

 private:
  Bytes bytes_{};
};

struct Network {
  IpAddress address;
  int prefix_bits = 128;  // an IPv4 network's prefix is 96 more than written

  // Takes "10.0.0.0/8", "fd00::/8" or "192.168.1.7". Otherwise InvalidArgument holds the text.
  static absl::StatusOr<Network> Parse(const std::string& text);
  bool Contains(const IpAddress& other) const;
};
absl::StatusOr<std::vector<Network>> ParseNetworks(const std::vector<std::string>& texts);

// An office's networks: loopback, link-local and private ones (RFC 1918, 6598, 4193).
const std::vector<Network>& OfficeNetworks();

}  // namespace lanyard
