// The cluster's certificate authority: an ECDSA P-256 key, which the coordinator makes at its first
// start and which never leaves it.
#pragma once

#include <memory>
#include <string>
#include <string_view>
#include <vector>

#include "base/status.h"
#include "identity/certificate.h"
#include "identity/key_pair.h"

namespace lanyard::identity {

inline constexpr int64_t kAuthorityDays = 3650;
inline constexpr UnixTime kAuthorityFrom = 1'577'836'800;  // 2020-01-01
inline constexpr int64_t kNodeCertificateSeconds =
    24 * 3600;  // at most; how long a cluster's live is its own to say
inline constexpr int64_t kLeastCertificateSeconds = 5;
// Clocks of office machines differ, so certificates are valid from this long before their issue.
inline constexpr int64_t kClockToleranceSeconds = 300;

struct IssueRequest {
  Role role = Role::kWorker;
  std::string name;  // the machine's name: A-Z a-z 0-9 . _ -
  // Further names and addresses at which the machine is reached (HTTPS).
  std::vector<std::string> dns_names = {};
  std::vector<std::string> addresses = {};
  int64_t lifetime_seconds = kNodeCertificateSeconds;  // at most the default
};

// Immutable, thread-safe.
class Authority {
 public:
  static absl::StatusOr<Authority> Create(UnixTime now);
  // InvalidArgument when certificate and key do not belong together, or when it is no CA.
  static absl::StatusOr<Authority> Load(std::string_view certificate_pem, std::string_view key_pem);

  const std::string& certificate_pem() const { return pem_; }
  std::string key_pem() const { return key_.ToPem(); }
  X509* certificate() const { return certificate_.get(); }
  const std::string& cluster() const { return cluster_; }
  std::string fingerprint() const { return FingerprintOf(certificate_.get()); }

  // Issues a certificate (PEM) for the key. InvalidArgument: the name or the lifetime is not
  // allowed.
  absl::StatusOr<std::string> Issue(EVP_PKEY* key, const IssueRequest& request, UnixTime now) const;

 private:
  Authority(KeyPair key, X509Ptr certificate);

  KeyPair key_;
  std::shared_ptr<X509> certificate_;
  std::string pem_;
  std::string cluster_;
};

}  // namespace lanyard::identity
