#include "identity/authority.h"

#include <openssl/rand.h>
#include <openssl/x509v3.h>

#include <array>
#include <cctype>

namespace lanyard::identity {
namespace {

constexpr size_t kMaxNameBytes = 64;
constexpr UnixTime kAuthorityFrom = 1'577'836'800;  // 2020-01-01

absl::Status CheckName(std::string_view what, std::string_view name, std::string_view extra) {
  bool good = !name.empty() && name.size() <= 253;
  for (const char c : name)
    good =
        good && (std::isalnum(static_cast<unsigned char>(c)) != 0 || extra.find(c) != extra.npos);
  if (good) return absl::OkStatus();
  return InvalidArgument(AbslView(what), " '", AbslView(name.substr(0, kMaxNameBytes)),
                         "' is not made of letters, digits and ", AbslView(extra));
}

// It has 16 random bytes and is positive.
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

void SetTimes(X509* certificate, UnixTime from, UnixTime to) {
  ASN1_TIME_set(X509_getm_notBefore(certificate), from);
  ASN1_TIME_set(X509_getm_notAfter(certificate), to);
}

void SetName(X509_NAME* name, const char* field, const std::string& value) {
  X509_NAME_add_entry_by_txt(name, field, MBSTRING_ASC,
                             reinterpret_cast<const unsigned char*>(value.c_str()), -1, -1, 0);
}

std::string AlternativeNames(const IssueRequest& request, const std::string& cluster,
                             const std::string& node) {
  std::string out = absl::StrCat("URI:lanyard://", cluster, "/", RoleName(request.role), "/", node,
                                 "/", request.name, ",DNS:", TlsName(request.role, node));
  if (request.role == Role::kCoordinator) absl::StrAppend(&out, ",DNS:", TlsName(request.role, ""));
  for (const std::string& name : request.dns_names) absl::StrAppend(&out, ",DNS:", name);
  for (const std::string& address : request.addresses) absl::StrAppend(&out, ",IP:", address);
  return out;
}

absl::Status Check(const IssueRequest& request) {
  RETURN_IF_ERROR(CheckName("the machine's name", request.name, "._-"));
  if (request.name.size() > kMaxNameBytes)
    return InvalidArgument("the machine's name has ", request.name.size(), " characters; at most ",
                           kMaxNameBytes);
  for (const std::string& name : request.dns_names)
    RETURN_IF_ERROR(CheckName("DNS name", name, ".-_"));
  for (const std::string& address : request.addresses)
    RETURN_IF_ERROR(CheckName("address", address, ".:"));
  if (request.lifetime_seconds < 1 || request.lifetime_seconds > kNodeCertificateSeconds) {
    return InvalidArgument("a certificate for ", request.lifetime_seconds, " s; 1 to ",
                           kNodeCertificateSeconds, " are given");
  }
  return absl::OkStatus();
}

}  // namespace

Authority::Authority(KeyPair key, X509Ptr certificate)
    : key_(std::move(key)),
      certificate_(std::move(certificate)),
      pem_(PemOf(certificate_.get())),
      cluster_(ClusterIdOf(certificate_.get())) {}

absl::StatusOr<Authority> Authority::Create(UnixTime now) {
  ASSIGN_OR_RETURN(KeyPair key, KeyPair::Generate());
  X509Ptr certificate(X509_new());
  X509* const x = certificate.get();
  X509_set_version(x, X509_VERSION_3);
  RETURN_IF_ERROR(SetSerial(x));
  // It is valid from long ago: a clock that was ahead at the first start must not make the CA one
  // of the future.
  SetTimes(x, kAuthorityFrom, now + kAuthorityDays * 24 * 3600);
  SetName(X509_get_subject_name(x), "O", "Lanyard");
  // The key's id already tells two clusters' authorities apart by name.
  SetName(X509_get_subject_name(x), "CN", "Lanyard cluster " + key.node_id());
  X509_set_issuer_name(x, X509_get_subject_name(x));
  X509_set_pubkey(x, key.get());
  RETURN_IF_ERROR(AddExtension(x, x, NID_basic_constraints, "critical,CA:TRUE,pathlen:0"));
  RETURN_IF_ERROR(AddExtension(x, x, NID_key_usage, "critical,keyCertSign,cRLSign"));
  RETURN_IF_ERROR(AddExtension(x, x, NID_subject_key_identifier, "hash"));
  if (X509_sign(x, key.get(), EVP_sha256()) <= 0)
    return Internal("cannot sign the CA's certificate: ", OpenSslError());
  return Authority(std::move(key), std::move(certificate));
}

absl::StatusOr<Authority> Authority::Load(std::string_view certificate_pem,
                                          std::string_view key_pem) {
  X509Ptr certificate = X509FromPem(certificate_pem);
  if (certificate == nullptr) return InvalidArgument("the CA's certificate is not PEM");
  ASSIGN_OR_RETURN(KeyPair key, KeyPair::FromPem(key_pem));
  if (X509_check_private_key(certificate.get(), key.get()) != 1) {
    OpenSslError();
    return InvalidArgument("the CA's key and certificate do not belong together");
  }
  if (X509_check_ca(certificate.get()) != 1)
    return InvalidArgument("the certificate is not a CA's");
  return Authority(std::move(key), std::move(certificate));
}

absl::StatusOr<std::string> Authority::Issue(EVP_PKEY* key, const IssueRequest& request,
                                             UnixTime now) const {
  RETURN_IF_ERROR(Check(request));
  const X509Ptr certificate(X509_new());
  X509* const x = certificate.get();
  X509_set_version(x, X509_VERSION_3);
  RETURN_IF_ERROR(SetSerial(x));
  SetTimes(x, now - kClockToleranceSeconds, now + request.lifetime_seconds);
  SetName(X509_get_subject_name(x), "O", "Lanyard");
  SetName(X509_get_subject_name(x), "CN", request.name);
  X509_set_issuer_name(x, X509_get_subject_name(certificate_.get()));
  X509_set_pubkey(x, key);
  X509* const ca = certificate_.get();
  RETURN_IF_ERROR(AddExtension(x, ca, NID_basic_constraints, "critical,CA:FALSE"));
  RETURN_IF_ERROR(AddExtension(x, ca, NID_key_usage, "critical,digitalSignature"));
  RETURN_IF_ERROR(
      AddExtension(x, ca, NID_ext_key_usage,
                   request.role == Role::kAdmin ? "clientAuth" : "serverAuth,clientAuth"));
  RETURN_IF_ERROR(AddExtension(x, ca, NID_authority_key_identifier, "keyid"));
  RETURN_IF_ERROR(AddExtension(x, ca, NID_subject_alt_name,
                               AlternativeNames(request, cluster_, NodeIdOf(key))));
  if (X509_sign(x, key_.get(), EVP_sha256()) <= 0)
    return Internal("cannot sign a certificate: ", OpenSslError());
  return PemOf(x);
}

}  // namespace lanyard::identity
