#include "identity/authority.h"

#include <openssl/x509v3.h>

#include "identity/x509_build.h"

namespace lanyard::identity {
namespace {

constexpr size_t kMaxNameBytes = 64;

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
  RETURN_IF_ERROR(CheckNameText("the machine's name", request.name, "._-"));
  if (request.name.size() > kMaxNameBytes)
    return InvalidArgument("the machine's name has ", request.name.size(), " characters; at most ",
                           kMaxNameBytes);
  for (const std::string& name : request.dns_names)
    RETURN_IF_ERROR(CheckNameText("DNS name", name, ".-_"));
  for (const std::string& address : request.addresses)
    RETURN_IF_ERROR(CheckNameText("address", address, ".:"));
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
  // The key's id tells two clusters' authorities apart by name already.
  ASSIGN_OR_RETURN(X509Ptr certificate,
                   BeginCertificate(nullptr, key.get(), "Lanyard cluster " + key.node_id()));
  X509* const x = certificate.get();
  // From long ago: a clock that was ahead at the first start must not make the CA one of the
  // future.
  SetTimes(x, kAuthorityFrom, now + kAuthorityDays * 24 * 3600);
  RETURN_IF_ERROR(AddExtension(x, x, NID_basic_constraints, "critical,CA:TRUE,pathlen:0"));
  RETURN_IF_ERROR(AddExtension(x, x, NID_key_usage, "critical,keyCertSign,cRLSign"));
  RETURN_IF_ERROR(AddExtension(x, x, NID_subject_key_identifier, "hash"));
  RETURN_IF_ERROR(SignCertificate(x, key.get()));
  return Authority(std::move(key), std::move(certificate));
}

absl::StatusOr<Authority> Authority::Load(std::string_view certificate_pem,
                                          std::string_view key_pem) {
  ASSIGN_OR_RETURN(CaPair ca, LoadCa("the cluster's CA", certificate_pem, key_pem));
  return Authority(std::move(ca.key), std::move(ca.certificate));
}

absl::StatusOr<std::string> Authority::Issue(EVP_PKEY* key, const IssueRequest& request,
                                             UnixTime now) const {
  RETURN_IF_ERROR(Check(request));
  X509* const ca = certificate_.get();
  ASSIGN_OR_RETURN(const X509Ptr certificate, BeginCertificate(ca, key, request.name));
  X509* const x = certificate.get();
  SetTimes(x, now - kClockToleranceSeconds, now + request.lifetime_seconds);
  RETURN_IF_ERROR(AddExtension(x, ca, NID_basic_constraints, "critical,CA:FALSE"));
  RETURN_IF_ERROR(AddExtension(x, ca, NID_key_usage, "critical,digitalSignature"));
  RETURN_IF_ERROR(
      AddExtension(x, ca, NID_ext_key_usage,
                   request.role == Role::kAdmin ? "clientAuth" : "serverAuth,clientAuth"));
  RETURN_IF_ERROR(AddExtension(x, ca, NID_authority_key_identifier, "keyid"));
  RETURN_IF_ERROR(AddExtension(x, ca, NID_subject_alt_name,
                               AlternativeNames(request, cluster_, NodeIdOf(key))));
  RETURN_IF_ERROR(SignCertificate(x, key_.get()));
  return PemOf(x);
}

}  // namespace lanyard::identity
