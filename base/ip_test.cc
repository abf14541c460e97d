#include "base/ip.h"

#include <gtest/gtest.h>

#include <algorithm>

namespace lanyard {
namespace {

TEST(IpAddress, ReadsNumbersAlone) {
  EXPECT_EQ(IpAddress::Parse("10.1.2.3"), IpAddress::V4(10, 1, 2, 3));
  EXPECT_EQ(IpAddress::Parse("::ffff:10.1.2.3"), IpAddress::V4(10, 1, 2, 3));
  EXPECT_EQ(IpAddress::Parse("fe80::1%eth0"), IpAddress::Parse("fe80::1"));
  EXPECT_TRUE(IpAddress::Parse("::")->is_unspecified());
  EXPECT_TRUE(IpAddress::Parse("0.0.0.0")->is_unspecified());
  EXPECT_FALSE(IpAddress::Parse("10.0.0.0")->is_unspecified());
  for (const char* bad : {"", "localhost", "10.0.0", "10.0.0.256", "[::1]", "10.0.0.1%eth0",
                          "1::2::3", "10.0.0.1 "}) {
    EXPECT_FALSE(IpAddress::Parse(bad).has_value()) << bad;
  }
}

TEST(IpAddress, OneClientIsAnIpv4AddressOrAnIpv6Network) {
  const auto client = [](const char* text) { return IpAddress::Parse(text)->Client(); };
  EXPECT_EQ(client("10.1.2.3"), client("::ffff:10.1.2.3"));
  EXPECT_NE(client("10.1.2.3"), client("10.1.2.4"));
  EXPECT_EQ(client("2a00:1:2:3::1"), client("2a00:1:2:3:ffff::2"));
  EXPECT_NE(client("2a00:1:2:3::1"), client("2a00:1:2:4::1"));
  EXPECT_NE(client("::1"), client("::2"));
}

TEST(OfficeNetworks, HoldNoPublicAddress) {
  const auto office = [](const char* text) {
    const auto& all = OfficeNetworks();
    return std::any_of(all.begin(), all.end(),
                       [&](const Network& n) { return n.Contains(*IpAddress::Parse(text)); });
  };
  for (const char* near : {"127.0.0.1", "::1", "10.255.0.1", "172.31.0.1", "192.168.9.9",
                           "169.254.1.1", "100.127.0.1", "fd12::1", "fe80::7"}) {
    EXPECT_TRUE(office(near)) << near;
    EXPECT_FALSE(IpAddress::Parse(near)->is_public()) << near;
  }
  for (const char* far : {"8.8.8.8", "172.32.0.1", "192.169.0.1", "100.128.0.1", "2a00::1"}) {
    EXPECT_FALSE(office(far)) << far;
    EXPECT_TRUE(IpAddress::Parse(far)->is_public()) << far;
  }
}

TEST(Network, ContainsWhatItSays) {
  const auto in = [](const char* network, const char* address) {
    return Network::Parse(network)->Contains(Network::Parse(address)->address);
  };
  EXPECT_TRUE(in("10.0.0.0/8", "10.255.1.2"));
  EXPECT_FALSE(in("10.0.0.0/8", "11.0.0.1"));
  EXPECT_TRUE(in("192.168.4.0/22", "192.168.7.255"));
  EXPECT_FALSE(in("192.168.4.0/22", "192.168.8.0"));
  EXPECT_TRUE(in("fd00::/8", "fd12::1"));
  EXPECT_FALSE(in("fd00::/8", "fe80::1"));
  EXPECT_TRUE(in("0.0.0.0/0", "8.8.8.8"));
  EXPECT_FALSE(in("0.0.0.0/0", "2001::1"));
  EXPECT_TRUE(in("127.0.0.1", "127.0.0.1"));
  for (const char* bad :
       {"", "10.0.0.0/33", "10.0.0/8", "x", "10.0.0.0/", "10.0.0.0/8x", "::/129"}) {
    EXPECT_FALSE(Network::Parse(bad).ok()) << bad;
  }
}

}  // namespace
}  // namespace lanyard
