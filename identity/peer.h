// Who is at the other end of a link, as its certificate says, which TLS has proved.
#pragma once

#include <cstdint>
#include <string>
#include <string_view>

#include "base/status.h"

namespace lanyard::identity {

enum class Role : uint8_t { kCoordinator = 0, kWorker = 1, kAdmin = 2 };

std::string RoleName(Role role);  // "coordinator" "worker" "admin"
absl::StatusOr<Role> ParseRole(std::string_view s);

// Seconds since 1970 by the wall clock. It is passed as an argument, so that tests can choose it.
using UnixTime = int64_t;
UnixTime WallNow();

// A peer as its certificate names it. Equal ids mean equal keys.
struct Peer {
  std::string cluster;  // ClusterIdOf the CA
  Role role = Role::kWorker;
  std::string node;  // the node's id: see key_pair.h
  std::string name;  // the machine's name, for people; the coordinator binds it to the id
  UnixTime not_before = 0;
  UnixTime not_after = 0;
  std::string serial;  // hex
};

// Decides which peers of the cluster may speak. It is asked when a stream opens and again with
// every message. Thread-safe.
class PeerPolicy {
 public:
  virtual ~PeerPolicy() = default;
  // PermissionDenied: the node was revoked. Unauthenticated: its certificate ran out and was not
  // renewed.
  virtual absl::Status Check(const Peer& peer) const = 0;
  // The peer sent what no program of its version sends.
  virtual void OnViolation(const Peer& peer, const absl::Status& what) const {
    (void)peer, (void)what;
  }
};

}  // namespace lanyard::identity
