// What HTTPS clients are shown, by handshakes in memory.
#include "coordinator/access/https_front.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <sys/stat.h>
#include <unistd.h>

#include <filesystem>

#include "base/file.h"
#include "identity/authority.h"

namespace lanyard::coordinator {
namespace {

using identity::KeyPair;
using identity::OpenSslFree;
using identity::Role;
using identity::UnixTime;
using identity::X509FromPem;
using ::testing::HasSubstr;

struct Client {
  std::string host = "localhost";
  std::string ca_pem;
  int max_version = TLS1_3_VERSION;
  std::shared_ptr<const identity::Credential> certificate = nullptr;
};

struct Shaken {
  std::string error;  // empty: the client took the certificate
  std::string cipher;
  int version = 0;
  bool asked = false;  // for a client certificate
  bool shown = false;  // the server verified one
  bool resumable = false;
  bool renegotiated = false;
};

// Whether the server shakes hands again on a connection of TLS 1.2.
bool Renegotiates(SSL* us, SSL* server) {
  if (SSL_version(us) != TLS1_2_VERSION || SSL_renegotiate(us) != 1) return false;
  char byte = 0;
  bool done = false;
  for (int i = 0; i < 10; ++i) {
    done = SSL_do_handshake(us) == 1 && SSL_renegotiate_pending(us) == 0;
    SSL_read(server, &byte, 1);
  }
  identity::OpenSslError();
  return done;
}

Shaken Shake(SSL_CTX* server_context, const Client& client) {
  const std::unique_ptr<SSL_CTX, OpenSslFree<SSL_CTX_free>> context(
      SSL_CTX_new(TLS_client_method()));
  SSL_CTX_set_max_proto_version(context.get(), client.max_version);
  X509_STORE_add_cert(SSL_CTX_get_cert_store(context.get()), X509FromPem(client.ca_pem).get());
  SSL_CTX_set_verify(context.get(), SSL_VERIFY_PEER, nullptr);
  Shaken out;
  if (client.certificate != nullptr) {
    SSL_CTX_use_certificate(context.get(), X509FromPem(client.certificate->certificate_pem).get());
    SSL_CTX_use_PrivateKey(context.get(), client.certificate->key.get());
  }
  const std::unique_ptr<SSL, OpenSslFree<SSL_free>> us(SSL_new(context.get()));
  const std::unique_ptr<SSL, OpenSslFree<SSL_free>> server(SSL_new(server_context));
  BIO* ours = nullptr;
  BIO* theirs = nullptr;
  BIO_new_bio_pair(&ours, 1 << 16, &theirs, 1 << 16);
  SSL_set_bio(us.get(), ours, ours);
  SSL_set_bio(server.get(), theirs, theirs);
  if (X509_VERIFY_PARAM_set1_ip_asc(SSL_get0_param(us.get()), client.host.c_str()) != 1) {
    SSL_set1_host(us.get(), client.host.c_str());
    SSL_set_tlsext_host_name(us.get(), client.host.c_str());
  }
  identity::OpenSslError();
  SSL_set_connect_state(us.get());
  SSL_set_accept_state(server.get());
  bool done = false;
  for (int i = 0; i < 20 && !done; ++i) {
    const int a = SSL_do_handshake(us.get());
    const int b = SSL_do_handshake(server.get());
    done = a == 1 && b == 1;
  }
  const long verdict = SSL_get_verify_result(us.get());
  const std::string words = identity::OpenSslError();
  if (!done) out.error = verdict != X509_V_OK ? X509_verify_cert_error_string(verdict) : words;
  out.version = SSL_version(us.get());
  if (const char* cipher = SSL_get_cipher_name(us.get()); done) out.cipher = cipher;
  out.asked = SSL_get0_peer_CA_list(us.get()) != nullptr &&
              sk_X509_NAME_num(SSL_get0_peer_CA_list(us.get())) > 0;
  out.resumable = done && SSL_SESSION_is_resumable(SSL_get0_session(us.get())) == 1;
  out.renegotiated = done && Renegotiates(us.get(), server.get());
  const identity::X509Ptr peer(SSL_get1_peer_certificate(server.get()));
  out.shown = peer != nullptr && SSL_get_verify_result(server.get()) == X509_V_OK;
  return out;
}

class HttpsFrontTest : public ::testing::Test {
 protected:
  HttpsFrontTest()
      : folder_(::testing::TempDir() + absl::StrCat("https-front-", getpid())),
        cluster_(*identity::Authority::Create(now_)),
        own_(Issue(Role::kCoordinator)) {
    std::filesystem::create_directories(folder_);
    options_.folder = folder_ + "/ca";
    options_.machine = "PC1";
    options_.addresses = [this] { return addresses_; };
    options_.certificate_seconds = 3600;
  }
  ~HttpsFrontTest() override { std::filesystem::remove_all(folder_); }

  std::shared_ptr<const identity::Credential> Issue(Role role) const {
    const KeyPair key = *KeyPair::Generate();
    identity::IssueRequest request{.role = role, .name = "pc1"};
    request.dns_names = {"localhost"};
    request.addresses = {"127.0.0.1"};
    return *identity::Credential::Make(key, *cluster_.Issue(key.get(), request, now_),
                                       cluster_.certificate_pem(), now_);
  }
  void Open(bool new_cluster = true) {
    auto front = HttpsFront::Open(options_, new_cluster, now_);
    ASSERT_TRUE(front.ok()) << front.status();
    front_ = *std::move(front);
  }
  std::string CaPem() { return front_->CaPem(cluster_.certificate_pem()); }
  Shaken Ask(Client client) {
    if (client.ca_pem.empty()) client.ca_pem = CaPem();
    return Shake(front_->Context(own_).get(), client);
  }
  std::string Error(const std::string& host, const std::string& ca_pem = "") {
    return Ask({host, ca_pem}).error;
  }
  // The house's pair, for `name`, and its CA.
  std::string WriteHouse(const std::string& name) {
    const auto ca = *identity::HttpsAuthority::Create({{name}, {}}, now_);
    const KeyPair key = *KeyPair::Generate();
    options_.https.certificate_file = folder_ + "/house.crt";
    options_.https.key_file = folder_ + "/house.key";
    EXPECT_TRUE(WriteSmallFile(options_.https.certificate_file,
                               *ca.Issue(key.get(), {{name}, {}}, 7200, now_))
                    .ok());
    EXPECT_TRUE(WriteSmallFile(options_.https.key_file, key.ToPem()).ok());
    return ca.certificate_pem();
  }

  const std::string folder_;
  UnixTime now_ = identity::WallNow();
  const identity::Authority cluster_;
  const std::shared_ptr<const identity::Credential> own_;
  std::vector<std::string> addresses_ = {"127.0.0.1", "192.168.1.10", "2001:db8::7", "fe80::1"};
  HttpsFrontOptions options_;
  std::unique_ptr<HttpsFront> front_;
};

TEST_F(HttpsFrontTest, ANewClusterIsReachedByAllItsNames) {
  options_.names = {"LLM.house.example", "198.51.100.7"};
  Open();
  EXPECT_TRUE(front_->constrained());
  EXPECT_NE(CaPem(), cluster_.certificate_pem());
  for (const char* host : {"localhost", "pc1", "pc1.local", "pc1.lan", "llm.house.example",
                           "127.0.0.1", "192.168.1.10", "198.51.100.7"}) {
    EXPECT_EQ(Error(host), "") << host;
  }
  EXPECT_NE(Error("pc2"), "");
  EXPECT_NE(Error("192.168.1.11"), "");
  // An administrator's folder has the cluster's CA alone.
  EXPECT_EQ(Error("coordinator.lanyard", cluster_.certificate_pem()), "");
}

TEST_F(HttpsFrontTest, TheCaStaysOverRestartsAndWidensForNames) {
  Open();
  const std::string first = CaPem();
  Open(false);
  EXPECT_EQ(CaPem(), first);
  options_.names = {"llm.house.example"};
  Open(false);
  EXPECT_NE(CaPem(), first);
  for (const char* host : {"localhost", "pc1", "192.168.1.10"}) {
    EXPECT_EQ(Error(host, first), "") << host;  // who has the old one goes on
    EXPECT_EQ(Error(host), "") << host;
  }
  EXPECT_THAT(Error("llm.house.example", first), HasSubstr("subtree"));
  EXPECT_EQ(Error("llm.house.example"), "");
  const std::string second = CaPem();
  options_.names = {};
  Open(false);
  EXPECT_EQ(CaPem(), second);  // fewer names are no reason
}

TEST_F(HttpsFrontTest, AddressesThatChangeAreFollowed) {
  Open();
  EXPECT_NE(Error("10.9.8.7"), "");
  addresses_ = {"127.0.0.1", "10.9.8.7"};
  ASSERT_TRUE(front_->Look(now_ + 1).ok());
  EXPECT_EQ(Error("10.9.8.7"), "");
  EXPECT_NE(Error("192.168.1.10"), "");
}

TEST_F(HttpsFrontTest, CertificatesAreRenewed) {
  Open();
  const auto before = front_->Context(own_);
  ASSERT_TRUE(front_->Look(now_ + 1000).ok());
  EXPECT_EQ(front_->Context(own_), before);
  ASSERT_TRUE(front_->Look(now_ + 2400).ok());
  const auto due = front_->Context(own_);
  EXPECT_NE(due, before);
  ASSERT_TRUE(front_->Look(now_ + 2401, true).ok());  // --renew-every
  EXPECT_NE(front_->Context(own_), due);
}

TEST_F(HttpsFrontTest, AnOlderClusterGoesOnUntilItsCaIsMadeAnew) {
  Open(false);
  EXPECT_FALSE(front_->constrained());
  EXPECT_EQ(CaPem(), cluster_.certificate_pem());
  EXPECT_EQ(Error("localhost"), "");
  EXPECT_EQ(Error("127.0.0.1"), "");
  ASSERT_TRUE(front_->NewAuthority(now_).ok());
  EXPECT_TRUE(front_->constrained());
  EXPECT_NE(Error("localhost", cluster_.certificate_pem()), "");
  EXPECT_EQ(Error("localhost"), "");
  EXPECT_EQ(Error("coordinator.lanyard", cluster_.certificate_pem()), "");
  const std::string made = CaPem();
  Open(false);
  EXPECT_EQ(CaPem(), made);
}

TEST_F(HttpsFrontTest, ABrokenCaIsAnError) {
  Open();
  ASSERT_TRUE(WriteSmallFile(options_.folder + "/https-ca.key", KeyPair::Generate()->ToPem()).ok());
  const auto broken = HttpsFront::Open(options_, false, now_);
  EXPECT_TRUE(absl::IsDataLoss(broken.status())) << broken.status();
  EXPECT_THAT(std::string(broken.status().message()), HasSubstr("lanyard clients --new-ca"));
}

TEST_F(HttpsFrontTest, TheHousesPairIsReadAgainAndABrokenOneIsNot) {
  const std::string first = WriteHouse("llm.house.example");
  Open();
  EXPECT_EQ(CaPem(), "");
  EXPECT_TRUE(front_->is_house());
  EXPECT_FALSE(front_->IsFor("192.168.1.10"));
  EXPECT_EQ(front_->Names(), std::vector<std::string>{"llm.house.example"});
  EXPECT_EQ(Error("llm.house.example", first), "");
  EXPECT_EQ(Error("coordinator.lanyard", cluster_.certificate_pem()), "");
  const std::string second = WriteHouse("llm.house.example");
  ASSERT_TRUE(front_->Look(now_ + 1).ok());
  EXPECT_EQ(Error("llm.house.example", second), "");
  EXPECT_NE(Error("llm.house.example", first), "");
  // A key that is another's, for long.
  ASSERT_TRUE(WriteSmallFile(options_.https.key_file, KeyPair::Generate()->ToPem()).ok());
  for (int i = 2; i < 5; ++i) ASSERT_TRUE(front_->Look(now_ + i).ok());
  EXPECT_EQ(Error("llm.house.example", second), "");
  std::filesystem::remove(options_.https.certificate_file);
  ASSERT_TRUE(front_->Look(now_ + 6).ok());
  EXPECT_EQ(Error("llm.house.example", second), "");
  const std::string third = WriteHouse("llm.house.example");
  ASSERT_TRUE(front_->Look(now_ + 7).ok());
  EXPECT_EQ(Error("llm.house.example", third), "");
  EXPECT_TRUE(absl::IsFailedPrecondition(front_->NewAuthority(now_)));
}

// To open a pipe waits for its writer, and every new connection would wait with it.
TEST_F(HttpsFrontTest, AFileOfTheHousesThatBecomesAPipeStopsNothing) {
  const std::string shown = WriteHouse("llm.house.example");
  Open();
  for (const std::string& path : {options_.https.certificate_file, options_.https.key_file}) {
    std::filesystem::remove(path);
    ASSERT_EQ(::mkfifo(path.c_str(), 0600), 0);
    for (int i = 1; i < 4; ++i) ASSERT_TRUE(front_->Look(now_ + i).ok());
    EXPECT_EQ(Error("llm.house.example", shown), "");
  }
  const auto again = HttpsFront::Open(options_, false, now_);
  EXPECT_THAT(std::string(again.status().message()), HasSubstr("is a pipe, and not a file"));
  std::filesystem::remove(options_.https.certificate_file);
  std::filesystem::remove(options_.https.key_file);
  const std::string next = WriteHouse("llm.house.example");
  ASSERT_TRUE(front_->Look(now_ + 5).ok());
  EXPECT_EQ(Error("llm.house.example", next), "");
}

TEST_F(HttpsFrontTest, AStartWithABrokenPairIsRefused) {
  WriteHouse("llm.house.example");
  std::filesystem::remove(options_.https.key_file);
  const auto front = HttpsFront::Open(options_, true, now_);
  EXPECT_THAT(std::string(front.status().message()), HasSubstr("--http-key"));
}

TEST_F(HttpsFrontTest, Tls12IsForClientsWithoutCertificates) {
  Open();
  const auto admin = Issue(Role::kAdmin);
  const Shaken modern = Ask({"localhost", "", TLS1_3_VERSION, admin});
  EXPECT_EQ(modern.error, "");
  EXPECT_EQ(modern.version, TLS1_3_VERSION);
  EXPECT_TRUE(modern.asked && modern.shown);
  for (const char* host : {"localhost", "pc1", "127.0.0.1"}) {
    const Shaken old = Ask({host, "", TLS1_2_VERSION, admin});
    EXPECT_EQ(old.error, "") << host;
    EXPECT_EQ(old.version, TLS1_2_VERSION);
    EXPECT_FALSE(old.asked || old.shown) << host;
    EXPECT_FALSE(old.resumable || old.renegotiated) << host;
    EXPECT_THAT(old.cipher, ::testing::MatchesRegex("ECDHE-ECDSA-(AES...-GCM|CHACHA20).*"));
  }
  EXPECT_NE(Ask({"localhost", "", TLS1_1_VERSION}).error, "");
  options_.https.tls12 = false;
  Open(false);
  EXPECT_NE(Ask({"localhost", "", TLS1_2_VERSION}).error, "");
  EXPECT_EQ(Error("localhost"), "");
}

}  // namespace
}  // namespace lanyard::coordinator
