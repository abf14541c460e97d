#include "coordinator/access/quarantine.h"

#include "base/log.h"

namespace lanyard::coordinator {

absl::Status Quarantine::Check(const identity::Peer& peer) const {
  RETURN_IF_ERROR(next_->Check(peer));
  const std::string why = Why(peer.node);
  if (why.empty()) return absl::OkStatus();
  return absl::PermissionDeniedError(absl::StrCat(
      identity::RoleName(peer.role), " '", peer.name, "' (node ", peer.node,
      ") is in quarantine for ", why,
      ". Install it anew, or throw it out with `lanyard node revoke ", peer.name, "`"));
}

std::string Quarantine::Why(const std::string& node) const {
  const TimeNs now = clock_();
  MutexLock lock(&mu_);
  const auto it = records_.find(node);
  if (it == records_.end() || now >= it->second.until) return "";
  return absl::StrCat((it->second.until - now + kSecond - 1) / kSecond,
                      " s more: it sent messages that no worker of this version sends (",
                      it->second.what, ")");
}

void Quarantine::OnViolation(const identity::Peer& peer, const absl::Status& what) const {
  const TimeNs now = clock_();
  MutexLock lock(&mu_);
  Record& record = records_[peer.node];
  if (now < record.until) return;
  while (!record.at.empty() && now - record.at.front() > options_.window) record.at.pop_front();
  record.at.push_back(now);
  record.what = std::string(what.message());
  if (record.at.size() < options_.violations) return;
  record.at.clear();
  record.until = now + options_.lasts;
  LogError(identity::RoleName(peer.role), " '", peer.name, "' (node ", peer.node,
           ") is in quarantine for ", options_.lasts / kSecond, " s: ", options_.violations,
           " messages that no worker of this version sends, the last: ", record.what);
}

}  // namespace lanyard::coordinator
