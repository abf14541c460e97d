// Who belongs to the cluster: nodes and their keys, join tokens, revocations, in the Store. What a
// link asks (Check) is answered from memory; the Store is written first when something changes.
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

inline constexpr int64_t kMaxTokenSeconds = int64_t{7} * 24 * 3600;
inline constexpr uint32_t kMaxTokenUses = 1000;

struct NodeInfo {
  std::string id;    // identity::NodeIdOf its key
  std::string name;  // unique among the nodes of a role that are not revoked
  identity::Role role = identity::Role::kWorker;
  int64_t joined_unix_s = 0;
  int64_t certificate_ends_unix_s = 0;  // of the latest one given
  std::optional<int64_t> revoked_unix_s;
  std::string from;  // ip:port that asked for that certificate
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
  std::string token;  // the text, seen here and never again
};

// Thread-safe.
class Nodes final : public identity::PeerPolicy {
 public:
  using Clock = std::function<identity::UnixTime()>;

  // Reads every node. `store` and `authority` outlive it; an empty clock is the wall's.
  // Certificates are given for `life_seconds`.
  static absl::StatusOr<std::unique_ptr<Nodes>> Open(
      Store* store, const identity::Authority* authority, Clock clock = {},
      int64_t life_seconds = identity::kNodeCertificateSeconds);

  // identity::PeerPolicy: a member that is not revoked and whose latest certificate has not run
  // out.
  absl::Status Check(const identity::Peer& peer) const override;

  // InvalidArgument: a role, time or number of uses that cannot be.
  absl::StatusOr<NewToken> CreateToken(const TokenRequest& request);
  // Those that still can be used.
  absl::StatusOr<std::vector<TokenInfo>> ListTokens();
  absl::Status RevokeToken(const std::string& id);  // NotFound

  // A joining node or one that wants a new certificate (net::JoinHandler). PermissionDenied with
  // its reason in words: unknown token, expired, used up, for another role; node revoked or
  // unknown. AlreadyExists: the name is another's. A token is used up only together with the
  // certificate that it gave.
  absl::StatusOr<net::JoinReply> Enrol(const net::JoinRequest& request);
  // A node of this machine itself (the coordinator's administrator), without a token. Another node
  // of its role and name, whose folder is gone, is revoked.
  absl::StatusOr<net::JoinReply> EnrolLocal(const net::JoinRequest& request);

  absl::StatusOr<std::vector<NodeInfo>> List() const;
  // By id, or by the name of a node that is not revoked. From its return on Check refuses the node,
  // and nothing gives its key a certificate again. NotFound; FailedPrecondition when it is revoked
  // already.
  absl::StatusOr<NodeInfo> Revoke(const std::string& name_or_id);
  // By the same words, a worker's: whether plans leave it out. FailedPrecondition when it is
  // revoked, InvalidArgument for a node of another role.
  absl::StatusOr<NodeInfo> SetDrained(const std::string& name_or_id, bool drained);
  absl::StatusOr<NodeInfo> Find(
      const std::string& name_or_id) const;  // NotFound, FailedPrecondition: two of the name
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
  Mutex change_mu_;  // Admit and Revoke: one at a time, over store and memory; taken before mu_
  mutable Mutex mu_;
  std::map<std::string, NodeInfo> nodes_ ABSL_GUARDED_BY(mu_);  // by id
};

}  // namespace lanyard::coordinator
