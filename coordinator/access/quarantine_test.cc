#include "coordinator/access/quarantine.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

namespace lanyard::coordinator {
namespace {

using ::testing::HasSubstr;

TimeNs g_now = 0;

class Members final : public identity::PeerPolicy {
 public:
  absl::Status Check(const identity::Peer& peer) const override {
    return peer.node == "out" ? absl::PermissionDeniedError("was revoked") : absl::OkStatus();
  }
};

identity::Peer PeerOf(const std::string& node) {
  identity::Peer peer;
  peer.node = node;
  peer.name = "pc-" + node;
  return peer;
}

class QuarantineTest : public ::testing::Test {
 protected:
  QuarantineTest() { g_now = 1000 * kSecond; }
  void Violate(const std::string& node) {
    quarantine_.OnViolation(PeerOf(node), InvalidArgument("a layer of -1"));
  }
  absl::Status Check(const std::string& node) { return quarantine_.Check(PeerOf(node)); }

  Quarantine quarantine_{std::make_shared<Members>(), {}, [] { return g_now; }};
};

TEST_F(QuarantineTest, AfterThreeViolationsTheNodeAloneIsRefusedForFiveMinutes) {
  Violate("a");
  Violate("a");
  Violate("b");
  EXPECT_TRUE(Check("a").ok());
  Violate("a");
  EXPECT_TRUE(absl::IsPermissionDenied(Check("a")));
  for (const char* words :
       {"'pc-a'", "quarantine for 300 s", "a layer of -1", "node revoke pc-a"}) {
    EXPECT_THAT(std::string(Check("a").message()), HasSubstr(words));
  }
  EXPECT_TRUE(Check("b").ok());
  g_now += 299 * kSecond;
  EXPECT_FALSE(Check("a").ok());
  g_now += kSecond;
  EXPECT_TRUE(Check("a").ok());
  Violate("a");  // counted anew
  EXPECT_TRUE(Check("a").ok());
}

TEST_F(QuarantineTest, RareViolationsDoNotAddUp) {
  for (int i = 0; i < 20; ++i) {
    Violate("a");
    g_now += 31 * kSecond;
    EXPECT_TRUE(Check("a").ok()) << i;
  }
}

TEST_F(QuarantineTest, WhoIsNoMemberHearsThatFirst) {
  for (int i = 0; i < 3; ++i) Violate("out");
  EXPECT_THAT(std::string(Check("out").message()), HasSubstr("revoked"));
}

}  // namespace
}  // namespace lanyard::coordinator
