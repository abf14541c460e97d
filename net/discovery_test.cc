#include "net/discovery.h"

#include <arpa/inet.h>
#include <gtest/gtest.h>
#include <netinet/in.h>
#include <sys/socket.h>
#include <unistd.h>

#include "absl/strings/escaping.h"
#include "net/join.h"
#include "net/stage_server.h"
#include "net/testing_identity.h"
#include "net/testing_sinks.h"

namespace lanyard::net {
namespace {

const std::string kNonce(16, 'n');
const Beacon kBeacon{"0123456789abcdef", "0.1.0", {"10.0.0.1:7300", "[fd00::1]:7300", ":7300"}};

TEST(DiscoveryTest, MessagesComeBackAsTheyWere) {
  EXPECT_EQ(DecodeQuery(EncodeQuery(kNonce)).value(), kNonce);
  const auto back = DecodeAnswer(kNonce, EncodeAnswer(kNonce, kBeacon));
  ASSERT_TRUE(back.ok()) << back.status();
  EXPECT_EQ(back->cluster, kBeacon.cluster);
  EXPECT_EQ(back->version, kBeacon.version);
  EXPECT_EQ(back->addresses, kBeacon.addresses);
}

TEST(DiscoveryTest, AnAnswerIsNeverLongerThanItsQuery) {
  Beacon many = kBeacon;
  many.addresses.assign(100, std::string(200, 'h') + ":1");
  EXPECT_LE(EncodeAnswer(kNonce, many).size(), EncodeQuery(kNonce).size());
}

TEST(DiscoveryTest, WhatIsNotOursIsNotUnderstood) {
  const std::string query = EncodeQuery(kNonce), answer = EncodeAnswer(kNonce, kBeacon);
  for (size_t n = 0; n < query.size(); n += 7)
    EXPECT_FALSE(DecodeQuery(query.substr(0, n)).ok()) << n;
  EXPECT_FALSE(DecodeQuery(query + "x").ok());
  EXPECT_FALSE(DecodeAnswer(std::string(16, 'm'), answer).ok());  // to another query
  for (size_t n = 0; n < answer.size() - 22; ++n)
    EXPECT_FALSE(DecodeAnswer(kNonce, answer.substr(0, n)).ok()) << n;
  const auto with = [](const Beacon& beacon) {
    return DecodeAnswer(kNonce, EncodeAnswer(kNonce, beacon)).ok();
  };
  EXPECT_FALSE(with({"not a cluster", "1", {":1"}}));
  EXPECT_FALSE(with({kBeacon.cluster, "1", {}}));
  EXPECT_FALSE(with({kBeacon.cluster, "1", {"no port"}}));
  EXPECT_FALSE(with({kBeacon.cluster, "1", {":99999"}}));
  EXPECT_FALSE(with({kBeacon.cluster, "1", {"a:1", "b:1", "c:1", "d:1", "e:1"}}));
  EXPECT_EQ(DecodeAnswer(kNonce, EncodeAnswer(kNonce, {kBeacon.cluster, "1\x1b[2J", {":1"}}))
                ->version.find('\x1b'),
            std::string::npos);
}

TEST(DiscoveryTest, AnswersAreLimited) {
  AnswerLimiter limiter;
  int one = 0, all = 0;
  for (int i = 0; i < 100; ++i) one += limiter.MayAnswer("10.0.0.1", 5) ? 1 : 0;
  for (int i = 0; i < 1000; ++i) all += limiter.MayAnswer(absl::StrCat("10.0.1.", i), 6) ? 1 : 0;
  EXPECT_EQ(one, 8);
  EXPECT_EQ(one + all, 64);
  EXPECT_TRUE(limiter.MayAnswer("10.0.0.1", 5 + kSecond));
}

// A coordinator's join port over loopback, and the responder that speaks for it.
class DiscoveryLoopbackTest : public ::testing::Test {
 protected:
  void SetUp() override {
    ServerOptions options;
    options.security.credential = coordinator_;
    options.join = [](const JoinRequest&) -> absl::StatusOr<JoinReply> {
      return Internal("nobody is to ask");
    };
    auto server = StageServer::Start(options, &sink_);  // any server has the join port
    ASSERT_TRUE(server.ok()) << server.status();
    server_ = *std::move(server);
    auto responder =
        DiscoveryResponder::Start({cluster_.authority().cluster(), server_->address(), 0});
    ASSERT_TRUE(responder.ok()) << responder.status();
    responder_ = *std::move(responder);
  }
  DiscoverOptions Options() const { return {700, responder_->port()}; }

  const testing::TestCluster cluster_;
  const std::shared_ptr<identity::LiveCredential> coordinator_ = cluster_.Coordinator();
  testing::RecordingSink sink_;
  std::unique_ptr<StageServer> server_;
  std::unique_ptr<DiscoveryResponder> responder_;
};

TEST_F(DiscoveryLoopbackTest, IsFoundAndProvesItself) {
  const auto found = Discover(Options());
  ASSERT_TRUE(found.ok()) << found.status();
  ASSERT_EQ(found->size(), 1u);
  EXPECT_EQ(found->front().cluster, cluster_.authority().cluster());
  EXPECT_EQ(found->front().addresses, std::vector<std::string>{server_->address()});
  const auto address = FindCoordinator(cluster_.authority().fingerprint(), Options());
  ASSERT_TRUE(address.ok()) << address.status();
  EXPECT_EQ(*address, server_->address());
}

TEST_F(DiscoveryLoopbackTest, AnotherClustersTokenFindsNothing) {
  const testing::TestCluster other;
  const auto address = FindCoordinator(other.authority().fingerprint(), Options());
  EXPECT_TRUE(absl::IsNotFound(address.status())) << address.status();
  EXPECT_NE(address.status().message().find(cluster_.authority().cluster()),
            absl::string_view::npos);
}

TEST_F(DiscoveryLoopbackTest, AnImpostorIsNotJoined) {
  // It answers with the cluster's id and its own address.
  const testing::TestCluster impostor;
  ServerOptions options;
  options.security.credential = impostor.Coordinator();
  options.join = [](const JoinRequest&) -> absl::StatusOr<JoinReply> {
    return Internal("nobody is to ask");
  };
  const auto theirs = StageServer::Start(options, &sink_);
  ASSERT_TRUE(theirs.ok());
  const auto liar =
      DiscoveryResponder::Start({cluster_.authority().cluster(), (*theirs)->address(), 0});
  ASSERT_TRUE(liar.ok());
  const auto address = FindCoordinator(cluster_.authority().fingerprint(), {700, (*liar)->port()});
  EXPECT_FALSE(address.ok());
  EXPECT_NE(address.status().message().find("cannot be used"), absl::string_view::npos)
      << address.status();
}

TEST_F(DiscoveryLoopbackTest, NoiseGetsNoAnswer) {
  const int fd = socket(AF_INET, SOCK_DGRAM, 0);
  timeval wait{.tv_sec = 0, .tv_usec = 300'000};
  setsockopt(fd, SOL_SOCKET, SO_RCVTIMEO, &wait, sizeof(wait));
  sockaddr_in to{};
  to.sin_family = AF_INET;
  to.sin_port = htons(responder_->port());
  to.sin_addr.s_addr = htonl(INADDR_LOOPBACK);
  char answer[1024];
  for (const std::string& bytes :
       {std::string("hello"), std::string(512, 'x'), EncodeQuery(kNonce).substr(0, 100)}) {
    sendto(fd, bytes.data(), bytes.size(), 0, reinterpret_cast<sockaddr*>(&to), sizeof(to));
    EXPECT_LT(recv(fd, answer, sizeof(answer), 0), 0);
  }
  const std::string query = EncodeQuery(kNonce);
  sendto(fd, query.data(), query.size(), 0, reinterpret_cast<sockaddr*>(&to), sizeof(to));
  const ssize_t n = recv(fd, answer, sizeof(answer), 0);
  EXPECT_GT(n, 0);
  EXPECT_LE(n, static_cast<ssize_t>(query.size()));
  close(fd);
}

}  // namespace
}  // namespace lanyard::net
