// A member that sends what no worker of this version sends is refused for some minutes after a few
// such messages. An honest worker never sends them, so this one is broken or hostile; meanwhile its
// neighbours and the requests are kept from it.
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
  size_t violations = 3;  // messages of one node within `window`
  TimeNs window = 60 * kSecond;
  TimeNs lasts = 300 * kSecond;
};

// It is asked with every message, as `next` is. Thread-safe.
class Quarantine final : public identity::PeerPolicy {
 public:
  using Clock = TimeNs (*)();
  // `next` decides who is a member at all.
  explicit Quarantine(std::shared_ptr<const identity::PeerPolicy> next,
                      QuarantineOptions options = {}, Clock clock = MonotonicNow)
      : next_(std::move(next)), options_(options), clock_(clock) {}

  // Returns what `next` says; PermissionDenied while the node is in quarantine, with the reason and
  // the time that is left.
  absl::Status Check(const identity::Peer& peer) const override;
  // Says why the node is in quarantine, and for how much longer; empty when it is not.
  std::string Why(const std::string& node) const;
  void OnViolation(const identity::Peer& peer, const absl::Status& what) const override;

 private:
  struct Record {
    std::deque<TimeNs> at;
    TimeNs until = 0;  // end of the quarantine
    std::string what;  // the latest violation
  };

  const std::shared_ptr<const identity::PeerPolicy> next_;
  const QuarantineOptions options_;
  const Clock clock_;
  mutable Mutex mu_;
  mutable std::map<std::string, Record> records_
      ABSL_GUARDED_BY(mu_);  // by node; it holds members only, so it is small
};

}  // namespace lanyard::coordinator
