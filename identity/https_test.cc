// The CA of HTTPS and what is shown by it: name constraints as OpenSSL reads them, certificates
// from files, the files for clients.
#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <openssl/x509v3.h>
#include <sys/stat.h>
#include <unistd.h>

#include <filesystem>

#include "absl/strings/match.h"
#include "base/file.h"
#include "identity/authority.h"
#include "identity/ca_bundle.h"
#include "identity/https_authority.h"
#include "identity/server_certificate.h"
#include "identity/x509_build.h"

namespace lanyard::identity {
namespace {

using ::testing::HasSubstr;

constexpr UnixTime kIssuedAt = 1'790'000'000;

// "ok" when a client that has `ca` in its store takes `leaf` for `host`, else OpenSSL's words.
std::string Verdict(X509* leaf, X509* ca, const std::string& host) {
  const std::unique_ptr<X509_STORE, OpenSslFree<X509_STORE_free>> store(X509_STORE_new());
  X509_STORE_add_cert(store.get(), ca);
  const std::unique_ptr<X509_STORE_CTX, OpenSslFree<X509_STORE_CTX_free>> context(
      X509_STORE_CTX_new());
  X509_STORE_CTX_init(context.get(), store.get(), leaf, nullptr);
  X509_STORE_CTX_set_default(context.get(), "ssl_server");
  X509_VERIFY_PARAM* const param = X509_STORE_CTX_get0_param(context.get());
  X509_VERIFY_PARAM_set_time(param, kIssuedAt);
  if (X509_VERIFY_PARAM_set1_ip_asc(param, host.c_str()) != 1)
    X509_VERIFY_PARAM_set1_host(param, host.c_str(), 0);
  OpenSslError();
  if (X509_verify_cert(context.get()) == 1) return "ok";
  return X509_verify_cert_error_string(X509_STORE_CTX_get_error(context.get()));
}

std::string Verdict(const std::string& pem, const HttpsAuthority& ca, const std::string& host) {
  return Verdict(X509FromPem(pem).get(), ca.certificate(), host);
}

// What somebody makes who has the stored key, with whatever is in the certificate.
std::string Forged(const HttpsAuthority& ca, const std::string& common_name,
                   const std::string& alternative_names) {
  const KeyPair authority_key = *KeyPair::FromPem(ca.key_pem());
  const KeyPair key = *KeyPair::Generate();
  const X509Ptr x = *BeginCertificate(ca.certificate(), key.get(), common_name);
  SetTimes(x.get(), kIssuedAt - 60, kIssuedAt + 3600);
  if (!alternative_names.empty()) {
    EXPECT_TRUE(
        AddExtension(x.get(), ca.certificate(), NID_subject_alt_name, alternative_names).ok());
  }
  EXPECT_TRUE(SignCertificate(x.get(), authority_key.get()).ok());
  return PemOf(x.get());
}

HttpsAuthority NewHttpsAuthority() {
  return *HttpsAuthority::Create({{"pc1", "llm.house.example"}, {"203.0.113.7"}}, kIssuedAt);
}

TEST(HttpsAuthority, VerifiesForEachWayToReachThePool) {
  const HttpsAuthority ca = NewHttpsAuthority();
  const KeyPair key = *KeyPair::Generate();
  const HttpsNames names{{"pc1", "llm.house.example", "localhost", "pc1.local", "pc1.lan",
                          "pc1.home.arpa", "any.name.internal"},
                         {"127.0.0.1", "::1", "10.1.2.3", "172.20.0.1", "192.168.1.10",
                          "100.64.0.9", "169.254.3.4", "fd00::1", "fe80::1", "203.0.113.7"}};
  EXPECT_EQ(ca.Permitted(names).dns, names.dns);
  EXPECT_EQ(ca.Permitted(names).addresses, names.addresses);
  EXPECT_TRUE(ca.Permitted({{"example.com", "pc2", "www.pc1"}, {}}).dns.empty());
  EXPECT_TRUE(ca.Permitted({{}, {"8.8.8.8", "2001:db8::1"}}).addresses.empty());
  const std::string pem = *ca.Issue(key.get(), names, 3600, kIssuedAt);
  for (const std::string& name : names.dns) EXPECT_EQ(Verdict(pem, ca, name), "ok") << name;
  for (const std::string& name : names.addresses) EXPECT_EQ(Verdict(pem, ca, name), "ok") << name;
  EXPECT_NE(Verdict(pem, ca, "pc2"), "ok");
}

TEST(HttpsAuthority, TheStoredKeyIsGoodForNoWebSite) {
  const HttpsAuthority ca = NewHttpsAuthority();
  EXPECT_EQ(Verdict(Forged(ca, "x", "DNS:pc1"), ca, "pc1"), "ok");  // the forger's hand works
  for (const auto& [names, host] : std::vector<std::pair<std::string, std::string>>{
           {"DNS:example.com", "example.com"},
           {"DNS:www.house.example", "www.house.example"},
           {"DNS:pc1,DNS:example.com", "example.com"},
           {"DNS:local.example.com", "local.example.com"},
           {"DNS:*.example.com", "www.example.com"},
           {"IP:8.8.8.8", "8.8.8.8"},
           {"IP:203.0.113.8", "203.0.113.8"},
           {"IP:2001:4860:4860::8888", "2001:4860:4860::8888"},
           {"DNS:www.pc1", "www.pc1"}}) {
    EXPECT_THAT(Verdict(Forged(ca, "A Lanyard pool", names), ca, host), HasSubstr("subtree"))
        << names;
  }
  // Clients that still take the common name for the host's.
  EXPECT_THAT(Verdict(Forged(ca, "example.com", ""), ca, "example.com"), HasSubstr("subtree"));
  EXPECT_THAT(Verdict(Forged(ca, "example.com", "IP:10.0.0.1"), ca, "example.com"),
              HasSubstr("subtree"));
}

TEST(HttpsAuthority, MakesNoAuthoritiesAndNoClients) {
  const HttpsAuthority ca = NewHttpsAuthority();
  EXPECT_EQ(X509_check_purpose(ca.certificate(), X509_PURPOSE_SSL_SERVER, 1), 1);
  EXPECT_NE(X509_check_purpose(ca.certificate(), X509_PURPOSE_SSL_CLIENT, 1), 1);
  EXPECT_NE(X509_check_purpose(ca.certificate(), X509_PURPOSE_SMIME_SIGN, 1), 1);
  EXPECT_EQ(X509_get_pathlen(ca.certificate()), 0);
}

// A machine may be called like a top-level domain.
TEST(HttpsAuthority, ANameWithoutADotPermitsNoneUnderIt) {
  const HttpsAuthority ca = *HttpsAuthority::Create({{"studio"}, {}}, kIssuedAt);
  EXPECT_EQ(Verdict(Forged(ca, "x", "DNS:studio"), ca, "studio"), "ok");
  EXPECT_THAT(Verdict(Forged(ca, "x", "DNS:www.studio"), ca, "www.studio"), HasSubstr("subtree"));
  // Unless a name under it is the pool's: then only that one is.
  const HttpsAuthority both = *HttpsAuthority::Create({{"studio", "llm.studio"}, {}}, kIssuedAt);
  EXPECT_EQ(Verdict(Forged(both, "x", "DNS:llm.studio"), both, "llm.studio"), "ok");
  EXPECT_NE(Verdict(Forged(both, "x", "DNS:www.studio"), both, "www.studio"), "ok");
  // And like a suffix that is permitted anyway.
  const HttpsAuthority local = *HttpsAuthority::Create({{"lan"}, {}}, kIssuedAt);
  EXPECT_EQ(Verdict(Forged(local, "x", "DNS:pc1.lan"), local, "pc1.lan"), "ok");
}

TEST(HttpsAuthority, WhoHasTheOldCertificateGoesOn) {
  const HttpsAuthority before = *HttpsAuthority::Create({{"pc1"}, {}}, kIssuedAt);
  const HttpsAuthority after = *before.For({{"pc1", "llm.house.example"}, {}}, kIssuedAt);
  const KeyPair key = *KeyPair::Generate();
  EXPECT_FALSE(before.Issue(key.get(), {{"llm.house.example"}, {}}, 3600, kIssuedAt).ok());
  const std::string known = *after.Issue(key.get(), {{"pc1"}, {"10.0.0.1"}}, 3600, kIssuedAt);
  const std::string added = *after.Issue(key.get(), {{"llm.house.example"}, {}}, 3600, kIssuedAt);
  EXPECT_EQ(Verdict(known, before, "pc1"), "ok");
  EXPECT_EQ(Verdict(known, before, "10.0.0.1"), "ok");
  EXPECT_EQ(Verdict(known, after, "pc1"), "ok");
  EXPECT_THAT(Verdict(added, before, "llm.house.example"), HasSubstr("subtree"));
  EXPECT_EQ(Verdict(added, after, "llm.house.example"), "ok");
}

TEST(HttpsAuthority, SurvivesPemAndRefusesOthers) {
  const HttpsAuthority ca = NewHttpsAuthority();
  EXPECT_EQ(HttpsAuthority::Load(ca.certificate_pem(), ca.key_pem())->certificate_pem(),
            ca.certificate_pem());
  EXPECT_FALSE(HttpsAuthority::Load(ca.certificate_pem(), NewHttpsAuthority().key_pem()).ok());
  EXPECT_FALSE(HttpsAuthority::Load("nonsense", ca.key_pem()).ok());
  const Authority cluster = *Authority::Create(kIssuedAt);
  EXPECT_THAT(
      std::string(
          HttpsAuthority::Load(cluster.certificate_pem(), cluster.key_pem()).status().message()),
      HasSubstr("name constraints"));
  EXPECT_TRUE(HasNameConstraints(ca.certificate_pem()));
  EXPECT_FALSE(HasNameConstraints(cluster.certificate_pem()));
  for (const char* bad : {"a,permitted;DNS:com", "a/b", "", "a\nb"})
    EXPECT_FALSE(HttpsAuthority::Create({{bad}, {}}, kIssuedAt).ok()) << bad;
}

// It is no node's and no administrator's authority.
TEST(HttpsAuthority, SignsForNoNode) {
  const HttpsAuthority ca = NewHttpsAuthority();
  const std::string forged =
      Forged(ca, "x", "URI:lanyard://0123456789abcdef/admin/" + std::string(32, '0') + "/x");
  const Authority cluster = *Authority::Create(kIssuedAt);
  EXPECT_FALSE(VerifyCertificate(X509FromPem(forged).get(), cluster.certificate(), kIssuedAt).ok());
}

class Files : public ::testing::Test {
 protected:
  Files() : folder_(::testing::TempDir() + absl::StrCat("https-", getpid())) {
    std::filesystem::create_directories(folder_);
  }
  ~Files() override { std::filesystem::remove_all(folder_); }
  // A pair as a house would have it, with the CA behind the certificate.
  void WritePair(const std::string& name, UnixTime now = kIssuedAt) {
    const HttpsAuthority ca = *HttpsAuthority::Create({{name}, {}}, now);
    const KeyPair key = *KeyPair::Generate();
    ASSERT_TRUE(
        WriteSmallFile(Cert(), *ca.Issue(key.get(), {{name}, {}}, 3600, now) + ca.certificate_pem())
            .ok());
    ASSERT_TRUE(WriteSmallFile(Key(), key.ToPem()).ok());
  }
  std::string Cert() const { return folder_ + "/house.crt"; }
  std::string Key() const { return folder_ + "/house.key"; }

  const std::string folder_;
};

TEST_F(Files, APairIsReadAndItsChangeIsSeen) {
  WritePair("llm.house.example");
  CertificateFiles files(Cert(), Key());
  EXPECT_TRUE(files.Changed());
  const auto read = *files.Read(kIssuedAt);
  EXPECT_EQ(read->names, std::vector<std::string>{"llm.house.example"});
  EXPECT_EQ(read->chain.size(), 2u);
  EXPECT_TRUE(read->IsFor("llm.house.example"));
  EXPECT_FALSE(read->IsFor("pc1"));
  EXPECT_FALSE(files.Changed());
  WritePair("llm2.house.example");
  EXPECT_TRUE(files.Changed());
}

TEST_F(Files, EachFaultHasItsWords) {
  CertificateFiles files(Cert(), Key());
  const auto why = [&](UnixTime now = kIssuedAt) {
    return std::string(files.Read(now).status().message());
  };
  EXPECT_THAT(why(), HasSubstr("there is no " + Cert()));
  WritePair("llm.house.example");
  EXPECT_EQ(why(), "");
  EXPECT_THAT(why(kIssuedAt + 7200), HasSubstr("expired at"));
  EXPECT_THAT(why(kIssuedAt - 7200), HasSubstr("valid from"));
  const std::string key = *ReadSmallFile(Key());
  ASSERT_TRUE(WriteSmallFile(Key(), KeyPair::Generate()->ToPem()).ok());
  EXPECT_THAT(why(), HasSubstr("not that of the first certificate"));
  ASSERT_TRUE(WriteSmallFile(Key(), "nonsense").ok());
  EXPECT_THAT(why(), HasSubstr("not a private key"));
  ASSERT_TRUE(WriteSmallFile(Key(), key).ok());
  ASSERT_TRUE(WriteSmallFile(Cert(), "nonsense").ok());
  EXPECT_THAT(why(), HasSubstr("no certificate in PEM"));
}

TEST_F(Files, WhatClientsAreGiven) {
  const HttpsAuthority ca = NewHttpsAuthority();
  ASSERT_TRUE(WriteClientFiles(folder_, ca.certificate_pem()).ok());
  const ClientFiles files = ClientFilesIn(folder_);
  EXPECT_EQ(*ReadSmallFile(files.ca), ca.certificate_pem());
  const std::string bundle = *ReadSmallFile(files.bundle, 16u << 20);
  EXPECT_TRUE(absl::EndsWith(bundle, ca.certificate_pem()));
  if (!files.system_store.empty()) {
    EXPECT_TRUE(absl::StartsWith(bundle, *ReadSmallFile(files.system_store, 16u << 20)));
    EXPECT_GT(bundle.size(), 2 * ca.certificate_pem().size());
  }
  for (const std::string& file : {files.ca, files.bundle}) {
    struct stat info {};
    ASSERT_EQ(stat(file.c_str(), &info), 0);
    EXPECT_EQ(info.st_mode & 0777, 0644u) << file;
  }
  ASSERT_TRUE(WriteClientFiles(folder_, "").ok());
  EXPECT_FALSE(std::filesystem::exists(files.ca) || std::filesystem::exists(files.bundle));
}

}  // namespace
}  // namespace lanyard::identity
