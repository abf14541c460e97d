#include "coordinator/cluster/membership.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <cmath>
#include <functional>
#include <vector>

#include "base/version.h"
#include "net/convert_control.h"
#include "stage/speed.h"

namespace lanyard::coordinator {
namespace {

using ::testing::HasSubstr;

net::WorkerHello Hello(const std::string& name) {
  net::WorkerHello hello;
  hello.name = name;
  hello.version = kVersion;
  hello.protocol = kProtocolVersion;
  hello.stage_address = "127.0.0.1:7000";
  hello.memory_bytes = 1 << 30;
  hello.base_bytes = 1 << 20;
  return hello;
}

TEST(Membership, JoinsBeatsAndLeaves) {
  Membership m({});
  EXPECT_TRUE(m.OnHello(net::LinkId(1), Hello("w1"), 0).status.ok());
  EXPECT_TRUE(m.OnHello(net::LinkId(2), Hello("w2"), 0).status.ok());
  EXPECT_TRUE(m.OnMessage(net::LinkId(1), 5));
  EXPECT_FALSE(m.OnMessage(net::LinkId(9), 5));
  m.OnHeartbeat(net::LinkId(1), {77, std::nan(""), 3});
  EXPECT_EQ(m.FindByName("w1")->heartbeat.resident_bytes, 77u);
  EXPECT_EQ(m.FindByName("w1")->heartbeat.busy, 0);
  EXPECT_EQ(m.OnGone(net::LinkId(1))->hello.name, "w1");
  EXPECT_FALSE(m.OnGone(net::LinkId(1)));
  EXPECT_EQ(m.members().size(), 1u);
}

TEST(Membership, SilenceEndsMembership) {
  Membership m({});
  m.OnHello(net::LinkId(1), Hello("w1"), 0);
  m.OnHello(net::LinkId(2), Hello("w2"), 0);
  m.OnMessage(net::LinkId(2), kSecond);
  EXPECT_TRUE(m.Expire(net::kDeadAfterMs * kMillisecond - 1).empty());
  const auto gone = m.Expire(net::kDeadAfterMs * kMillisecond);
  ASSERT_EQ(gone.size(), 1u);
  EXPECT_EQ(gone[0].hello.name, "w1");
  EXPECT_EQ(m.Find(net::LinkId(1)), nullptr);
}

TEST(Membership, ATwinIsRefusedUnlessTheFirstIsSilent) {
  Membership m({});
  m.OnHello(net::LinkId(1), Hello("w1"), 0);
  const auto twin = m.OnHello(net::LinkId(2), Hello("w1"), 300 * kMillisecond);
  EXPECT_TRUE(absl::IsAlreadyExists(twin.status));
  EXPECT_THAT(std::string(twin.status.message()), HasSubstr("--name"));
  EXPECT_EQ(m.FindByName("w1")->link, net::LinkId(1));
  const auto heir = m.OnHello(net::LinkId(3), Hello("w1"), kSecond);
  EXPECT_TRUE(heir.status.ok());
  ASSERT_TRUE(heir.replaced);
  EXPECT_EQ(heir.replaced->link, net::LinkId(1));
  EXPECT_FALSE(m.OnMessage(net::LinkId(1), kSecond));
}

TEST(Membership, ACopiedDiskIsRefusedByName) {
  Membership m({});
  net::WorkerHello first = Hello("w1");
  first.node = "f00d";
  first.from = "10.0.0.3:41000";
  first.pid = 7;
  net::WorkerHello copy = first;
  copy.from = "10.0.0.4:52000";
  copy.stage_address = "10.0.0.4:7000";
  ASSERT_TRUE(m.OnHello(net::LinkId(1), first, 0).status.ok());
  const auto refused = m.OnHello(net::LinkId(2), copy, 300 * kMillisecond);
  EXPECT_TRUE(absl::IsAlreadyExists(refused.status));
  for (const char* words : {"two machines", "'w1'", "node f00d", "10.0.0.3:41000", "10.0.0.4:52000",
                            "token create", "lanyard node revoke w1"}) {
    EXPECT_THAT(std::string(refused.status.message()), HasSubstr(words));
  }
  // The same program that comes again before its earlier link was given up, and another node of the
  // name: no copies.
  net::WorkerHello again = first;
  again.from = "10.0.0.3:41001";
  net::WorkerHello other = copy;
  other.node = "beef";
  for (const net::WorkerHello& hello : {again, other}) {
    const absl::Status status = m.OnHello(net::LinkId(3), hello, 300 * kMillisecond).status;
    EXPECT_THAT(std::string(status.message()), ::testing::Not(HasSubstr("two machines")));
    EXPECT_TRUE(absl::IsAlreadyExists(status));
  }
}

// What one of them takes and the other refuses would let a worker join and then never serve.
TEST(Membership, RefusesWhatTheWireRefusesInTheSameWords) {
  const std::vector<std::function<void(net::WorkerHello&)>> spoilt = {
      [](auto& h) { h.name = ""; },
      [](auto& h) { h.name = "-w"; },
      [](auto& h) { h.name = "w/1"; },
      [](auto& h) { h.name = std::string(65, 'a'); },
      [](auto& h) { h.stage_address = "host"; },
      [](auto& h) { h.stage_address = "a b:1"; },
      [](auto& h) { h.stage_address = "host:65536"; },
      [](auto& h) { h.isa = "avx\n"; },
      [](auto& h) { h.speed = 0; },
      [](auto& h) { h.speed = std::nan(""); },
      [](auto& h) { h.speed = HUGE_VAL; },
      [](auto& h) { h.speed = stage::kMaxSpeed * 1.01; },
      [](auto& h) { h.threads = 0; },
      [](auto& h) { h.threads = stage::kMaxThreads + 1; },
      [](auto& h) {
        h.devices = {{"cuda", "cuda:0", "", 1, stage::kMaxSpeed * 1.01}};
      },
      [](auto& h) {
        h.devices = {{"cuda", "cpu", "", 1, 1}};
      },
      [](auto& h) {
        h.devices = {{"cuda", "cuda:0", "", 1, 1}, {"cuda", "cuda:0", "", 1, 1}};
      },
  };
  for (size_t i = 0; i < spoilt.size(); ++i) {
    SCOPED_TRACE(i);
    net::WorkerHello hello = Hello("w1");
    spoilt[i](hello);
    const absl::Status here = Membership({}).OnHello(net::LinkId(1), hello, 0).status;
    v1::WorkerMessage message;
    net::ToProto(net::WorkerEvent(hello), &message);
    EXPECT_TRUE(absl::IsInvalidArgument(here)) << here;
    EXPECT_EQ(net::FromProto(message).status(), here);
  }
  for (const double speed : {1e-9, 1.0, stage::kMaxSpeed}) {
    net::WorkerHello hello = Hello("w1");
    hello.speed = speed;
    hello.threads = stage::kMaxThreads;
    EXPECT_TRUE(Membership({}).OnHello(net::LinkId(1), hello, 0).status.ok()) << speed;
    v1::WorkerMessage message;
    net::ToProto(net::WorkerEvent(hello), &message);
    EXPECT_TRUE(net::FromProto(message).ok()) << speed;
  }
}

TEST(Membership, NonsenseIsRefused) {
  Membership m({});
  const auto refused = [&](auto change) {
    net::WorkerHello hello = Hello("w1");
    change(hello);
    return std::string(m.OnHello(net::LinkId(1), hello, 0).status.message());
  };
  EXPECT_THAT(refused([](auto& h) { h.protocol = 9; }), HasSubstr("protocol 9"));
  EXPECT_THAT(refused([](auto& h) { h.protocol = kProtocolVersion + 1; }), HasSubstr(kVersion));
  EXPECT_THAT(refused([](auto& h) { h.numerics = kNumericsVersion + 1; }),
              HasSubstr("numerics version"));
  EXPECT_THAT(refused([](auto& h) { h.name = ""; }), HasSubstr("name"));
  EXPECT_THAT(refused([](auto& h) { h.name = "../x"; }), HasSubstr("name"));
  EXPECT_THAT(refused([](auto& h) { h.speed = std::nan(""); }), HasSubstr("speed"));
  EXPECT_THAT(refused([](auto& h) { h.speed = -1; }), HasSubstr("speed"));
  EXPECT_THAT(refused([](auto& h) { h.threads = 0; }), HasSubstr("threads"));
  EXPECT_THAT(refused([](auto& h) { h.base_bytes = h.memory_bytes; }), HasSubstr("--memory"));
  EXPECT_THAT(refused([](auto& h) { h.stage_address = "x"; }), HasSubstr("host:port"));
  EXPECT_TRUE(m.members().empty());
  EXPECT_EQ(refused([](auto&) {}), "");
  EXPECT_NE(refused([](auto& h) { h.name = "w2"; }), "");  // a second hello on one link
}

}  // namespace
}  // namespace lanyard::coordinator
