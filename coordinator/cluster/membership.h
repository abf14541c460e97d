// Who is in the pool: workers by the link they came on, from hello to silence. A state machine
// without I/O or clock.
#pragma once

#include <map>
#include <optional>
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
  TimeNs heard = 0;  // last message
};

struct MembershipOptions {
  TimeNs dead_after = net::kDeadAfterMs * kMillisecond;
  // A member that missed this much gives its name up to a newcomer of the same name.
  TimeNs silent_after = 3 * net::kHeartbeatMs * kMillisecond;
};

// Not thread-safe.
class Membership {
 public:
  explicit Membership(MembershipOptions options) : options_(options) {}

  struct Admission {
    absl::Status status;             // why refused, for the worker's log
    std::optional<Member> replaced;  // the silent holder of the name; its link is to be closed
  };
  // FailedPrecondition for another protocol or version, AlreadyExists for a name in use,
  // InvalidArgument for nonsense.
  Admission OnHello(net::LinkId link, const net::WorkerHello& hello, TimeNs now);
  // False when the link is no member's (a stale or refused one): the message is to be ignored.
  bool OnMessage(net::LinkId link, TimeNs now);
  void OnHeartbeat(net::LinkId link, const net::Heartbeat& heartbeat);
  void OnDevices(net::LinkId link, const net::DevicesChanged& changed);
  // The member that left, if the link was one's.
  std::optional<Member> OnGone(net::LinkId link);
  // Members silent for too long: they are removed.
  std::vector<Member> Expire(TimeNs now);

  const Member* Find(net::LinkId link) const;
  const Member* FindByName(const std::string& name) const;
  // By name, so that the same machines always come in the same order.
  const std::map<std::string, Member>& members() const { return members_; }

 private:
  Member* MutableFind(net::LinkId link);

  const MembershipOptions options_;
  std::map<std::string, Member> members_;
};

}  // namespace lanyard::coordinator
