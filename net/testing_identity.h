// A cluster's identities for tests: a CA, and nodes with certificates of that CA.
#pragma once

#include <memory>
#include <set>
#include <string>

#include "base/mutex.h"
#include "identity/authority.h"
#include "identity/credential.h"
#include "net/control.h"

namespace lanyard::net::testing {

class TestCluster {
 public:
  TestCluster() {}  // user-provided, so that clang takes const objects of it
  const identity::Authority& authority() const { return authority_; }

  std::shared_ptr<const identity::Credential> Issue(const identity::KeyPair& key,
                                                    identity::Role role,
                                                    const std::string& name) const {
    const identity::UnixTime now = identity::WallNow();
    return *identity::Credential::Make(
        key, *authority_.Issue(key.get(), {.role = role, .name = name}, now),
        authority_.certificate_pem(), now);
  }
  std::shared_ptr<identity::LiveCredential> Node(identity::Role role,
                                                 const std::string& name) const {
    return std::make_shared<identity::LiveCredential>(
        Issue(*identity::KeyPair::Generate(), role, name));
  }
  std::shared_ptr<identity::LiveCredential> Coordinator() const {
    return Node(identity::Role::kCoordinator, "pc-0");
  }
  std::shared_ptr<identity::LiveCredential> Worker(const std::string& name) const {
    return Node(identity::Role::kWorker, name);
  }

 private:
  const identity::Authority authority_ = *identity::Authority::Create(identity::WallNow());
};

inline std::string NodeOf(const std::shared_ptr<identity::LiveCredential>& live) {
  return live->Get()->self.node;
}

class RevokedSet final : public identity::PeerPolicy {
 public:
  absl::Status Check(const identity::Peer& peer) const override {
    MutexLock lock(&mu_);
    return revoked_.count(peer.node) > 0 ? absl::PermissionDeniedError("revoked")
                                         : absl::OkStatus();
  }
  void Revoke(const std::string& node) {
    MutexLock lock(&mu_);
    revoked_.insert(node);
  }

 private:
  mutable Mutex mu_;
  std::set<std::string> revoked_ ABSL_GUARDED_BY(mu_);
};

}  // namespace lanyard::net::testing
