// Links between nodes with certificates, over loopback: who gets in, who does not, and what changes
// while streams run.
#include "identity/tls.h"

#include <arpa/inet.h>
#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <openssl/pem.h>
#include <openssl/ssl.h>
#include <sys/resource.h>
#include <sys/socket.h>
#include <unistd.h>

#include <cstring>

#include "identity/join_token.h"
#include "identity/key_pair.h"
#include "net/channel.h"
#include "net/coordinator_client.h"
#include "net/stage_server.h"
#include "net/testing_identity.h"
#include "net/testing_sinks.h"
#include "net/testing_util.h"

namespace lanyard::net {
namespace {

using identity::Role;
using testing::Closed;
using ::testing::HasSubstr;
using testing::NodeOf;
using testing::RecordingSink;
using testing::TestCluster;
using testing::WaitFor;

int ConnectTo(const std::string& address) {
  const int fd = socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0);
  sockaddr_in to{};
  to.sin_family = AF_INET;
  to.sin_port = htons(static_cast<uint16_t>(std::stoi(address.substr(address.rfind(':') + 1))));
  to.sin_addr.s_addr = htonl(INADDR_LOOPBACK);
  if (connect(fd, reinterpret_cast<sockaddr*>(&to), sizeof(to)) == 0) return fd;
  close(fd);
  return -1;
}

class TlsTest : public ::testing::Test {
 protected:
  void SetUp() override {
    ServerOptions options;
    options.security = {receiver_, policy_};
    auto server = StageServer::Start(options, &sink_);
    ASSERT_TRUE(server.ok()) << server.status();
    server_ = *std::move(server);
  }

  RemoteStageOptions Options(std::shared_ptr<identity::LiveCredential> from) {
    RemoteStageOptions out;
    out.address = server_->address();
    out.from = "w0";
    out.plan = PlanId(7);
    out.epoch = Epoch(9);
    out.stage = 1;
    out.on_closed = closed_.callback();
    out.credential = std::move(from);
    out.node = NodeOf(receiver_);
    return out;
  }
  absl::Status Try(std::shared_ptr<identity::LiveCredential> from) {
    return RemoteStage::Connect(Options(std::move(from)))->WaitReady(3000);
  }

  const TestCluster cluster_;
  const std::shared_ptr<testing::RevokedSet> policy_ = std::make_shared<testing::RevokedSet>();
  const std::shared_ptr<identity::LiveCredential> receiver_ = cluster_.Worker("w1");
  const std::shared_ptr<identity::LiveCredential> sender_ = cluster_.Worker("w0");
  RecordingSink sink_;
  Closed closed_;
  std::unique_ptr<StageServer> server_;
};

TEST_F(TlsTest, FramesArriveAndTheSenderIsKnown) {
  const auto stage = RemoteStage::Connect(Options(sender_));
  ASSERT_TRUE(stage->WaitReady(5000).ok()) << stage->WaitReady(0);
  ASSERT_TRUE(stage->Send(testing::SampleFrame()).ok());
  ASSERT_TRUE(WaitFor([&] { return sink_.frames().size() == 1; }));
  ASSERT_TRUE(sink_.from().peer.has_value());
  EXPECT_EQ(sink_.from().peer->node, NodeOf(sender_));
  EXPECT_EQ(sink_.from().peer->role, Role::kWorker);
  EXPECT_EQ(sink_.from().peer->name, "w0");
}

TEST_F(TlsTest, StrangersDoNotGetIn) {
  const TestCluster other;
  EXPECT_FALSE(Try(other.Worker("w0")).ok());  // another cluster's certificate
  EXPECT_FALSE(Try(nullptr).ok());             // plaintext
  EXPECT_TRUE(Try(sender_).ok());
}

TEST_F(TlsTest, AnotherNodeAtTheAddressIsNoticed) {
  RemoteStageOptions options = Options(sender_);
  options.node = NodeOf(cluster_.Worker("w1"));  // the same name, another key
  EXPECT_FALSE(RemoteStage::Connect(options)->WaitReady(3000).ok());
}

TEST_F(TlsTest, WorkerAtTheCoordinatorsAddressIsNoticed) {
  class Sink : public ControlSink {
   public:
    void OnWelcome() override {}
    void OnRefused(const absl::Status&, bool) override {}
    void OnAssign(Assignment) override {}
    void OnBadAssign(PlanId, Epoch, const absl::Status&) override {}
    void OnRelease(PlanId) override {}
    void OnRevoked(std::vector<std::string>) override {}
    void OnControlClosed(const absl::Status& why) override { closed = why.ToString(); }
    std::string closed;
  } sink;
  const auto client = ControlClient::Connect({server_->address(), sender_}, WorkerHello{}, &sink);
  ASSERT_TRUE(WaitFor([&] { return !sink.closed.empty(); }));
  EXPECT_THAT(sink.closed, HasSubstr("UNAVAILABLE"));  // by the name in the certificate
}

TEST_F(TlsTest, OnlyTls13) {
  for (const int version : {TLS1_2_VERSION, TLS1_3_VERSION}) {
    const int fd = ConnectTo(server_->address());
    ASSERT_GE(fd, 0);
    const std::unique_ptr<SSL_CTX, decltype(&SSL_CTX_free)> context(
        SSL_CTX_new(TLS_client_method()), SSL_CTX_free);
    SSL_CTX_set_max_proto_version(context.get(), version);
    const std::unique_ptr<SSL, decltype(&SSL_free)> ssl(SSL_new(context.get()), SSL_free);
    const unsigned char alpn[] = "\x02h2";
    SSL_set_alpn_protos(ssl.get(), alpn, 3);
    SSL_set_fd(ssl.get(), fd);
    // Without a certificate a 1.3 client's own handshake ends well; the server's does not
    // (StrangersDoNotGetIn).
    EXPECT_EQ(SSL_connect(ssl.get()) == 1, version == TLS1_3_VERSION) << version;
    close(fd);
  }
}

TEST_F(TlsTest, TwoHundredRenewalsUnderRunningStreams) {
  const auto old = RemoteStage::Connect(Options(sender_));
  ASSERT_TRUE(old->WaitReady(5000).ok());
  size_t sent = 0;
  for (int i = 0; i < 200; ++i) {
    ASSERT_TRUE(
        receiver_->Replace(cluster_.Issue(receiver_->Get()->key, Role::kWorker, "w1")).ok());
    ASSERT_TRUE(sender_->Replace(cluster_.Issue(sender_->Get()->key, Role::kWorker, "w0")).ok());
    ASSERT_TRUE(old->Send(testing::SampleFrame()).ok());
    ++sent;
    if (i % 20 == 0) {
      const auto fresh = RemoteStage::Connect(Options(sender_));
      ASSERT_TRUE(fresh->WaitReady(5000).ok());
      ASSERT_TRUE(fresh->Send(testing::SampleFrame()).ok());
      ++sent;
      ASSERT_TRUE(WaitFor([&] { return sink_.frames().size() == sent; }));
      EXPECT_EQ(sink_.from().peer->serial, sender_->Get()->self.serial);  // the newest was shown
    }
  }
  ASSERT_TRUE(WaitFor([&] { return sink_.frames().size() == sent; }));
}

TEST_F(TlsTest, RevokedNodeIsCutOffMidStreamAndStaysOut) {
  const auto stage = RemoteStage::Connect(Options(sender_));
  ASSERT_TRUE(stage->WaitReady(5000).ok());
  ASSERT_TRUE(stage->Send(testing::SampleFrame()).ok());
  ASSERT_TRUE(WaitFor([&] { return sink_.frames().size() == 1; }));
  policy_->Revoke(NodeOf(sender_));
  stage->Send(testing::SampleFrame()).IgnoreError();  // arrives after the revocation: not taken
  server_->CutOff(NodeOf(sender_));
  ASSERT_TRUE(WaitFor([&] { return closed_.times() == 1; }, 1000));
  EXPECT_EQ(sink_.frames().size(), 1U);
  EXPECT_TRUE(absl::IsPermissionDenied(Try(sender_))) << Try(sender_);
  EXPECT_TRUE(Try(cluster_.Worker("w2")).ok());
}

TEST_F(TlsTest, CutOffAloneClosesAnIdleConnection) {
  const auto stage = RemoteStage::Connect(Options(sender_));
  ASSERT_TRUE(stage->WaitReady(5000).ok());
  server_->CutOff(NodeOf(cluster_.Worker("other")));
  std::this_thread::sleep_for(std::chrono::milliseconds(100));
  EXPECT_EQ(closed_.times(), 0);
  server_->CutOff(NodeOf(sender_));
  EXPECT_TRUE(WaitFor([&] { return closed_.times() == 1; }, 1000));
}

// A connection on which a node opened no stream, or has none open now.
TEST_F(TlsTest, CutOffClosesConnectionsWithoutStreams) {
  const auto stage = RemoteStage::Connect(Options(cluster_.Worker("w2")));
  ASSERT_TRUE(stage->WaitReady(5000).ok());
  const int fd = ConnectTo(server_->address());
  ASSERT_GE(fd, 0);
  const auto own = sender_->Get();
  const std::unique_ptr<SSL_CTX, decltype(&SSL_CTX_free)> context(SSL_CTX_new(TLS_client_method()),
                                                                  SSL_CTX_free);
  const std::unique_ptr<BIO, decltype(&BIO_free)> key_text(
      BIO_new_mem_buf(own->key_pem.data(), static_cast<int>(own->key_pem.size())), BIO_free);
  const identity::PkeyPtr key(PEM_read_bio_PrivateKey(key_text.get(), nullptr, nullptr, nullptr));
  ASSERT_EQ(
      SSL_CTX_use_certificate(context.get(), identity::X509FromPem(own->certificate_pem).get()), 1);
  ASSERT_EQ(SSL_CTX_use_PrivateKey(context.get(), key.get()), 1);
  const std::unique_ptr<SSL, decltype(&SSL_free)> ssl(SSL_new(context.get()), SSL_free);
  const unsigned char alpn[] = "\x02h2";
  SSL_set_alpn_protos(ssl.get(), alpn, 3);
  SSL_set_fd(ssl.get(), fd);
  ASSERT_EQ(SSL_connect(ssl.get()), 1);
  const timeval patience{2, 0};
  setsockopt(fd, SOL_SOCKET, SO_RCVTIMEO, &patience, sizeof(patience));
  server_->CutOff(NodeOf(sender_));
  char bytes[4096];
  ssize_t got = 1;
  while (got > 0) got = read(fd, bytes, sizeof(bytes));
  EXPECT_TRUE(got == 0 || errno == ECONNRESET) << std::strerror(errno);
  EXPECT_EQ(closed_.times(), 0);  // the other node's stream goes on
  close(fd);
}

// So does whoever asks whether the port answers: `lanyard doctor`, a load balancer.
TEST_F(TlsTest, WhoClosesWithoutAByteIsNotWarnedOf) {
  ::testing::internal::CaptureStderr();
  for (int i = 0; i < 3; ++i) close(ConnectTo(server_->address()));
  const int stranger = ConnectTo(server_->address());
  EXPECT_EQ(write(stranger, "GET / HTTP/1.1\r\n\r\n", 18), 18);
  // The warning comes with the next turn of a second.
  char byte = 0;
  EXPECT_LE(read(stranger, &byte, 1), 0);
  close(stranger);
  sleep(2);
  EXPECT_THAT(::testing::internal::GetCapturedStderr(),
              HasSubstr("refused 1 connections in the last second"));
}

// Connections before TLS: silent ones, garbage, and more than there are descriptors, beside a
// stream that goes on.
TEST_F(TlsTest, FloodOfConnectionsLeavesRunningStreamsUnharmed) {
  rlimit before{};
  getrlimit(RLIMIT_NOFILE, &before);
  rlimit low = before;
  low.rlim_cur = 400;
  ASSERT_EQ(setrlimit(RLIMIT_NOFILE, &low), 0);
  const auto stage = RemoteStage::Connect(Options(sender_));
  ASSERT_TRUE(stage->WaitReady(5000).ok());
  size_t sent = 0;
  int refused = 0;
  std::vector<int> open;
  for (int i = 0; i < 800; ++i) {
    const int fd = ConnectTo(server_->address());
    if (fd < 0) {
      ++refused;
    } else {
      if (i % 3 == 0 && write(fd, "GET / HTTP/1.1\r\n\r\n", 18) < 0) ++refused;
      open.push_back(fd);
      if (open.size() > 250) {
        close(open.front());
        open.erase(open.begin());
      }
    }
    if (i % 40 == 0) {
      ASSERT_TRUE(stage->Send(testing::SampleFrame()).ok());
      ++sent;
    }
  }
  EXPECT_TRUE(WaitFor([&] { return sink_.frames().size() == sent; }));
  EXPECT_EQ(closed_.times(), 0);
  for (const int fd : open) close(fd);
  EXPECT_TRUE(WaitFor([&] { return Try(sender_).ok(); }));
  setrlimit(RLIMIT_NOFILE, &before);
}

// --- joining ---

class JoinTest : public ::testing::Test {
 protected:
  void SetUp() override {
    ServerOptions options;
    options.security.credential = coordinator_;
    options.join = [this](const JoinRequest& request) -> absl::StatusOr<JoinReply> {
      ++asked_;
      last_ = request;
      if (!answer_.ok()) return answer_;
      ASSIGN_OR_RETURN(const identity::PkeyPtr key,
                       identity::PublicKeyOfRequest(request.request_pem));
      ASSIGN_OR_RETURN(
          std::string pem,
          cluster_.authority().Issue(key.get(), {.name = request.name}, identity::WallNow()));
      return JoinReply{std::move(pem), request.name};
    };
    auto server = StageServer::Start(options, &sink_);
    ASSERT_TRUE(server.ok()) << server.status();
    server_ = *std::move(server);
  }
  JoinOptions Options() {
    JoinOptions out;
    out.address = server_->address();
    out.ca_fingerprint = cluster_.authority().fingerprint();
    out.request = {
        "0123456789abcdef", std::string(32, 's'), Role::kWorker, "pc-1", *key_.MakeRequest(), ""};
    out.timeout_ms = 3000;
    return out;
  }

  const TestCluster cluster_;
  const std::shared_ptr<identity::LiveCredential> coordinator_ = cluster_.Coordinator();
  const identity::KeyPair key_ = *identity::KeyPair::Generate();
  RecordingSink sink_;
  std::atomic<int> asked_{0};
  JoinRequest last_;
  absl::Status answer_;
  std::unique_ptr<StageServer> server_;
};

TEST_F(JoinTest, GivesACertificateThatOpensLinks) {
  const auto joined = Join(Options());
  ASSERT_TRUE(joined.ok()) << joined.status();
  EXPECT_EQ(joined->ca_pem, cluster_.authority().certificate_pem());
  EXPECT_EQ(last_.token_secret, std::string(32, 's'));
  EXPECT_THAT(last_.from, HasSubstr("127.0.0.1:"));
  const auto credential = identity::Credential::Make(key_, joined->reply.certificate_pem,
                                                     joined->ca_pem, identity::WallNow());
  ASSERT_TRUE(credential.ok()) << credential.status();
  RemoteStageOptions options;
  options.address = server_->address();
  options.from = "pc-1";
  options.credential = std::make_shared<identity::LiveCredential>(*credential);
  options.node = NodeOf(coordinator_);
  // The name is a coordinator's, not a worker's: this server is none.
  EXPECT_FALSE(RemoteStage::Connect(options)->WaitReady(1000).ok());
}

TEST_F(JoinTest, ImpostorNeverHearsTheSecret) {
  JoinOptions options = Options();
  options.ca_fingerprint = TestCluster().authority().fingerprint();
  const auto joined = Join(options);
  EXPECT_TRUE(absl::IsPermissionDenied(joined.status())) << joined.status();
  EXPECT_THAT(joined.status().ToString(), HasSubstr("nothing was told to it"));
  EXPECT_EQ(asked_, 0);
}

TEST_F(JoinTest, WorkerCannotPretendToBeTheCoordinator) {
  ServerOptions options;
  options.security.credential = cluster_.Worker("w1");
  options.join = [](const JoinRequest&) -> absl::StatusOr<JoinReply> { return JoinReply{}; };
  const auto server = *StageServer::Start(options, &sink_);
  JoinOptions join = Options();
  join.address = server->address();
  EXPECT_THAT(Join(join).status().ToString(), HasSubstr("not the coordinator"));
}

TEST_F(JoinTest, EachFailureHasItsWords) {
  answer_ = absl::PermissionDeniedError("the token expired at noon");
  EXPECT_THAT(Join(Options()).status().ToString(), HasSubstr("the token expired at noon"));
  JoinOptions nowhere = Options();
  nowhere.address = "127.0.0.1:1";
  EXPECT_THAT(Join(nowhere).status().ToString(),
              HasSubstr("cannot reach the coordinator at 127.0.0.1:1: Connection refused"));
  nowhere.address = "no-such-host.invalid:1";
  EXPECT_THAT(Join(nowhere).status().ToString(),
              HasSubstr("cannot find the coordinator's address"));
  // Something that answers, but not in TLS.
  const int listener = socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0);
  sockaddr_in at{};
  at.sin_family = AF_INET;
  at.sin_addr.s_addr = htonl(INADDR_LOOPBACK);
  ASSERT_EQ(bind(listener, reinterpret_cast<sockaddr*>(&at), sizeof(at)), 0);
  ASSERT_EQ(listen(listener, 1), 0);
  socklen_t length = sizeof(at);
  getsockname(listener, reinterpret_cast<sockaddr*>(&at), &length);
  std::thread web([listener] {
    const int fd = accept(listener, nullptr, nullptr);
    EXPECT_GT(write(fd, "HTTP/1.1 400 Bad Request\r\n\r\n", 28), 0);
    close(fd);
  });
  nowhere.address = absl::StrCat("127.0.0.1:", ntohs(at.sin_port));
  EXPECT_THAT(Join(nowhere).status().ToString(), HasSubstr("is no Lanyard coordinator"));
  web.join();
  close(listener);
}

TEST_F(JoinTest, ServersThatLetNobodyJoinSaySo) {
  ServerOptions options;
  options.security.credential = coordinator_;
  const auto server = *StageServer::Start(options, &sink_);
  JoinOptions join = Options();
  join.address = server->address();
  EXPECT_TRUE(absl::IsUnavailable(Join(join).status())) << Join(join).status();
}

}  // namespace
}  // namespace lanyard::net
