#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <openssl/pem.h>
#include <openssl/x509v3.h>
#include <sys/stat.h>
#include <unistd.h>

#include <filesystem>

#include "identity/authority.h"
#include "identity/credential.h"
#include "identity/join_token.h"
#include "identity/tls.h"

namespace lanyard::identity {
namespace {

using ::testing::HasSubstr;

constexpr UnixTime kNow = 1'790'000'000;

Authority NewAuthority() { return *Authority::Create(kNow); }

std::string Issue(const Authority& ca, const KeyPair& key, Role role,
                  const std::string& name = "pc-1") {
  return *ca.Issue(key.get(), {.role = role, .name = name}, kNow);
}

TEST(KeyPair, SurvivesPemAndKeepsItsId) {
  const KeyPair key = *KeyPair::Generate();
  EXPECT_TRUE(IsNodeId(key.node_id())) << key.node_id();
  EXPECT_EQ(KeyPair::FromPem(key.ToPem())->node_id(), key.node_id());
  EXPECT_NE(KeyPair::Generate()->node_id(), key.node_id());
  EXPECT_FALSE(KeyPair::FromPem("nonsense").ok());
  EXPECT_FALSE(KeyPair::FromPem(std::string(1 << 20, 'x')).ok());
}

TEST(KeyPair, OnlyP256) {
  const PkeyPtr other(EVP_EC_gen("P-384"));
  const BioPtr bio(BIO_new(BIO_s_mem()));
  PEM_write_bio_PrivateKey(bio.get(), other.get(), nullptr, nullptr, 0, nullptr, nullptr);
  EXPECT_THAT(KeyPair::FromPem(BioText(bio.get())).status().ToString(), HasSubstr("P-256"));
}

TEST(KeyPair, RequestMustBeSignedByItsKey) {
  const KeyPair key = *KeyPair::Generate();
  const std::string request = *key.MakeRequest();
  EXPECT_EQ(NodeIdOf(PublicKeyOfRequest(request)->get()), key.node_id());
  // Any altered character either breaks the PEM or the signature.
  int refused = 0;
  for (size_t i = 40; i + 40 < request.size(); ++i) {
    std::string bad = request;
    bad[i] = bad[i] == 'A' ? 'B' : 'A';
    if (request[i] == '\n') continue;
    EXPECT_FALSE(PublicKeyOfRequest(bad).ok()) << i;
    ++refused;
  }
  EXPECT_GT(refused, 200);
}

TEST(Authority, IssuesWhatVerifies) {
  const Authority ca = NewAuthority();
  const KeyPair key = *KeyPair::Generate();
  const X509Ptr certificate = X509FromPem(Issue(ca, key, Role::kWorker, "pc-7"));
  const Peer peer = *VerifyCertificate(certificate.get(), ca.certificate(), kNow);
  EXPECT_EQ(peer.cluster, ca.cluster());
  EXPECT_EQ(peer.role, Role::kWorker);
  EXPECT_EQ(peer.node, key.node_id());
  EXPECT_EQ(peer.name, "pc-7");
  EXPECT_EQ(peer.not_after, kNow + 24 * 3600);
  EXPECT_EQ(X509_check_host(certificate.get(), TlsName(Role::kWorker, key.node_id()).c_str(), 0, 0,
                            nullptr),
            1);
  EXPECT_NE(
      X509_check_host(certificate.get(), TlsName(Role::kCoordinator, "").c_str(), 0, 0, nullptr),
      1);
}

TEST(Authority, SurvivesPemAndRefusesAnotherKey) {
  const Authority ca = NewAuthority();
  const Authority again = *Authority::Load(ca.certificate_pem(), ca.key_pem());
  EXPECT_EQ(again.cluster(), ca.cluster());
  EXPECT_FALSE(Authority::Load(ca.certificate_pem(), NewAuthority().key_pem()).ok());
  const KeyPair key = *KeyPair::Generate();
  EXPECT_FALSE(
      Authority::Load(Issue(ca, key, Role::kWorker), key.ToPem()).ok());  // a node is no CA
}

TEST(Authority, EachRefusalHasItsWords) {
  const Authority ca = NewAuthority();
  const Authority other = NewAuthority();
  const KeyPair key = *KeyPair::Generate();
  const X509Ptr good = X509FromPem(Issue(ca, key, Role::kWorker));
  const auto why = [](const absl::StatusOr<Peer>& peer) {
    return std::string(peer.status().message());
  };
  EXPECT_THAT(why(VerifyCertificate(good.get(), other.certificate(), kNow)),
              HasSubstr("not issued by this cluster"));
  EXPECT_THAT(why(VerifyCertificate(good.get(), ca.certificate(), kNow + 24 * 3600 + 1)),
              HasSubstr("expired at"));
  EXPECT_THAT(why(VerifyCertificate(good.get(), ca.certificate(), kNow - 301)),
              HasSubstr("compare the clocks"));
  EXPECT_TRUE(VerifyCertificate(good.get(), ca.certificate(), kNow - 299).ok());
}

TEST(Authority, ChecksNamesAndLifetimes) {
  const Authority ca = NewAuthority();
  const KeyPair key = *KeyPair::Generate();
  const auto issue = [&](const IssueRequest& request) {
    return ca.Issue(key.get(), request, kNow).status();
  };
  for (const char* name : {"", "a/b", "a,DNS:coordinator.lanyard", "a b", "a\nb"}) {
    EXPECT_TRUE(absl::IsInvalidArgument(issue({.name = name}))) << name;
  }
  EXPECT_TRUE(absl::IsInvalidArgument(issue({.name = std::string(65, 'a')})));
  EXPECT_TRUE(absl::IsInvalidArgument(issue({.name = "a", .dns_names = {"x,DNS:y"}})));
  EXPECT_TRUE(absl::IsInvalidArgument(issue({.name = "a", .lifetime_seconds = 24 * 3600 + 1})));
  EXPECT_TRUE(absl::IsInvalidArgument(issue({.name = "a", .lifetime_seconds = 0})));
}

TEST(JoinToken, RoundTrip) {
  const JoinToken token = *JoinToken::Make(NewAuthority().fingerprint());
  const JoinToken read = *JoinToken::Decode(" " + token.Encode() + "\n");
  EXPECT_EQ(read.ca_fingerprint, token.ca_fingerprint);
  EXPECT_EQ(read.id, token.id);
  EXPECT_EQ(read.secret, token.secret);
  EXPECT_NE(JoinToken::Make(token.ca_fingerprint)->secret, token.secret);
}

TEST(JoinToken, EveryFlippedBitAndEveryTruncationIsRefused) {
  const std::string text = JoinToken::Make(NewAuthority().fingerprint())->Encode();
  for (size_t i = 0; i < text.size(); ++i) {
    for (int bit = 0; bit < 8; ++bit) {
      std::string bad = text;
      bad[i] = static_cast<char>(bad[i] ^ (1 << bit));
      EXPECT_FALSE(JoinToken::Decode(bad).ok()) << i << " " << bit;
    }
    EXPECT_FALSE(JoinToken::Decode(text.substr(0, i)).ok());
  }
  const auto why = [](const std::string& s) {
    return std::string(JoinToken::Decode(s).status().message());
  };
  EXPECT_THAT(why(text.substr(0, 60)), HasSubstr("cut short: 60 characters"));
  std::string altered = text;
  altered[50] = altered[50] == 'x' ? 'y' : 'x';
  EXPECT_THAT(why(altered), HasSubstr("altered"));
  EXPECT_THAT(why("lyt2." + text.substr(5)), HasSubstr("another version"));
  EXPECT_THAT(why("hello"), HasSubstr("not a join token"));
}

TEST(Credential, BelongsToItsKey) {
  const Authority ca = NewAuthority();
  const KeyPair key = *KeyPair::Generate();
  const std::string certificate = Issue(ca, key, Role::kWorker);
  EXPECT_TRUE(Credential::Make(key, certificate, ca.certificate_pem(), kNow).ok());
  EXPECT_FALSE(
      Credential::Make(*KeyPair::Generate(), certificate, ca.certificate_pem(), kNow).ok());
  EXPECT_FALSE(Credential::Make(key, certificate, NewAuthority().certificate_pem(), kNow).ok());
  EXPECT_FALSE(Credential::Make(key, certificate, ca.certificate_pem(), kNow + 25 * 3600).ok());
}

TEST(LiveCredential, OnlyTheSameNodeFollows) {
  const Authority ca = NewAuthority();
  const KeyPair key = *KeyPair::Generate();
  const auto make = [&](const KeyPair& k) {
    return *Credential::Make(k, Issue(ca, k, Role::kWorker), ca.certificate_pem(), kNow);
  };
  LiveCredential live(make(key));
  const auto next = make(key);
  EXPECT_TRUE(live.Replace(next).ok());
  EXPECT_EQ(live.Get(), next);
  EXPECT_FALSE(live.Replace(make(*KeyPair::Generate())).ok());
}

TEST(IdentityFolder, KeepsKeyAndCertificatesPrivate) {
  const std::string path = ::testing::TempDir() + "/identity_" + std::to_string(getpid());
  const IdentityFolder folder = *IdentityFolder::Open(path);
  const KeyPair key = *folder.Key();
  EXPECT_EQ(folder.Key()->node_id(), key.node_id());
  struct stat info {};
  ASSERT_EQ(stat((path + "/node.key").c_str(), &info), 0);
  EXPECT_EQ(info.st_mode & 0777, 0600U);
  EXPECT_FALSE(folder.Load()->has_value());
  ASSERT_TRUE(folder.Save({"certificate", "ca", "pc0:7470"}).ok());
  ASSERT_TRUE(folder.SaveCertificate("newer").ok());
  const auto joined = *folder.Load();
  EXPECT_EQ(joined->certificate_pem, "newer");
  EXPECT_EQ(joined->ca_pem, "ca");
  EXPECT_EQ(joined->coordinator, "pc0:7470");
  std::filesystem::remove_all(path);
}

}  // namespace
}  // namespace lanyard::identity
