// Members that send what no worker of this version sends: after a few such messages they are
// refused for some minutes. An honest worker never does, so it is broken or hostile; its neighbours
// and requests are kept from it meanwhile.
#pragma once

#include <deque>
#include <map>
#include <memory>
#include <string>

#include "base/clock.h"
#include "base/mutex.h"
#include "identity/peer.h"

namespace lanyard::coordinator {

struct QuarantineOptions {
  size_t violations = 3;  // of one node, within `window`
  TimeNs window = 60 * kSecond;
  TimeNs lasts = 300 * kSecond;
};

// Asked with every message, as `next` is. Thread-safe.
class Quarantine final : public identity::PeerPolicy {
 public:
  using Clock = TimeNs (*)();
  // `next`: who is a member at all.
  explicit Quarantine(std::shared_ptr<const identity::PeerPolicy> next,
                      QuarantineOptions options = {}, Clock clock = MonotonicNow)
      : next_(std::move(next)), options_(options), clock_(clock) {}

  // What `next` says; else PermissionDenied while the node is in quarantine, with the reason and
  // the time that is left.
  absl::Status Check(const identity::Peer& peer) const override;
  // Why the node is in quarantine, and for how long yet; empty when it is not.
  std::string Why(const std::string& node) const;
  void OnViolation(const identity::Peer& peer, const absl::Status& what) const override;

 private:
  struct Record {
    std::deque<TimeNs> at;
    TimeNs until = 0;  // of the quarantine
    std::string what;  // the latest
  };

  const std::shared_ptr<const identity::PeerPolicy> next_;
  const QuarantineOptions options_;
  const Clock clock_;
  mutable Mutex mu_;
  mutable std::map<std::string, Record> records_
      ABSL_GUARDED_BY(mu_);  // by node; members only, so they are few
};

}  // namespace lanyard::coordinator
