// The machines of the simulated world, what happens to them, and how they are at last.
#include <algorithm>

#include "base/version.h"
#include "net/versions.h"
#include "tests/sim/world.h"

namespace lanyard::sim {

using coordinator::PoolAction;
using worker::MachineEvent;

size_t World::NodeOf(const std::string& name) const { return std::stoul(name.substr(1)); }

// In some lives machines are not upgraded yet.
uint32_t World::Protocol(size_t node) const {
  return old_nodes_ > node ? net::kBesideProtocol - 1 : kProtocolVersion;
}

bool World::LoadFails() { return Storms() && now_ < 30 * kSecond && Random(12) == 0; }

void World::PlanFaults() {
  const uint64_t n_events = Random(10);
  report_.faults += n_events;
  for (uint64_t e = 0; e < n_events; ++e) {
    const TimeNs when = 3 * kSecond + Ms(0, 30000);
    const size_t i = Random(nodes_.size());
    const TimeNs time = Ms(100, 7000);
    switch (Random(12)) {
      case 0:
        At(when, [this, i] { KillNode(i, false); });
        break;
      case 1:
        At(when, [this, i] { KillNode(i, true); });
        break;
      case 2:
        At(when, [this, i, time] { HangNode(i, time); });
        break;
      case 3:
        At(when, [this, i] { CutControl(i); });
        break;
      case 4:
        At(when, [this, i, time] { CutCable(i, time); });
        break;
      case 5:
        At(when, [this, i] { BreakResults(i); });
        break;
      case 6:
        At(when, [this, i] {
          if (nodes_[i].process != nullptr) nodes_[i].process->BreakNext();
        });
        break;
      case 7:
        At(when, [this, i] {
          if (nodes_[i].process != nullptr) nodes_[i].process->LoseCard();
        });
        break;
      case 8:
        At(when,
           [this, i] { Deliver(nodes_[i].process, MachineEvent::LeaveAsked{"told to stop"}); });
        break;
      case 9:
        At(when, [this, i, bytes = Random(8) << 27] {
          if (nodes_[i].process != nullptr) nodes_[i].process->ChangeDevices(bytes + (1 << 27));
        });
        break;
      case 10:
        for (int again = 0; again < 6; ++again) At(when + Ms(0, 6000), [this, i] { TellAgain(i); });
        // The end of a link that was given up long ago is heard of late.
        At(when, [this, i] {
          Deliver(nodes_[i].process,
                  MachineEvent::NextClosed{worker::NextLinkId(UINT64_MAX), Unavailable("closed")});
        });
        break;
      case 11:
        At(when, [this, i, time] { SleepNode(i, time); });
        break;
    }
    At(when + Ms(200, 8000), [this, i] { StartNode(i); });
  }
}

void World::Deliver(const std::weak_ptr<SimWorker>& to, MachineEvent::Any event) {
  const std::shared_ptr<SimWorker> process = to.lock();
  if (process == nullptr) return;
  process->WhenAwake([p = process.get(), event = std::move(event)] { p->Deliver(event); });
}

void World::StartNode(size_t index) {
  Node& node = nodes_[index];
  if (node.process != nullptr) return;
  // The machine answers again: what still waits for the process before is told.
  BreakInbound(index, kSecond);
  if (node.silent) {
    for (const auto& [id, link] : links_) {
      if (link->node == index && link->open) {
        After(Ms(1, 300), [this, id = id] { CloseLink(id, Unavailable("connection reset")); });
      }
    }
  }
  node.silent = false;
  node.told.clear();
  Surroundings* const around = this;
  node.process = std::make_shared<SimWorker>(around, index, &model_);
  node.process->Start();
}

// The process ended by itself.
void World::OnProcessEnd(size_t index) {
  // It is still at work here: it goes when this event is over.
  After(0, [this, index, process = nodes_[index].process] {
    if (nodes_[index].process == process) KillNode(index, false);
  });
}

void World::KillNode(size_t index, bool silently) {
  Node& node = nodes_[index];
  if (node.process == nullptr) return;
  node.process.reset();
  node.silent = silently;
  BreakInbound(index, silently ? 6 * kSecond : 50 * kMillisecond);
  if (silently) return;
  for (const auto& [id, link] : links_) {
    if (link->node == index && link->open) {
      ToPool(link, [this, id = id] { CloseLink(id, Unavailable("connection reset")); });
    }
  }
}

// Those who send to the machine hear that their streams are broken.
void World::BreakInbound(size_t index, TimeNs within) {
  for (const std::shared_ptr<Stream>& stream : std::exchange(nodes_[index].inbound, {})) {
    stream->accepted = false;
    After(kMillisecond + static_cast<TimeNs>(Random(static_cast<uint64_t>(within))),
          [stream] { stream->Broken(Unavailable("connection reset")); });
  }
}

void World::HangNode(size_t index, TimeNs how_long) {
  if (nodes_[index].process != nullptr) nodes_[index].process->Freeze(now_ + how_long);
}

// It is told before, and mostly also afterwards.
void World::SleepNode(size_t index, TimeNs how_long) {
  const std::shared_ptr<SimWorker> process = nodes_[index].process;
  if (process == nullptr) return;
  Deliver(process, MachineEvent::SleepAsked{});
  HangNode(index, how_long);
  if (Random(4) == 0) return;
  After(how_long, [to = std::weak_ptr(process)] { Deliver(to, MachineEvent::Woke{}); });
}

void World::CutCable(size_t index, TimeNs how_long) {
  nodes_[index].cut_until = std::max(nodes_[index].cut_until, now_ + how_long);
}

// The control stream breaks; both sides hear of it.
void World::CutControl(size_t index) {
  const std::shared_ptr<SimWorker> process = nodes_[index].process;
  if (process == nullptr || process->session() == worker::SessionId()) return;
  const worker::SessionId session = process->session();
  const absl::Status why = Unavailable("connection reset");
  if (const auto link = LinkOf(index, session)) {
    link->lossy = true;
    After(Ms(0, 50), [this, id = link->id, why] { CloseLink(id, why); });
  }
  After(Ms(0, 50), [to = std::weak_ptr(process), session, why] {
    Deliver(to, MachineEvent::SessionClosed{session, why});
  });
}

void World::BreakResults(size_t index) {
  Node& node = nodes_[index];
  if (node.process == nullptr || !node.process->results_open()) return;
  ++node.results;
  After(Ms(0, 50), [to = std::weak_ptr(node.process), session = node.process->session()] {
    Deliver(to, MachineEvent::ResultsClosed{session, Unavailable("connection reset")});
  });
}

void World::TellAgain(size_t index) {
  const Node& node = nodes_[index];
  if (node.process == nullptr || node.told.empty()) return;
  const MachineEvent::Any event = node.told[Random(node.told.size())];
  node.process->WhenAwake([p = node.process.get(), event] {
    // A release has no epoch: of the plan that the worker has again it cannot be told from a new
    // one.
    const auto* release = std::get_if<MachineEvent::Released>(&event);
    if (release == nullptr || !p->Has(release->plan)) p->Deliver(event);
  });
}

void World::Drain(size_t index) {
  pool_->Drain(absl::StrCat("w", index), now_);
  Pump();
}

void World::OnDrained(const PoolAction::DrainAnswer& answer) {
  if (!answer.status.ok()) {
    if (!absl::IsFailedPrecondition(answer.status))
      Violation(absl::StrCat("Drain said ", answer.status.ToString()));
    return;
  }
  const std::string& name = answer.worker;
  drained_.insert(name);
  drained_since_[name] = now_;
  if (Storms()) return;
  // Without faults its layers are gone soon.
  After(drain_patience_ + 5 * kSecond, [this, name, since = now_] {
    // It may have been allowed back, and drained again, meanwhile.
    if (!drained_.contains(name) || drained_since_[name] != since) return;
    for (const auto& stage : pool_->rollout().stages()) {
      if (stage.planned.machine == name)
        Violation(absl::StrCat(name, " was drained and still has layers"));
    }
  });
}

// Long after the storm every worker is in the pool, and does what the pool believes of it.
void World::CheckWorkersAtRest() {
  const coordinator::Rollout& rollout = pool_->rollout();
  for (size_t i = 0; i < nodes_.size(); ++i) {
    const SimWorker& process = *nodes_[i].process;
    const std::string& name = process.name();
    const coordinator::Member* member = pool_->membership().FindByName(name);
    const auto link = LinkOf(i, process.session());
    if (member == nullptr || link == nullptr || link->id != member->link) {
      Violation(name + " is not in the pool again");
      continue;
    }
    if (!process.results_open()) Violation(name + " has no stream of results");
    const auto& told = member->hello.devices;
    if (told.size() != process.devices().size() ||
        (!told.empty() && told[0].memory_bytes != process.devices()[0].memory_bytes)) {
      Violation(name + " has other cards than the pool believes");
    }
    const bool has = rollout.HasStage(name);
    if (rollout.state() != coordinator::RolloutState::kServing) continue;
    if (has && process.RunningEpoch() != rollout.epoch())
      Violation(name + " does not run the stage that the pool believes it has");
    const bool gets = std::any_of(rollout.beside_stages().begin(), rollout.beside_stages().end(),
                                  [&](const auto& stage) { return stage.planned.machine == name; });
    if (!has && !gets && process.has_duty()) Violation(name + " holds a stage that it has no more");
  }
}

}  // namespace lanyard::sim
