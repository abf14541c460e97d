#include "identity/key_pair.h"

#include <openssl/ec.h>
#include <openssl/pem.h>
#include <openssl/sha.h>

#include <array>

#include "absl/strings/escaping.h"

namespace lanyard::identity {
namespace {

constexpr size_t kNodeIdBytes = 16;
constexpr size_t kMaxPemBytes = 16 << 10;

bool IsP256(EVP_PKEY* key) {
  std::array<char, 64> group{};
  size_t n = 0;
  return EVP_PKEY_is_a(key, "EC") == 1 &&
         EVP_PKEY_get_group_name(key, group.data(), group.size(), &n) == 1 &&
         std::string_view(group.data(), n) == "prime256v1";
}

}  // namespace

std::string NodeIdOf(EVP_PKEY* key) {
  unsigned char* der = nullptr;
  const int n = i2d_PUBKEY(key, &der);
  if (n <= 0) return "";
  std::array<unsigned char, SHA256_DIGEST_LENGTH> digest{};
  SHA256(der, static_cast<size_t>(n), digest.data());
  OPENSSL_free(der);
  return absl::BytesToHexString(
      absl::string_view(reinterpret_cast<const char*>(digest.data()), kNodeIdBytes));
}

bool IsNodeId(std::string_view s) {
  return s.size() == 2 * kNodeIdBytes &&
         s.find_first_not_of("0123456789abcdef") == std::string_view::npos;
}

KeyPair::KeyPair(PkeyPtr key) : key_(std::move(key)), node_id_(NodeIdOf(key_.get())) {}

absl::StatusOr<KeyPair> KeyPair::Generate() {
  PkeyPtr key(EVP_EC_gen("P-256"));
  if (key == nullptr) return Internal("cannot make a key pair: ", OpenSslError());
  return KeyPair(std::move(key));
}

absl::StatusOr<KeyPair> KeyPair::FromPem(std::string_view pem) {
  if (pem.size() > kMaxPemBytes) return InvalidArgument("a key of ", pem.size(), " bytes is none");
  const BioPtr bio = ReadBio(pem);
  // The callback refuses an encrypted key instead of asking at the terminal.
  const auto no_password = [](char*, int, int, void*) { return -1; };
  PkeyPtr key(PEM_read_bio_PrivateKey(bio.get(), nullptr, no_password, nullptr));
  if (key == nullptr)
    return InvalidArgument("not an unencrypted private key in PEM: ", OpenSslError());
  if (!IsP256(key.get())) return InvalidArgument("not a P-256 key");
  return KeyPair(std::move(key));
}

std::string KeyPair::ToPem() const {
  const BioPtr bio(BIO_new(BIO_s_secmem()));
  PEM_write_bio_PKCS8PrivateKey(bio.get(), key_.get(), nullptr, nullptr, 0, nullptr, nullptr);
  return BioText(bio.get());
}

absl::StatusOr<std::string> KeyPair::MakeRequest() const {
  const X509ReqPtr request(X509_REQ_new());
  X509_REQ_set_version(request.get(), X509_REQ_VERSION_1);
  X509_NAME* subject = X509_REQ_get_subject_name(request.get());
  X509_NAME_add_entry_by_txt(subject, "CN", MBSTRING_ASC,
                             reinterpret_cast<const unsigned char*>(node_id_.c_str()), -1, -1, 0);
  if (X509_REQ_set_pubkey(request.get(), key_.get()) != 1 ||
      X509_REQ_sign(request.get(), key_.get(), EVP_sha256()) <= 0) {
    return Internal("cannot sign a certificate request: ", OpenSslError());
  }
  const BioPtr bio(BIO_new(BIO_s_mem()));
  PEM_write_bio_X509_REQ(bio.get(), request.get());
  return BioText(bio.get());
}

absl::StatusOr<PkeyPtr> PublicKeyOfRequest(std::string_view request_pem) {
  if (request_pem.size() > kMaxPemBytes)
    return InvalidArgument("a certificate request of ", request_pem.size(), " bytes");
  const BioPtr bio = ReadBio(request_pem);
  const X509ReqPtr request(PEM_read_bio_X509_REQ(bio.get(), nullptr, nullptr, nullptr));
  if (request == nullptr)
    return InvalidArgument("not a certificate request in PEM: ", OpenSslError());
  PkeyPtr key(X509_REQ_get_pubkey(request.get()));
  if (key == nullptr || !IsP256(key.get())) {
    OpenSslError();
    return InvalidArgument("the certificate request is not for a P-256 key");
  }
  if (X509_REQ_verify(request.get(), key.get()) != 1) {
    OpenSslError();
    return InvalidArgument("the certificate request is not signed by its own key");
  }
  return key;
}

}  // namespace lanyard::identity
