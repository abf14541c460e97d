#include "identity/certificate.h"

#include <openssl/x509v3.h>

#include <array>
#include <ctime>
#include <vector>

#include "absl/strings/escaping.h"
#include "absl/strings/str_split.h"
#include "identity/key_pair.h"

namespace lanyard::identity {
namespace {

constexpr std::string_view kScheme = "lanyard://";

UnixTime TimeOf(const ASN1_TIME* time) {
  std::tm parts{};
  if (time == nullptr || ASN1_TIME_to_tm(time, &parts) != 1) return 0;
  return timegm(&parts);
}

// The lanyard:// URI among the subject's alternative names; exactly one.
absl::StatusOr<std::string> UriOf(X509* certificate) {
  using Names = std::unique_ptr<GENERAL_NAMES, OpenSslFree<GENERAL_NAMES_free>>;
  const Names names(static_cast<GENERAL_NAMES*>(
      X509_get_ext_d2i(certificate, NID_subject_alt_name, nullptr, nullptr)));
  std::string found;
  for (int i = 0; names != nullptr && i < sk_GENERAL_NAME_num(names.get()); ++i) {
    const GENERAL_NAME* name = sk_GENERAL_NAME_value(names.get(), i);
    if (name->type != GEN_URI) continue;
    const ASN1_IA5STRING* uri = name->d.uniformResourceIdentifier;
    const std::string text(reinterpret_cast<const char*>(ASN1_STRING_get0_data(uri)),
                           static_cast<size_t>(ASN1_STRING_length(uri)));
    if (text.substr(0, kScheme.size()) != kScheme) continue;
    if (!found.empty()) return absl::UnauthenticatedError("the certificate names two identities");
    found = text;
  }
  if (found.empty())
    return absl::UnauthenticatedError("the certificate is not one of a Lanyard cluster");
  return found;
}

std::string SerialOf(X509* certificate) {
  using Number = std::unique_ptr<BIGNUM, OpenSslFree<BN_free>>;
  const Number number(ASN1_INTEGER_to_BN(X509_get0_serialNumber(certificate), nullptr));
  if (number == nullptr) return "";
  char* hex = BN_bn2hex(number.get());
  std::string out = hex == nullptr ? "" : hex;
  OPENSSL_free(hex);
  return out;
}

}  // namespace

std::string RoleName(Role role) {
  switch (role) {
    case Role::kCoordinator:
      return "coordinator";
    case Role::kWorker:
      return "worker";
    case Role::kAdmin:
      return "admin";
  }
  return "unknown";
}

absl::StatusOr<Role> ParseRole(std::string_view s) {
  for (const Role role : {Role::kCoordinator, Role::kWorker, Role::kAdmin}) {
    if (s == RoleName(role)) return role;
  }
  return InvalidArgument("role '", AbslView(s), "' is not one of coordinator, worker, admin");
}

UnixTime NotBeforeOf(X509* certificate) { return TimeOf(X509_get0_notBefore(certificate)); }
UnixTime NotAfterOf(X509* certificate) { return TimeOf(X509_get0_notAfter(certificate)); }

std::string TimeText(UnixTime time) {
  std::tm parts{};
  const std::time_t t = time;
  gmtime_r(&t, &parts);
  std::array<char, 32> out{};
  std::strftime(out.data(), out.size(), "%Y-%m-%d %H:%M:%SZ", &parts);
  return out.data();
}

UnixTime WallNow() { return std::time(nullptr); }

std::string TlsName(Role role, std::string_view node) {
  return node.empty() ? RoleName(role) + ".lanyard"
                      : absl::StrCat(AbslView(node), ".", RoleName(role), ".lanyard");
}

std::string FingerprintOf(X509* certificate) {
  std::array<unsigned char, EVP_MAX_MD_SIZE> digest{};
  unsigned int n = 0;
  if (X509_digest(certificate, EVP_sha256(), digest.data(), &n) != 1) return "";
  return {reinterpret_cast<const char*>(digest.data()), n};
}

std::string ClusterIdOf(X509* ca) { return absl::BytesToHexString(FingerprintOf(ca).substr(0, 8)); }

absl::StatusOr<Peer> PeerOf(X509* certificate) {
  ASSIGN_OR_RETURN(const std::string uri, UriOf(certificate));
  const std::vector<std::string> parts = absl::StrSplit(uri.substr(kScheme.size()), '/');
  const absl::Status malformed =
      absl::UnauthenticatedError("the certificate's identity is malformed");
  if (parts.size() != 4 || parts[0].size() != 16 || !IsNodeId(parts[2]) || parts[3].empty())
    return malformed;
  const absl::StatusOr<Role> role = ParseRole(parts[1]);
  if (!role.ok()) return malformed;
  // The id must be that of the key, so that a certificate cannot speak for another node.
  if (NodeIdOf(X509_get0_pubkey(certificate)) != parts[2]) return malformed;
  Peer out;
  out.cluster = parts[0];
  out.role = *role;
  out.node = parts[2];
  out.name = parts[3];
  out.not_before = NotBeforeOf(certificate);
  out.not_after = NotAfterOf(certificate);
  out.serial = SerialOf(certificate);
  return out;
}

absl::StatusOr<Peer> PeerOfPem(std::string_view pem) {
  const X509Ptr certificate = X509FromPem(pem);
  if (certificate == nullptr) return absl::UnauthenticatedError("not a certificate in PEM");
  return PeerOf(certificate.get());
}

absl::StatusOr<Peer> VerifyCertificate(X509* certificate, X509* ca, UnixTime now) {
  if (X509_verify(certificate, X509_get0_pubkey(ca)) != 1 ||
      X509_NAME_cmp(X509_get_issuer_name(certificate), X509_get_subject_name(ca)) != 0) {
    OpenSslError();
    return absl::UnauthenticatedError("the certificate was not issued by this cluster");
  }
  ASSIGN_OR_RETURN(Peer peer, PeerOf(certificate));
  if (peer.cluster != ClusterIdOf(ca)) {
    return absl::UnauthenticatedError(absl::StrCat("the certificate is for cluster ", peer.cluster,
                                                   ", this is ", ClusterIdOf(ca)));
  }
  if (now > peer.not_after) {
    return absl::UnauthenticatedError(
        absl::StrCat("the certificate of '", peer.name, "' expired at ", TimeText(peer.not_after)));
  }
  if (now < peer.not_before) {
    return absl::UnauthenticatedError(absl::StrCat(
        "the certificate of '", peer.name, "' is valid from ", TimeText(peer.not_before),
        " on, and the clock here says ", TimeText(now), ": compare the clocks"));
  }
  return peer;
}

}  // namespace lanyard::identity
