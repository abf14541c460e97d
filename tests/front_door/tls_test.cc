// TLS at the front: versions, certificates, renewal under a running server, plaintext on the wrong
// port, time-outs.
#include "identity/tls.h"

#include <openssl/err.h>

#include "identity/authority.h"
#include "tests/front_door/rig.h"

namespace lanyard::front_door {
namespace {

constexpr char kStalls[] = R"({"messages":[{"role":"user","content":"STALL"}],"stream":true})";

class TlsTest : public Rig {
 protected:
  TlsTest() { UseTls(); }
};

TEST_F(TlsTest, ServesAndStreams) {
  Start();
  const auto key = MakeKey("k");
  EXPECT_EQ(server_->url().substr(0, 8), "https://");
  const auto client = Connect();
  for (int i = 0; i < 3; ++i) {
    client->Send(Get("/v1/models", Bearer(key)));
    EXPECT_EQ(StatusOf(client->ReadAnswer()), 200);
  }
  client->Send(Post("/v1/chat/completions",
                    R"({"messages":[{"role":"user","content":"hi"}],"stream":true})", Bearer(key)));
  EXPECT_TRUE(client->ReadUntil("data: [DONE]\n\n\r\n0\r\n\r\n"));
  // A long body, and an answer after which the connection ends with TLS's goodbye.
  const auto closing = Connect();
  const std::string prompt(300'000, 'x');
  closing->Send(Post("/v1/completions", "{\"prompt\":\"" + prompt + "\"}",
                     Bearer(key) + "Connection: close\r\n"));
  EXPECT_TRUE(closing->ReadToEnd());
  EXPECT_EQ(StatusOf(closing->got()), 200);
  EXPECT_EQ(closing->error(), "");
}

// Whoever reads an answer to the end of the connection is not kept waiting by a refusal.
TEST_F(TlsTest, ARefusalEndsTheConnectionAtOnce) {
  Start();
  const auto key = MakeKey("k");
  const std::string bye = "Connection: close\r\n";
  for (const std::string& request :
       {Get("/nowhere", Bearer(key) + bye), Get("/v1/models", bye),
        std::string("GET /v1/models HTTP/1.0\r\n\r\n"),
        Post("/v1/completions", "{", Bearer(key) + bye), Post("/v1/completions", "{}", bye),
        Post("/v1/completions", std::string(8u << 20, 'x')), std::string("nonsense\r\n\r\n")}) {
    const auto client = Connect();
    const auto start = std::chrono::steady_clock::now();
    client->Send(request);
    EXPECT_TRUE(client->ReadToEnd());
    EXPECT_LT(std::chrono::steady_clock::now() - start, std::chrono::seconds(2))
        << request.substr(0, 60);
    EXPECT_GE(StatusOf(client->got()), 400) << request.substr(0, 60);
    EXPECT_EQ(client->error(), "") << request.substr(0, 60);
  }
}

TEST_F(TlsTest, LeavingCancels) {
  Start();
  const auto key = MakeKey("k");
  for (const char* stream : {"true", "false"}) {
    auto client = Connect();
    client->Send(Post(
        "/v1/chat/completions",
        absl::StrCat(R"({"messages":[{"role":"user","content":"STALL"}],"stream":)", stream, "}"),
        Bearer(key)));
    ASSERT_TRUE(Eventually([&] { return generator_.open() == 1; }));
    client.reset();
    EXPECT_TRUE(Eventually([&] { return generator_.open() == 0; }, 1000));
  }
  EXPECT_EQ(generator_.cancelled(), 2u);
}

TEST_F(TlsTest, PlaintextIsToldSo) {
  Start();
  Client plain(server_->address());
  plain.Send(Get("/health"));
  const std::string answer = plain.ReadAnswer();
  EXPECT_EQ(StatusOf(answer), 400);
  EXPECT_NE(answer.find("speaks HTTPS"), answer.npos);
  EXPECT_NE(answer.find("https_required"), answer.npos);
}

TEST_F(TlsTest, OldVersionsAndForeignCertificatesAreRefused) {
  Start();
  const auto attempt = [&](std::shared_ptr<SSL_CTX> context) {
    Client::Options options;
    options.tls = std::move(context);
    Client client(server_->address(), options);
    if (!client.connected()) return client.error();
    // In TLS 1.3 the server's refusal of a client certificate comes after the client's handshake.
    client.Send(Get("/health"));
    const std::string answer = client.ReadAnswer();
    return answer.empty() ? "refused: " + client.error() : answer.substr(0, 12);
  };
  EXPECT_EQ(attempt(ClientContext(authority_)), "HTTP/1.1 200");
  auto old = ClientContext(authority_);
  SSL_CTX_set_min_proto_version(old.get(), TLS1_2_VERSION);
  SSL_CTX_set_max_proto_version(old.get(), TLS1_2_VERSION);
  EXPECT_NE(attempt(old).find("protocol version"), std::string::npos) << attempt(old);
  const Identity stranger_ca = MakeAuthority("cluster");  // the same name, another key
  const Identity forged = Issue(stranger_ca, {.common_name = "admin", .alternative_names = ""});
  EXPECT_EQ(attempt(ClientContext(authority_, &forged)).substr(0, 7), "refused");
  const Identity expired = Issue(authority_, {.common_name = "admin",
                                              .alternative_names = "",
                                              .from_seconds = -7200,
                                              .to_seconds = -3600});
  EXPECT_EQ(attempt(ClientContext(authority_, &expired)).substr(0, 7), "refused");
  EXPECT_NE(attempt(ClientContext(stranger_ca)).find("certificate verify failed"),
            std::string::npos);
}

TEST_F(TlsTest, CertificatesAreRenewedUnderARunningServer) {
  std::atomic<int> serving{0};
  std::vector<std::shared_ptr<SSL_CTX>> contexts;
  for (int i = 0; i < 20; ++i) {
    const Identity renewed =
        Issue(authority_, {.common_name = absl::StrCat("s", i), .alternative_names = ""});
    contexts.push_back(ServerContext(renewed, authority_));
  }
  options_.tls = [&] { return contexts[static_cast<size_t>(serving.load())]; };
  Start();
  const auto key = MakeKey("k");
  const auto long_lived = Connect();
  long_lived->Send(Post("/v1/chat/completions", kStalls, Bearer(key)));
  ASSERT_TRUE(long_lived->ReadUntil("assistant"));
  for (int i = 0; i < 20; ++i) {
    serving = i;
    EXPECT_EQ(StatusOf(Ask(Get("/v1/models", Bearer(key)))), 200) << i;
  }
  EXPECT_EQ(generator_.open(), 1u);  // it lives on
}

TEST_F(TlsTest, NoContextIsNoConnection) {
  options_.tls = [] { return std::shared_ptr<SSL_CTX>(); };
  Start();
  const auto client = Connect();
  EXPECT_FALSE(client->connected());
}

TEST_F(TlsTest, SilenceAndHalfHandshakesEnd) {
  options_.limits.handshake_timeout = std::chrono::milliseconds(150);
  options_.limits.header_timeout = std::chrono::milliseconds(150);
  Start();
  const std::string hello = "\x16\x03\x01";
  for (const std::string& bytes : {std::string(), hello + "\x02", hello + std::string(300, '\0')}) {
    Client client(server_->address());
    client.Send(bytes);
    EXPECT_TRUE(client.ReadToEnd());
  }
  const auto handshaken = Connect();
  EXPECT_TRUE(handshaken->ReadToEnd());
  EXPECT_TRUE(Eventually([&] { return server_->connections() == 0; }));
}

// With the context that a coordinator has.
class HttpsContextTest : public TlsTest {
 protected:
  HttpsContextTest() {
    options_.tls = [this] { return context_; };
    options_.admin_of = [](const std::string& pem) -> absl::StatusOr<std::string> {
      const auto peer = identity::PeerOfPem(pem);
      if (peer.ok() && peer->role == identity::Role::kAdmin) return peer->name;
      return absl::PermissionDeniedError("not an administrator");
    };
    Start();
  }
  std::shared_ptr<const identity::Credential> Issue(identity::Role role) const {
    const auto key = *identity::KeyPair::Generate();
    identity::IssueRequest request{.role = role, .name = "pc1"};
    request.dns_names = {"localhost"};
    const identity::UnixTime now = identity::WallNow();
    return *identity::Credential::Make(key, *cluster_.Issue(key.get(), request, now),
                                       cluster_.certificate_pem(), now);
  }
  std::string AskAs(const std::string& bytes, int version,
                    const std::shared_ptr<const identity::Credential>& who) const {
    std::shared_ptr<SSL_CTX> context(SSL_CTX_new(TLS_client_method()), SSL_CTX_free);
    SSL_CTX_set_max_proto_version(context.get(), version);
    SSL_CTX_set_verify(context.get(), SSL_VERIFY_PEER, nullptr);
    X509_STORE_add_cert(SSL_CTX_get_cert_store(context.get()), cluster_.certificate());
    if (who != nullptr) {
      SSL_CTX_use_certificate(context.get(), identity::X509FromPem(who->certificate_pem).get());
      SSL_CTX_use_PrivateKey(context.get(), who->key.get());
    }
    Client client(server_->address(), {.from = "", .tls = std::move(context)});
    client.Send(bytes);
    return client.ReadAnswer();
  }

  const identity::Authority cluster_ = *identity::Authority::Create(identity::WallNow());
  std::shared_ptr<SSL_CTX> context_ =
      *identity::MakeHttpsContext({.cluster = Issue(identity::Role::kCoordinator)});
};

TEST_F(HttpsContextTest, AdministratorsTakeTls13) {
  const auto key = MakeKey("k");
  const auto admin = Issue(identity::Role::kAdmin);
  EXPECT_EQ(StatusOf(AskAs(Get("/v1/models", Bearer(key)), TLS1_2_VERSION, nullptr)), 200);
  EXPECT_EQ(StatusOf(AskAs(Get("/v1/models", Bearer(key)), TLS1_2_VERSION, admin)), 200);
  EXPECT_EQ(StatusOf(AskAs(Get("/admin/v1/status"), TLS1_3_VERSION, admin)), 200);
  EXPECT_EQ(StatusOf(AskAs(Get("/admin/v1/status"), TLS1_2_VERSION, admin)), 401);
  EXPECT_EQ(StatusOf(AskAs(Get("/admin/v1/status", Bearer(key)), TLS1_2_VERSION, admin)), 403);
  EXPECT_EQ(
      StatusOf(AskAs(Get("/admin/v1/status"), TLS1_3_VERSION, Issue(identity::Role::kWorker))),
      401);
}

// A client certificate does not outlive its revocation in a connection that is kept, nor in one
// that resumes.
TEST_F(TlsTest, AnAdministratorWhoIsOneNoMore) {
  std::atomic<bool> revoked{false};
  options_.admin_of = [&](const std::string& pem) -> absl::StatusOr<std::string> {
    if (revoked) return absl::PermissionDeniedError("revoked");
    return CommonNameOfPem(pem);
  };
  Start();
  const Identity admin = Issue(authority_, {.common_name = "admin", .alternative_names = ""});
  const auto client = Connect(&admin);
  client->Send(Get("/admin/v1/keys"));
  EXPECT_EQ(StatusOf(client->ReadAnswer()), 200);
  client->Send(Post("/v1/chat/completions", kStalls));
  ASSERT_TRUE(client->ReadUntil("assistant"));
  revoked = true;
  EXPECT_TRUE(client->ReadUntil("revoked or have expired"));
  EXPECT_TRUE(Eventually([&] { return generator_.open() == 0; }));
  EXPECT_EQ(StatusOf(Ask(Get("/admin/v1/keys"), &admin)), 401);
}

}  // namespace
}  // namespace lanyard::front_door
