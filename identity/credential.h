// What a node proves itself with: its key, its present certificate, and the CA against which it and
// its peers are checked. It is renewed while streams run: each new connection asks for the current
// one.
#pragma once

#include <functional>
#include <memory>
#include <optional>
#include <string>

#include "base/mutex.h"
#include "base/status.h"
#include "identity/certificate.h"
#include "identity/key_pair.h"

namespace lanyard::identity {

// Immutable.
struct Credential {
  KeyPair key;
  std::string key_pem;
  std::string certificate_pem;
  std::string ca_pem;
  Peer self;

  // Unauthenticated when the certificate does not belong to the key or the CA, or is not valid at
  // `now`.
  static absl::StatusOr<std::shared_ptr<const Credential>> Make(const KeyPair& key,
                                                                std::string certificate_pem,
                                                                std::string ca_pem, UnixTime now);
};

// The current credential of this process. Thread-safe; it lives as long as any channel or server
// made with it.
class LiveCredential {
 public:
  explicit LiveCredential(std::shared_ptr<const Credential> first) : current_(std::move(first)) {}

  std::shared_ptr<const Credential> Get() const {
    MutexLock lock(&mu_);
    return current_;
  }
  // `next` must be of the same node and cluster (InvalidArgument otherwise).
  absl::Status Replace(std::shared_ptr<const Credential> next);

 private:
  mutable Mutex mu_;
  std::shared_ptr<const Credential> current_ ABSL_GUARDED_BY(mu_);
};

// Seconds from the certificate's issue to its end.
int64_t LifeSeconds(const Peer& self);
// The time to renew: then a third of the certificate's life is left.
UnixTime RenewAt(const Peer& self);

// A node's identity on disk, in one folder: node.key (0600), node.crt, ca.crt, coordinator (its
// address), https (URL of its HTTP front).
class IdentityFolder {
 public:
  static absl::StatusOr<IdentityFolder> Open(const std::string& path);

  // The node's key; the first call makes and writes it.
  absl::StatusOr<KeyPair> Key() const;
  // The next Key() makes another node's key.
  absl::Status ForgetKey() const;
  // nullopt before the node joined. The certificate may have expired; Credential::Make says so.
  struct Joined {
    std::string certificate_pem;
    std::string ca_pem;
    std::string coordinator;  // host:port
    std::string https = {};   // the HTTP front's URL; empty where it is not known
  };
  absl::StatusOr<std::optional<Joined>> Load() const;
  absl::Status Save(const Joined& joined) const;
  // Saves the renewed certificate alone.
  absl::Status SaveCertificate(const std::string& certificate_pem) const;

  const std::string& path() const { return path_; }

 private:
  explicit IdentityFolder(std::string path) : path_(std::move(path)) {}

  std::string path_;
};

}  // namespace lanyard::identity
