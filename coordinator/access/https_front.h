// What HTTPS clients of this coordinator are shown: certificates of a CA with name constraints that
// this keeps in STATE/ca/https-ca.{key,crt}, or the house's own from two files, or, in a cluster
// that is older than those constraints, the coordinator's certificate of the cluster's CA. No
// sockets.
#pragma once

#include <functional>
#include <memory>
#include <optional>
#include <string>
#include <vector>

#include "base/mutex.h"
#include "base/status.h"
#include "identity/credential.h"
#include "identity/https_authority.h"
#include "identity/server_certificate.h"
#include "identity/tls.h"

namespace lanyard::coordinator {

struct HttpsOptions {
  std::string certificate_file = {};  // the house's own; empty: the pool's CA
  std::string key_file = {};
  bool tls12 = true;  // false: 1.3 only
  // The CA permits this machine's IPv4 addresses that the internet routes, too.
  bool public_addresses = false;
};

struct HttpsFrontOptions {
  std::string folder;                   // of the CAs
  std::string machine;                  // its name
  std::vector<std::string> names = {};  // names and addresses that clients use besides
  // Of this machine, now.
  std::function<std::vector<std::string>()> addresses;
  int64_t certificate_seconds = 0;
  HttpsOptions https = {};
};

// Thread-safe after Open.
class HttpsFront {
 public:
  // In a new cluster it makes its CA. Errors: a CA or a pair of the house's that cannot be used.
  static absl::StatusOr<std::unique_ptr<HttpsFront>> Open(const HttpsFrontOptions& options,
                                                          bool new_cluster, identity::UnixTime now);

  // For a connection that is accepted now. Null when there is none, which was logged.
  std::shared_ptr<ssl_ctx_st> Context(const std::shared_ptr<const identity::Credential>& cluster);
  // Makes a certificate if `renew` asks for one, and looks whether one is due, the machine's
  // addresses or the house's files have changed.
  absl::Status Look(identity::UnixTime now, bool renew = false);
  // A new CA with a new key, which every client must be given. FailedPrecondition with a pair of
  // the house's.
  absl::Status NewAuthority(identity::UnixTime now);

  bool is_house() const { return files_.has_value(); }
  bool constrained();
  // The CA that clients need, given the cluster's; empty with a pair of the house's.
  std::string CaPem(const std::string& cluster_ca_pem);
  // The house's certificate is for this host, or it is not the house's.
  bool IsFor(const std::string& host);
  // Names and addresses that the certificates are for.
  std::vector<std::string> Names();

 private:
  using Shown = std::shared_ptr<const identity::ServerCertificate>;

  HttpsFront(const HttpsFrontOptions& options, identity::KeyPair key)
      : options_(options), key_(std::move(key)) {}
  absl::Status OpenAuthority(bool new_cluster, identity::UnixTime now);
  absl::Status OpenHouse(identity::UnixTime now);
  absl::Status Save() ABSL_EXCLUSIVE_LOCKS_REQUIRED(mu_);
  absl::Status Issue(identity::UnixTime now) ABSL_EXCLUSIVE_LOCKS_REQUIRED(mu_);
  absl::StatusOr<Shown> One(const identity::HttpsNames& names, identity::UnixTime now)
      ABSL_EXCLUSIVE_LOCKS_REQUIRED(mu_);
  void LookAtFiles(identity::UnixTime now) ABSL_LOCKS_EXCLUDED(mu_);

  const HttpsFrontOptions options_;
  const identity::KeyPair key_;  // of this process's certificates
  // Held while the house's files are read, which may take long where they lie on another machine.
  // Taken before mu_.
  Mutex files_mu_;
  std::optional<identity::CertificateFiles> files_;      // set once; its state is under files_mu_
  bool retry_files_ ABSL_GUARDED_BY(files_mu_) = false;  // the last pair seen cannot be used
  Mutex mu_;                                             // never held while those files are read
  std::optional<identity::HttpsAuthority> authority_ ABSL_GUARDED_BY(mu_);
  Shown usual_ ABSL_GUARDED_BY(mu_);  // null: the cluster's
  std::map<std::string, Shown> by_name_ ABSL_GUARDED_BY(mu_);
  std::vector<std::string> addresses_ ABSL_GUARDED_BY(mu_);  // that usual_ was made for
  identity::UnixTime issued_ ABSL_GUARDED_BY(mu_) = 0;
  std::shared_ptr<const identity::Credential> context_of_ ABSL_GUARDED_BY(mu_);
  std::shared_ptr<ssl_ctx_st> context_ ABSL_GUARDED_BY(mu_);
};

// Splits what --http-name was given into names and addresses.
identity::HttpsNames SplitNames(const std::vector<std::string>& names);

}  // namespace lanyard::coordinator
