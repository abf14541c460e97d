// What an administrator does with the cluster's members, as web/ needs it: make join tokens, list
// nodes, revoke one.
#pragma once

#include <cstdint>
#include <optional>
#include <string>
#include <vector>

#include "base/status.h"

namespace lanyard::coordinator {

struct MemberInfo {
  std::string id;  // the hash of the node's key
  std::string name;
  std::string role;  // "worker" "admin"
  int64_t joined_unix_s = 0;
  int64_t certificate_ends_unix_s = 0;
  std::optional<int64_t> revoked_unix_s;
  std::string from;  // the ip:port that asked for the latest certificate
  std::optional<int64_t> drained_unix_s = {};
  // Why the node is in quarantine, and for how much longer; empty when it is not.
  std::string quarantine = {};
};

struct JoinTokenInfo {
  std::string id;
  std::string role;
  int64_t created_unix_s = 0;
  int64_t expires_unix_s = 0;
  uint32_t uses = 1;
  uint32_t used = 0;
};

struct NewJoinToken {
  JoinTokenInfo info;
  std::string token;         // the token's text, which only this answer holds
  std::string join_address;  // host:port for --join
};

// What the HTTP front is reached by and trusted with.
struct HttpsInfo {
  std::string url;           // for clients, elsewhere where others can reach it
  std::string ca_pem;        // that clients must trust; empty: the house's own, or plain HTTP
  bool house = false;        // it shows the house's own certificate
  bool constrained = false;  // ca_pem is good for this pool only, and for no web site
  std::vector<std::string> names = {};  // that the certificate is for; empty: see constrained
};

// Thread-safe. Errors as of coordinator::Nodes.
class ClusterAdmin {
 public:
  virtual ~ClusterAdmin() = default;
  virtual absl::StatusOr<NewJoinToken> CreateToken(const std::string& role, int64_t ttl_seconds,
                                                   uint32_t uses) = 0;
  virtual absl::StatusOr<std::vector<JoinTokenInfo>> ListTokens() = 0;
  virtual absl::Status RevokeToken(const std::string& id) = 0;
  virtual absl::StatusOr<std::vector<MemberInfo>> Members() = 0;
  // Once it has returned, the node gets no certificate, and its connections are cut everywhere
  // within a second.
  virtual absl::StatusOr<MemberInfo> Revoke(const std::string& name_or_id) = 0;
  // From now on plans leave the worker out, or may use it again; this is kept over restarts. Its
  // layers move when the running requests have ended, or after some seconds. FailedPrecondition
  // with the planner's arithmetic when the others cannot hold the model.
  virtual absl::StatusOr<MemberInfo> SetDrained(const std::string& name_or_id, bool drained) = 0;
  virtual HttpsInfo Https() = 0;
  // Makes a CA of HTTPS with a new key; clients that trust the one of before are refused by
  // nobody, but refuse the server. FailedPrecondition when the certificate is the house's.
  virtual absl::StatusOr<HttpsInfo> NewHttpsCa() = 0;
};

}  // namespace lanyard::coordinator
