#include "web/address.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

namespace lanyard::web {
namespace {

using testing::ElementsAre;
using testing::HasSubstr;
using testing::Not;

HostPolicy PolicyOf(const std::string& listen, std::vector<std::string> names = {},
                    bool tls = false) {
  const auto address = ParseListen(listen);
  EXPECT_TRUE(address.ok()) << address.status();
  return {*address, std::move(names), tls};
}

TEST(ParseListenTest, SaysWhoCanReachIt) {
  const auto parse = [](const char* text) { return *ParseListen(text); };
  EXPECT_TRUE(parse("127.0.0.1:80").loopback);
  EXPECT_TRUE(parse("localhost:80").loopback);
  EXPECT_TRUE(parse("127.9.9.9:80").loopback);
  EXPECT_TRUE(parse("[::1]:80").loopback);
  EXPECT_TRUE(parse("[::ffff:127.0.0.1]:80").loopback);
  for (const char* lan :
       {"192.168.1.2:80", "10.0.0.1:80", "172.16.0.1:80", "172.31.255.255:80", "100.64.1.1:80",
        "169.254.0.1:80", "[fe80::1]:80", "[fd00::1]:80", "[2001:db8::1]:80"}) {
    EXPECT_FALSE(parse(lan).loopback) << lan;
    EXPECT_FALSE(parse(lan).is_public) << lan;
  }
  for (const char* open : {"8.8.8.8:80", "172.32.0.1:80", "192.169.0.1:80", "100.128.0.1:80",
                           "[2a00::1]:80", "[::ffff:8.8.8.8]:80"}) {
    EXPECT_TRUE(parse(open).is_public) << open;
  }
  EXPECT_TRUE(parse("0.0.0.0:80").wildcard);
  EXPECT_TRUE(parse("[::]:80").wildcard);
  EXPECT_FALSE(parse("0.0.0.0:80").loopback);
  EXPECT_FALSE(parse("10.0.0.0:80").wildcard);
  EXPECT_EQ(parse("[::1]:8080").host, "::1");
  EXPECT_EQ(parse("[::1]:8080").port, 8080);
}

TEST(ClientGroupTest, AnIpv6NetworkIsOneClient) {
  EXPECT_EQ(ClientGroup("10.1.2.3"), ClientGroup("::ffff:10.1.2.3"));
  EXPECT_NE(ClientGroup("10.1.2.3"), ClientGroup("10.1.2.4"));
  EXPECT_EQ(ClientGroup("2a00:1:2:3::1"), ClientGroup("2a00:1:2:3:ffff::2"));
  EXPECT_NE(ClientGroup("2a00:1:2:3::1"), ClientGroup("2a00:1:2:4::1"));
}

TEST(HostTest, Loopback) {
  const HostPolicy policy = PolicyOf("127.0.0.1:8080", {"pool.example"});
  for (const char* host : {"localhost", "LOCALHOST:8080", "127.0.0.1:1", "127.1.2.3", "[::1]:80",
                           "localhost.", "", "Pool.example:1"}) {
    EXPECT_EQ(CheckHost(host, policy), "") << host;
  }
  for (const char* host : {"evil.example", "127.evil.example", "localhost.evil.example:80",
                           "10.0.0.1", "[::2]", "x127.0.0.1", "pool.example.evil", "[", "]"}) {
    EXPECT_NE(CheckHost(host, policy), "") << host;
  }
}

TEST(HostTest, AnUnknownNameIsToldHowItBecomesKnown) {
  const HostPolicy loopback = PolicyOf("127.0.0.1:1234", {});
  EXPECT_THAT(CheckHost("PC1.lan:80", loopback), HasSubstr("--http-name pc1.lan"));
  EXPECT_THAT(CheckHost("PC1.lan:80", PolicyOf("0.0.0.0:1234", {}, true)),
              HasSubstr("--http-name pc1.lan"));
  // What is no name is not made a part of a command.
  for (const char* bad : {"a b", "a;rm", "$(x)", "-x", "[fd00::1]"})
    EXPECT_THAT(CheckHost(bad, loopback), Not(HasSubstr("--http-name"))) << bad;
}

TEST(HostNamesTest, AsPeopleWriteThem) {
  EXPECT_THAT(*ParseHostNames({"PC1.Lan", "pool_2.", "10.1.2.3", "FD00::1"}),
              ElementsAre("pc1.lan", "pool_2", "10.1.2.3", "fd00::1"));
  for (const char* bad : {"https://pc1", "pc1:8080", "", "a b", "pc1/x", "*.lan"}) {
    const auto names = ParseHostNames({"good", bad});
    EXPECT_EQ(names.status().code(), absl::StatusCode::kInvalidArgument) << bad;
    EXPECT_THAT(std::string(names.status().message()), HasSubstr(absl::StrCat("'", bad, "'")));
  }
}

TEST(HostTest, BeyondLoopback) {
  const HostPolicy one = PolicyOf("192.168.1.10:8080", {"pc1", "pc1.example"}, true);
  for (const char* host : {"192.168.1.10:8080", "pc1:8080", "PC1.example"}) {
    EXPECT_EQ(CheckHost(host, one), "") << host;
  }
  for (const char* host :
       {"evil.example", "192.168.1.11", "localhost", "127.0.0.1", "pc1.evil.example"}) {
    EXPECT_NE(CheckHost(host, one), "") << host;
  }
  // Whatever number this machine has; names only if they were given.
  const HostPolicy any = PolicyOf("0.0.0.0:8080", {"pc1"});
  for (const char* host : {"192.168.1.10:8080", "10.0.0.1", "[fd00::1]:8080", "pc1", "localhost"}) {
    EXPECT_EQ(CheckHost(host, any), "") << host;
  }
  EXPECT_NE(CheckHost("evil.example", any), "");
}

}  // namespace
}  // namespace lanyard::web
