// Who is in the pool: each worker by the link on which it came, from its hello until it falls
// silent. It is a state machine without I/O or clock.
#pragma once

#include <map>
#include <optional>
#include <set>
#include <string>
#include <vector>

#include "base/clock.h"
#include "base/status.h"
#include "net/control.h"

namespace lanyard::coordinator {

struct Member {
  net::LinkId link;
  net::WorkerHello hello;
  net::Heartbeat heartbeat;
  TimeNs joined = 0;
  TimeNs heard = 0;  // time of the last message
};

// How a member came to be one no more.
enum class Departure {
  kBroke,    // its connection did: what it was computing may be the reason
  kSilent,   // it was not heard for too long
  kLeft,     // it said so
  kRevoked,  // the pool threw it out
};
// Whether it is worth waiting for the worker.
inline bool MayReturn(Departure how) {
  return how == Departure::kBroke || how == Departure::kSilent;
}

struct MembershipOptions {
  TimeNs dead_after = net::kDeadAfterMs * kMillisecond;
  // Silence after which a member is suspected: it may have stopped, or be busy.
  TimeNs suspect_after = net::kSuspectAfterMs * kMillisecond;
  // A member that was silent for this long gives up its name to a newcomer of the same name.
  TimeNs silent_after = 3 * net::kHeartbeatMs * kMillisecond;
};

// Not thread-safe.
class Membership {
 public:
  explicit Membership(MembershipOptions options) : options_(options) {}

  struct Admission {
    absl::Status status;             // why it was refused, for the worker's log
    std::optional<Member> replaced;  // the silent holder of the name, whose link is to be closed
  };
  // FailedPrecondition: a protocol or numerics that do not go together (net/versions.h).
  // AlreadyExists: the name is in use. InvalidArgument: a value makes no sense.
  Admission OnHello(net::LinkId link, const net::WorkerHello& hello, TimeNs now);
  // Returns false when the link belongs to no member (it is stale or was refused): the message is
  // to be ignored.
  bool OnMessage(net::LinkId link, TimeNs now);
  void OnHeartbeat(net::LinkId link, const net::Heartbeat& heartbeat);
  void OnDevices(net::LinkId link, const net::DevicesChanged& changed);
  // Returns the member that left, if the link belonged to one.
  std::optional<Member> OnGone(net::LinkId link);
  // Members that are suspected of not being there.
  std::set<std::string> Silent(TimeNs now) const;
  // Removes members that were silent for too long, and returns them.
  std::vector<Member> Expire(TimeNs now);

  const Member* Find(net::LinkId link) const;
  const Member* FindByName(const std::string& name) const;
  // They are ordered by name, so that the same machines always come in the same order.
  const std::map<std::string, Member>& members() const { return members_; }

 private:
  Member* MutableFind(net::LinkId link);

  const MembershipOptions options_;
  std::map<std::string, Member> members_;
};

}  // namespace lanyard::coordinator
