#include "identity/x509_build.h"

#include <openssl/rand.h>
#include <openssl/x509v3.h>

#include <array>
#include <cctype>

namespace lanyard::identity {
namespace {

constexpr size_t kMaxDnsBytes = 253;  // of a name in DNS
constexpr size_t kShownBytes = 64;

// 16 random bytes, positive.
absl::Status SetSerial(X509* certificate) {
  std::array<unsigned char, 16> bytes{};
  if (RAND_bytes(bytes.data(), bytes.size()) != 1)
    return Internal("no random bytes: ", OpenSslError());
  bytes[0] = (bytes[0] & 0x7f) | 0x40;
  using Number = std::unique_ptr<BIGNUM, OpenSslFree<BN_free>>;
  const Number number(BN_bin2bn(bytes.data(), bytes.size(), nullptr));
  if (BN_to_ASN1_INTEGER(number.get(), X509_get_serialNumber(certificate)) == nullptr)
    return Internal(OpenSslError());
  return absl::OkStatus();
}

void SetName(X509_NAME* name, const char* field, const std::string& value) {
  X509_NAME_add_entry_by_txt(name, field, MBSTRING_ASC,
                             reinterpret_cast<const unsigned char*>(value.c_str()), -1, -1, 0);
}

}  // namespace

absl::Status CheckNameText(std::string_view what, std::string_view name, std::string_view extra) {
  bool good = !name.empty() && name.size() <= kMaxDnsBytes;
  for (const char c : name)
    good =
        good && (std::isalnum(static_cast<unsigned char>(c)) != 0 || extra.find(c) != extra.npos);
  if (good) return absl::OkStatus();
  return InvalidArgument(AbslView(what), " '", AbslView(name.substr(0, kShownBytes)),
                         "' is not made of letters, digits and ", AbslView(extra));
}

absl::StatusOr<X509Ptr> BeginCertificate(X509* issuer, EVP_PKEY* key,
                                         const std::string& common_name) {
  X509Ptr certificate(X509_new());
  X509* const x = certificate.get();
  X509_set_version(x, X509_VERSION_3);
  RETURN_IF_ERROR(SetSerial(x));
  SetName(X509_get_subject_name(x), "O", "Lanyard");
  SetName(X509_get_subject_name(x), "CN", common_name);
  X509_set_issuer_name(x, X509_get_subject_name(issuer != nullptr ? issuer : x));
  X509_set_pubkey(x, key);
  return certificate;
}

void SetTimes(X509* certificate, UnixTime from, UnixTime to) {
  ASN1_TIME_set(X509_getm_notBefore(certificate), from);
  ASN1_TIME_set(X509_getm_notAfter(certificate), to);
}

absl::Status AddExtension(X509* certificate, X509* issuer, int nid, const std::string& value) {
  X509V3_CTX context;
  X509V3_set_ctx(&context, issuer, certificate, nullptr, nullptr, 0);
  using Extension = std::unique_ptr<X509_EXTENSION, OpenSslFree<X509_EXTENSION_free>>;
  const Extension extension(X509V3_EXT_conf_nid(nullptr, &context, nid, value.c_str()));
  if (extension == nullptr || X509_add_ext(certificate, extension.get(), -1) != 1) {
    return Internal("cannot add '", value, "' to a certificate: ", OpenSslError());
  }
  return absl::OkStatus();
}

absl::Status SignCertificate(X509* certificate, EVP_PKEY* authority_key) {
  if (X509_sign(certificate, authority_key, EVP_sha256()) > 0) return absl::OkStatus();
  return Internal("cannot sign a certificate: ", OpenSslError());
}

absl::StatusOr<CaPair> LoadCa(std::string_view what, std::string_view certificate_pem,
                              std::string_view key_pem) {
  X509Ptr certificate = X509FromPem(certificate_pem);
  if (certificate == nullptr)
    return InvalidArgument("the certificate of ", AbslView(what), " is not PEM");
  ASSIGN_OR_RETURN(KeyPair key, KeyPair::FromPem(key_pem));
  if (X509_check_private_key(certificate.get(), key.get()) != 1) {
    OpenSslError();
    return InvalidArgument("the key and the certificate of ", AbslView(what),
                           " do not belong together");
  }
  if (X509_check_ca(certificate.get()) != 1)
    return InvalidArgument("the certificate of ", AbslView(what), " is not a CA's");
  return CaPair{std::move(key), std::move(certificate)};
}

}  // namespace lanyard::identity
