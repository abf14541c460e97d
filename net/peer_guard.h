// Knows who is at the other end of a server's stream: whose certificate TLS checked, and whether
// that node may still speak. gRPC checks certificates at the handshake only; a guard is asked with
// every message.
#pragma once

#include <grpcpp/server_context.h>

#include <map>
#include <memory>
#include <optional>
#include <set>
#include <string>

#include "base/mutex.h"
#include "base/status.h"
#include "identity/peer.h"
#include "net/control.h"

namespace lanyard::net {

// Knows which of a server's connections belong to which node, so that a node can be cut off.
// Thread-safe.
class PeerTable {
 public:
  // Adds a stream. Returns false when the node has too many.
  bool Add(const std::string& node, const std::string& address);
  void Remove(const std::string& node, const std::string& address);
  // The addresses of every node but this one.
  std::set<std::string> AddressesOfOthers(const std::string& node) const;

 private:
  mutable Mutex mu_;
  std::map<std::string, std::multiset<std::string>> addresses_ ABSL_GUARDED_BY(mu_);
};

class PeerGuard {
 public:
  // Unauthenticated or PermissionDenied when the stream must not open. Without a credential every
  // peer is accepted.
  static absl::StatusOr<std::unique_ptr<PeerGuard>> Open(const Security& security,
                                                         const grpc::ServerContextBase& context,
                                                         PeerTable* table);
  ~PeerGuard();
  PeerGuard(const PeerGuard&) = delete;
  PeerGuard& operator=(const PeerGuard&) = delete;

  // To be called with every message, from one thread at a time.
  absl::Status Check() const;
  // The peer sent what no program of its version sends; the policy may refuse it from now on.
  void Report(const absl::Status& what) const;
  // PermissionDenied unless the peer has this role and, where `name` is not empty, this name.
  absl::Status Expect(identity::Role role, const std::string& name) const;
  // nullopt means plaintext.
  const std::optional<identity::Peer>& peer() const { return peer_; }
  const std::string& address() const { return address_; }

 private:
  PeerGuard(const Security& security, std::string address, PeerTable* table)
      : policy_(security.policy), address_(std::move(address)), table_(table) {}

  const std::shared_ptr<const identity::PeerPolicy> policy_;
  std::optional<identity::Peer> peer_;
  const std::string address_;
  PeerTable* const table_;
};

}  // namespace lanyard::net
