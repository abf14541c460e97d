#include "base/ip.h"

#include <arpa/inet.h>

#include <algorithm>
#include <charconv>

namespace lanyard {
namespace {

bool IsIn(const std::vector<Network>& networks, const IpAddress& address) {
  return std::any_of(networks.begin(), networks.end(),
                     [&](const Network& n) { return n.Contains(address); });
}

std::vector<Network> Constant(std::initializer_list<const char*> texts) {
  std::vector<Network> out;
  for (const char* text : texts) out.push_back(*Network::Parse(text));
  return out;
}

}  // namespace

IpAddress IpAddress::V4(uint8_t a, uint8_t b, uint8_t c, uint8_t d) {
  return IpAddress({0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0xff, 0xff, a, b, c, d});
}

std::optional<IpAddress> IpAddress::Parse(std::string numeric) {
  Bytes bytes{};
  if (inet_pton(AF_INET, numeric.c_str(), bytes.data()) == 1)
    return V4(bytes[0], bytes[1], bytes[2], bytes[3]);
  numeric.resize(std::min(numeric.find('%'), numeric.size()));
  if (inet_pton(AF_INET6, numeric.c_str(), bytes.data()) == 1) return IpAddress(bytes);
  return std::nullopt;
}

bool IpAddress::is_v4() const {
  const Bytes mapped = V4(0, 0, 0, 0).bytes_;
  return std::equal(mapped.begin(), mapped.begin() + 12, bytes_.begin());
}

bool IpAddress::is_loopback() const {
  static const auto kLoopback = Constant({"127.0.0.0/8", "::1"});
  return IsIn(kLoopback, *this);
}

bool IpAddress::is_unspecified() const { return *this == IpAddress() || *this == V4(0, 0, 0, 0); }

bool IpAddress::is_public() const {
  // https://www.iana.org/assignments/iana-ipv4-special-registry and iana-ipv6-special-registry
  static const auto kGlobal6 = Constant({"2000::/3"});
  static const auto kOthers = Constant(
      {"2001:db8::/32", "0.0.0.0/8", "10.0.0.0/8", "100.64.0.0/10", "127.0.0.0/8", "169.254.0.0/16",
       "172.16.0.0/12", "192.0.0.0/24", "192.0.2.0/24", "192.168.0.0/16", "198.18.0.0/15",
       "198.51.100.0/24", "203.0.113.0/24", "224.0.0.0/4", "240.0.0.0/4"});
  return (is_v4() || IsIn(kGlobal6, *this)) && !IsIn(kOthers, *this);
}

IpAddress IpAddress::Client() const {
  if (is_v4() || is_loopback()) return *this;
  Bytes bytes = bytes_;
  std::fill(bytes.begin() + 8, bytes.end(), uint8_t{0});
  return IpAddress(bytes);
}

absl::StatusOr<Network> Network::Parse(const std::string& text) {
  const size_t slash = text.find('/');
  const std::optional<IpAddress> address = IpAddress::Parse(text.substr(0, slash));
  bool good = address.has_value();
  const bool dotted = text.find(':') == std::string::npos;  // says how the bits are meant
  const int most = dotted ? 32 : 128;
  int bits = most;
  if (good && slash != std::string::npos) {
    const char* end = text.data() + text.size();
    const auto [stopped, error] = std::from_chars(text.data() + slash + 1, end, bits);
    good = error == std::errc() && stopped == end && bits >= 0 && bits <= most;
  }
  if (!good)
    return InvalidArgument("'", text, "' is not a network like 192.168.1.0/24 or fd00::/8");
  return Network{*address, dotted ? bits + 96 : bits};
}

bool Network::Contains(const IpAddress& other) const {
  for (int bit = 0; bit < prefix_bits; bit += 8) {
    const auto i = static_cast<size_t>(bit / 8);
    const int mask = 0xff << (8 - std::min(8, prefix_bits - bit));
    if (((address.bytes()[i] ^ other.bytes()[i]) & mask & 0xff) != 0) return false;
  }
  return true;
}

absl::StatusOr<std::vector<Network>> ParseNetworks(const std::vector<std::string>& texts) {
  std::vector<Network> out;
  for (const std::string& text : texts) {
    ASSIGN_OR_RETURN(Network network, Network::Parse(text));
    out.push_back(network);
  }
  return out;
}

const std::vector<Network>& OfficeNetworks() {
  static const auto kOffice =
      Constant({"127.0.0.0/8", "10.0.0.0/8", "172.16.0.0/12", "192.168.0.0/16", "169.254.0.0/16",
                "100.64.0.0/10", "::1", "fc00::/7", "fe80::/10"});
  return kOffice;
}

}  // namespace lanyard
