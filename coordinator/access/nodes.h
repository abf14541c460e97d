// Who belongs to the cluster: nodes and their keys, join tokens, revocations, in the Store. What a
// link asks (Check) is answered from memory. When something changes, the Store is written first.
#pragma once

#include <functional>
#include <map>
#include <memory>
#include <optional>
#include <string>
#include <vector>

#include "base/mutex.h"
#include "coordinator/state/store.h"
#include "identity/authority.h"
#include "identity/join_token.h"
#include "identity/peer.h"
#include "net/join.h"

namespace lanyard::coordinator {

using identity::kMaxTokenSeconds;
using identity::kMaxTokenUses;

struct NodeInfo {
  std::string id;    // identity::NodeIdOf the node's key
  std::string name;  // unique among the nodes of a role that are not revoked
  identity::Role role = identity::Role::kWorker;
  int64_t joined_unix_s = 0;
  int64_t certificate_ends_unix_s = 0;  // end of the latest certificate that was given
  std::optional<int64_t> revoked_unix_s;
  std::string from;  // the ip:port that asked for that certificate
  std::optional<int64_t> drained_unix_s = {};
};

struct TokenRequest {
  identity::Role role = identity::Role::kWorker;  // worker or admin
  int64_t ttl_seconds = 3600;
  uint32_t uses = 1;
};

struct TokenInfo {
  std::string id;
  identity::Role role = identity::Role::kWorker;
  int64_t created_unix_s = 0;
  int64_t expires_unix_s = 0;
  uint32_t uses = 1;
  uint32_t used = 0;
};

struct NewToken {
  TokenInfo info;
  std::string token;  // the token's text, which only this answer holds
};

// Thread-safe.
class Nodes final : public identity::PeerPolicy {
 public:
  using Clock = std::function<identity::UnixTime()>;

  // Reads every node. `store` and `authority` must outlive the result. An empty clock means the
  // system's. Certificates are given for `life_seconds`.
  static absl::StatusOr<std::unique_ptr<Nodes>> Open(
      Store* store, const identity::Authority* authority, Clock clock = {},
      int64_t life_seconds = identity::kNodeCertificateSeconds);

  // Implements identity::PeerPolicy: accepts a member that is not revoked and whose latest
  // certificate has not run out.
  absl::Status Check(const identity::Peer& peer) const override;

  // InvalidArgument: the role, the time or the number of uses is impossible.
  absl::StatusOr<NewToken> CreateToken(const TokenRequest& request);
  // Lists the tokens that can still be used.
  absl::StatusOr<std::vector<TokenInfo>> ListTokens();
  absl::Status RevokeToken(const std::string& id);  // NotFound

  // Admits a joining node, or one that wants a new certificate (net::JoinHandler). PermissionDenied
  // says its reason in words: the token is unknown, expired, used up or for another role; the node
  // is revoked or unknown. AlreadyExists: the name is another node's. A token is used up only
  // together with the certificate that it gave.
  absl::StatusOr<net::JoinReply> Enrol(const net::JoinRequest& request);
  // Admits a node of this machine itself (the coordinator's administrator), without a token.
  // Another node of its role and name, whose folder must be gone, is revoked.
  absl::StatusOr<net::JoinReply> EnrolLocal(const net::JoinRequest& request);

  absl::StatusOr<std::vector<NodeInfo>> List() const;
  // Takes an id, or the name of a node that is not revoked. Once it has returned, Check refuses the
  // node, and its key never gets a certificate again. NotFound; FailedPrecondition when the node is
  // revoked already.
  absl::StatusOr<NodeInfo> Revoke(const std::string& name_or_id);
  // Takes a worker's id or name and sets whether plans leave it out. FailedPrecondition when it is
  // revoked, InvalidArgument for a node of another role.
  absl::StatusOr<NodeInfo> SetDrained(const std::string& name_or_id, bool drained);
  absl::StatusOr<NodeInfo> Find(
      // NotFound; FailedPrecondition when two nodes have the name.
      const std::string& name_or_id) const;
  // Names of the drained workers that are not revoked.
  std::vector<std::string> DrainedWorkers() const;
  // Ids of revoked nodes whose certificates may still be valid.
  std::vector<std::string> RevokedIds() const;

 private:
  Nodes(Store* store, const identity::Authority* authority, Clock clock, int64_t life_seconds)
      : store_(*store),
        authority_(*authority),
        clock_(std::move(clock)),
        life_seconds_(life_seconds) {}
  bool IsMember(const std::string& id) const;
  absl::StatusOr<net::JoinReply> Admit(const net::JoinRequest& request, bool needs_token);
  absl::StatusOr<NodeInfo> Decide(const net::JoinRequest& request, const std::string& id) const;

  Store& store_;
  const identity::Authority& authority_;
  const Clock clock_;
  const int64_t life_seconds_;
  // Held by Admit and Revoke over store and memory, so that they run one at a time; taken before
  // mu_.
  Mutex change_mu_;
  mutable Mutex mu_;
  std::map<std::string, NodeInfo> nodes_ ABSL_GUARDED_BY(mu_);  // by id
};

}  // namespace lanyard::coordinator
