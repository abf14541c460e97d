// The nodes that are no longer members, as a worker was told: a certificate that they still have
// counts for nothing.
#pragma once

#include <set>
#include <string>
#include <vector>

#include "base/mutex.h"
#include "identity/peer.h"

namespace lanyard::identity {

// Thread-safe.
class RevokedNodes final : public PeerPolicy {
 public:
  absl::Status Check(const Peer& peer) const override {
    MutexLock lock(&mu_);
    if (nodes_.count(peer.node) == 0) return absl::OkStatus();
    return absl::PermissionDeniedError(
        absl::StrCat("node ", peer.node, " ('", peer.name, "') was revoked"));
  }
  // Takes the whole list and returns those nodes that were not on it.
  std::vector<std::string> Set(const std::vector<std::string>& nodes) {
    std::vector<std::string> added;
    MutexLock lock(&mu_);
    for (const std::string& node : nodes) {
      if (nodes_.count(node) == 0) added.push_back(node);
    }
    nodes_ = {nodes.begin(), nodes.end()};
    return added;
  }

 private:
  mutable Mutex mu_;
  std::set<std::string> nodes_ ABSL_GUARDED_BY(mu_);
};

}  // namespace lanyard::identity
