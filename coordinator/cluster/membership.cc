#include "coordinator/cluster/membership.h"

#include <algorithm>
#include <cmath>

#include "net/hello.h"
#include "net/versions.h"

namespace lanyard::coordinator {
namespace {

// The pool's own conditions, and those of every hello (net/hello.h).
absl::Status CheckNewcomer(const net::WorkerHello& hello) {
  RETURN_IF_ERROR(net::CheckWorkerName(hello.name));
  RETURN_IF_ERROR(Annotate(net::CheckWorkerProgram({hello.protocol, hello.version, hello.numerics}),
                           hello.name));
  RETURN_IF_ERROR(net::CheckHello(hello));
  if (hello.memory_bytes == 0 || hello.memory_bytes <= hello.base_bytes) {
    return InvalidArgument("worker '", hello.name, "' has a limit of ", hello.memory_bytes,
                           " bytes of which ", hello.base_bytes,
                           " are used already; give it a larger --memory");
  }
  return absl::OkStatus();
}

// Says why a newcomer may not have the name that `there` has.
absl::Status NameInUse(const net::WorkerHello& there, const net::WorkerHello& hello) {
  const bool same_program = there.pid == hello.pid && there.stage_address == hello.stage_address;
  if (!hello.node.empty() && hello.node == there.node && !same_program) {
    return absl::AlreadyExistsError(absl::StrCat(
        "two machines show the identity of worker '", hello.name, "' (node ", hello.node,
        "): one is in the pool from ", there.from, " (stage ", there.stage_address, ", pid ",
        there.pid, "), this one came from ", hello.from, " (pid ", hello.pid,
        "). If a disk was copied: on the copy remove the folder `identity` of its state and join ",
        "with a new token (`lanyard token create`) and another --name; if it was stolen: `lanyard "
        "node revoke ",
        hello.name, "`"));
  }
  return absl::AlreadyExistsError(absl::StrCat("a worker named '", hello.name, "' (pid ", there.pid,
                                               ", ", there.stage_address,
                                               ") is in the pool; give this one another --name"));
}

}  // namespace

Member* Membership::MutableFind(net::LinkId link) {
  for (auto& [name, member] : members_) {
    if (member.link == link) return &member;
  }
  return nullptr;
}

const Member* Membership::Find(net::LinkId link) const {
  return const_cast<Membership*>(this)->MutableFind(link);
}

const Member* Membership::FindByName(const std::string& name) const {
  const auto it = members_.find(name);
  return it == members_.end() ? nullptr : &it->second;
}

Membership::Admission Membership::OnHello(net::LinkId link, const net::WorkerHello& hello,
                                          TimeNs now) {
  Admission admission;
  admission.status = CheckNewcomer(hello);
  if (!admission.status.ok()) return admission;
  if (MutableFind(link) != nullptr) {
    admission.status = InvalidArgument("a second hello on one link");
    return admission;
  }
  const auto it = members_.find(hello.name);
  if (it != members_.end()) {
    if (now - it->second.heard < options_.silent_after) {
      admission.status = NameInUse(it->second.hello, hello);
      return admission;
    }
    admission.replaced = it->second;
    members_.erase(it);
  }
  Member& member = members_[hello.name];
  member.link = link;
  member.hello = hello;
  member.heartbeat.resident_bytes = hello.base_bytes;
  member.joined = now;
  member.heard = now;
  return admission;
}

bool Membership::OnMessage(net::LinkId link, TimeNs now) {
  Member* member = MutableFind(link);
  if (member == nullptr) return false;
  member->heard = now;
  return true;
}

void Membership::OnHeartbeat(net::LinkId link, const net::Heartbeat& heartbeat) {
  Member* member = MutableFind(link);
  if (member == nullptr) return;
  member->heartbeat = heartbeat;
  const double busy = heartbeat.busy;
  member->heartbeat.busy = std::isfinite(busy) ? std::clamp(busy, 0.0, 1.0) : 0;
}

void Membership::OnDevices(net::LinkId link, const net::DevicesChanged& changed) {
  if (Member* member = MutableFind(link); member != nullptr)
    member->hello.devices = changed.devices;
}

std::optional<Member> Membership::OnGone(net::LinkId link) {
  Member* member = MutableFind(link);
  if (member == nullptr) return std::nullopt;
  Member gone = *member;
  members_.erase(gone.hello.name);
  return gone;
}

std::set<std::string> Membership::Silent(TimeNs now) const {
  std::set<std::string> silent;
  for (const auto& [name, member] : members_) {
    if (now - member.heard >= options_.suspect_after) silent.insert(name);
  }
  return silent;
}

std::vector<Member> Membership::Expire(TimeNs now) {
  std::vector<Member> gone;
  for (auto it = members_.begin(); it != members_.end();) {
    if (now - it->second.heard >= options_.dead_after) {
      gone.push_back(it->second);
      it = members_.erase(it);
    } else {
      ++it;
    }
  }
  return gone;
}

}  // namespace lanyard::coordinator
