// Who is at the other end of a link, as the certificate that it proved says.
#pragma once

#include <cstdint>
#include <string>
#include <string_view>

#include "base/status.h"

namespace lanyard::identity {

enum class Role : uint8_t { kCoordinator = 0, kWorker = 1, kAdmin = 2 };

std::string RoleName(Role role);  // "coordinator" "worker" "admin"
absl::StatusOr<Role> ParseRole(std::string_view s);

// Seconds since 1970 of the wall clock. Arguments, so that tests choose them.
using UnixTime = int64_t;
UnixTime WallNow();

// What a peer is allowed to be. Equal ids are equal keys.
struct Peer {
  std::string cluster;  // ClusterIdOf the CA
  Role role = Role::kWorker;
  std::string node;  // id: see key_pair.h
  std::string name;  // of the machine, for people; bound to the id by the coordinator
  UnixTime not_before = 0;
  UnixTime not_after = 0;
  std::string serial;  // hex
};

// Which peers of the cluster may speak; asked when a stream opens and again with every message.
// Thread-safe.
class PeerPolicy {
 public:
  virtual ~PeerPolicy() = default;
  // PermissionDenied: revoked. Unauthenticated: its certificate ran out and was not renewed.
  virtual absl::Status Check(const Peer& peer) const = 0;
  // The peer sent what no program of its version sends.
  virtual void OnViolation(const Peer& peer, const absl::Status& what) const {
    (void)peer, (void)what;
  }
};

}  // namespace lanyard::identity
