#include "net/peer_guard.h"

#include "net/limits.h"
#include "net/tls_credentials.h"

namespace lanyard::net {

bool PeerTable::Add(const std::string& node, const std::string& address) {
  MutexLock lock(&mu_);
  std::multiset<std::string>& of_node = addresses_[node];
  if (of_node.size() >= kMaxStreamsOfNode) return false;
  of_node.insert(address);
  return true;
}

void PeerTable::Remove(const std::string& node, const std::string& address) {
  MutexLock lock(&mu_);
  const auto it = addresses_.find(node);
  if (it == addresses_.end()) return;
  if (const auto one = it->second.find(address); one != it->second.end()) it->second.erase(one);
  if (it->second.empty()) addresses_.erase(it);
}

std::set<std::string> PeerTable::AddressesOfOthers(const std::string& node) const {
  MutexLock lock(&mu_);
  std::set<std::string> out;
  for (const auto& [other, addresses] : addresses_) {
    if (other != node) out.insert(addresses.begin(), addresses.end());
  }
  return out;
}

absl::StatusOr<std::unique_ptr<PeerGuard>> PeerGuard::Open(const Security& security,
                                                           const grpc::ServerContextBase& context,
                                                           PeerTable* table) {
  auto guard = std::unique_ptr<PeerGuard>(new PeerGuard(security, PeerAddress(context), table));
  if (security.credential == nullptr) return guard;
  ASSIGN_OR_RETURN(guard->peer_, PeerOf(context));
  if (!table->Add(guard->peer_->node, guard->address_)) {
    const std::string name = guard->peer_->name;
    guard->peer_.reset();  // it was not added
    return ResourceExhausted("'", name, "' has ", kMaxStreamsOfNode, " streams open here already");
  }
  RETURN_IF_ERROR(guard->Check());
  return guard;
}

PeerGuard::~PeerGuard() {
  if (peer_.has_value()) table_->Remove(peer_->node, address_);
}

absl::Status PeerGuard::Check() const {
  return peer_.has_value() && policy_ != nullptr ? policy_->Check(*peer_) : absl::OkStatus();
}

void PeerGuard::Report(const absl::Status& what) const {
  if (peer_.has_value() && policy_ != nullptr) policy_->OnViolation(*peer_, what);
}

absl::Status PeerGuard::Expect(identity::Role role, const std::string& name) const {
  if (!peer_.has_value() || (peer_->role == role && (name.empty() || peer_->name == name)))
    return absl::OkStatus();
  return absl::PermissionDeniedError(
      absl::StrCat("the certificate is of ", identity::RoleName(peer_->role), " '", peer_->name,
                   "', it may not speak as ", identity::RoleName(role),
                   name.empty() ? "" : absl::StrCat(" '", name, "'")));
}

}  // namespace lanyard::net
