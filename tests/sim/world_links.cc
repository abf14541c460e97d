// What connects the coordinator and the machines of the simulated world: control streams, streams
// of frames, results; and how they carry, hold up, lose and repeat messages.
#include <algorithm>

#include "net/versions.h"
#include "tests/sim/world.h"

namespace lanyard::sim {

using coordinator::PoolAction;
using worker::MachineEvent;

namespace {

constexpr coordinator::DeploymentId kDeployment(1);
constexpr TimeNs kPortPatience = 3 * kSecond;
constexpr TimeNs kAttempt = 500 * kMillisecond;  // after it a silent machine counts as unreachable
constexpr TimeNs kFlush = 300 * kMillisecond;    // the longest that results are waited for

}  // namespace

TimeNs World::CableOf(std::optional<size_t> node) const {
  return node ? nodes_[*node].cut_until : 0;
}

// --- Control streams.

std::shared_ptr<World::Link> World::LinkOf(size_t node, worker::SessionId session) {
  for (const auto& [id, link] : links_) {
    if (link->node == node && link->session == session &&
        link->process.lock() == nodes_[node].process)
      return link;
  }
  return nullptr;
}

std::shared_ptr<World::Link> World::LinkOf(net::LinkId id) {
  const auto it = links_.find(id);
  return it == links_.end() ? nullptr : it->second;
}

void World::OpenSession(size_t node, worker::SessionId session, net::WorkerHello hello) {
  ++report_.sessions;
  auto link = std::make_shared<Link>();
  link->id = net::LinkId(next_link_++);
  link->node = node;
  link->session = session;
  link->process = nodes_[node].process;
  link->to_pool = now_ + Ms(1, 60);
  links_[link->id] = link;
  ToPool(link, [this, id = link->id, hello = std::move(hello)] {
    pool_->OnWorkerEvent(id, hello, now_);
    Pump();
  });
}

void World::ToPool(const std::shared_ptr<Link>& link, std::function<void()> what) {
  link->to_pool = std::max({link->to_pool + 1, now_ + 50'000 + static_cast<TimeNs>(Random(300'000)),
                            CableOf(link->node)});
  At(link->to_pool, [link, what = std::move(what)] {
    if (link->open) what();
  });
}

void World::ToCoordinator(size_t node, worker::SessionId session, net::WorkerEvent event) {
  const auto link = LinkOf(node, session);
  if (link == nullptr) return;
  const bool repeats =
      Storms() && !std::holds_alternative<net::Heartbeat>(event) && Random(40) == 0;
  // By then the pool may have another plan.
  if (std::holds_alternative<net::StageReady>(event) && drain_rng_() % 8 == 0)
    link->to_pool =
        std::max(link->to_pool, now_) + static_cast<TimeNs>(drain_rng_() % 900) * kMillisecond;
  for (int i = 0; i < (repeats ? 2 : 1); ++i) {
    ToPool(link, [this, link, event] {
      if (link->lossy) return;
      pool_->OnWorkerEvent(link->id, event, now_);
      Pump();
    });
  }
}

void World::CloseSession(size_t node, worker::SessionId session) {
  const auto link = LinkOf(node, session);
  if (link == nullptr) return;
  link->left = true;
  link->lossy = link->lossy || Random(2) == 0;
  ToPool(link, [this, id = link->id] { CloseLink(id, Unavailable("connection reset")); });
}

void World::ToWorker(net::LinkId id,
                     const std::function<MachineEvent::Any(worker::SessionId)>& event) {
  const auto link = LinkOf(id);
  if (link == nullptr || !link->open) return;
  link->to_worker =
      std::max({link->to_worker + 1, now_ + 50'000 + static_cast<TimeNs>(Random(300'000)),
                CableOf(link->node)});
  // Others are told earlier, and their frames may be here first.
  if (event != nullptr && drain_rng_() % 12 == 0)
    link->to_worker += static_cast<TimeNs>(drain_rng_() % 300) * kMillisecond;
  const auto deliver = [this, link, event] {
    const auto process = link->process.lock();
    if (process == nullptr) return;
    process->WhenAwake([this, link, event, p = process.get()] {
      p->Heard(link->session);
      if (event == nullptr) return;
      const MachineEvent::Any made = event(link->session);
      if (nodes_[link->node].told.size() < 100) nodes_[link->node].told.push_back(made);
      p->Deliver(made);
    });
  };
  At(link->to_worker, deliver);
  if (event != nullptr && Storms() && Random(20) == 0) At(++link->to_worker, deliver);
}

// The coordinator's end is gone, and its worker hears of it.
void World::CloseLink(net::LinkId id, const absl::Status& why) {
  const auto link = LinkOf(id);
  if (link == nullptr || !link->open) return;
  ToWorker(id, [why](worker::SessionId s) { return MachineEvent::SessionClosed{s, why}; });
  link->open = false;
  links_.erase(id);
  After(0, [this, id, why] {
    pool_->OnWorkerGone(id, why, now_);
    Pump();
  });
}

void World::SendBeats() {
  if (now_ / (100 * kMillisecond) % 3 != 0) return;
  for (const auto& [id, link] : links_) {
    if (!link->left) ToWorker(id, nullptr);
  }
}

void World::OnAssign(const PoolAction::Assign& assign) {
  const Epoch epoch = assign.assignment.spec.epoch;
  Epoch& highest = assigned_epoch_[assign.link.value];
  if (epoch <= highest) Violation("an epoch was assigned twice");
  highest = epoch;
  const auto link = LinkOf(assign.link);
  if (link == nullptr) return;  // it broke, and the coordinator hears of it soon
  const std::string name = absl::StrCat("w", link->node);
  if (drained_.contains(name) && !pool_->rollout().kept(name))
    Violation("a drained worker was planned in");
  if (assign.assignment.mode != net::AssignMode::kInstead) {
    if (Protocol(link->node) < net::kBesideProtocol)
      Violation("a worker was assigned what its protocol does not know");
    if (assign.assignment.mode == net::AssignMode::kBeside) beside_epochs_.insert(epoch);
  }
  ToWorker(assign.link, [assignment = assign.assignment](worker::SessionId s) {
    return MachineEvent::Assigned{s, assignment};
  });
}

// --- Frames and results.

void World::Carry(const std::string& name, TimeNs earliest, const std::function<void()>& deliver) {
  if (Chance(faults_.lose)) return;
  TimeNs& last = link_time_[name];
  TimeNs time = std::max(now_ + 50'000 + static_cast<TimeNs>(Random(400'000)), earliest);
  if (Chance(faults_.delay)) time += Ms(10, 12000);
  if (Chance(faults_.reorder)) {
    At(time + Ms(1, 40), deliver);  // others may pass it
    return;
  }
  last = std::max(last + 1, time);
  At(last, deliver);
  if (Chance(faults_.repeat)) At(last + Ms(0, 3000), deliver);
}

void World::OpenStream(const std::shared_ptr<Stream>& stream) {
  stream->name = absl::StrCat("stream", next_stream_++);
  const auto answer = [this, stream](const absl::Status& status, TimeNs delay) {
    After(delay, [this, stream, status] {
      stream->Opened(status);
      if (!status.ok()) After(Ms(0, 60), [stream, status] { stream->Broken(status); });
    });
  };
  TimeNs& arrives = link_time_[stream->name];
  arrives = std::max({now_ + Ms(1, 5), CableOf(stream->sender), CableOf(stream->receiver)});
  At(arrives, [this, stream, answer] {
    Node& node = nodes_[stream->receiver];
    if (node.process == nullptr) {
      return answer(Unavailable("connection refused"), node.silent ? kAttempt : 0);
    }
    stream->process = node.process;
    node.process->WhenAwake([this, stream, answer, p = node.process.get()] {
      const absl::Status status = p->AcceptStream(stream->from);
      stream->accepted = status.ok() && !stream->left;
      if (stream->accepted) nodes_[stream->receiver].inbound.push_back(stream);
      answer(status, Ms(1, 5));
    });
  });
}

bool World::SendFrame(const std::shared_ptr<Stream>& stream, stage::StepFrame frame) {
  if (stream->left) return false;
  if (options_.swap_blocks && Random(300) == 0) {
    for (stage::SeqRun& run : frame.batch.runs) {
      auto& blocks = run.tables[0].blocks;
      if (blocks.size() >= 2) std::swap(blocks.front(), blocks.back());
    }
  }
  if (options_.foreign_hidden && !frame.hidden.data.empty()) {
    std::vector<uint8_t>& before = last_hidden_[stream->name];
    if (before.size() == frame.hidden.data.size() && Random(200) == 0) {
      frame.hidden.data = before;
    } else {
      before = frame.hidden.data;
    }
  }
  const TimeNs earliest = std::max(CableOf(stream->sender), CableOf(stream->receiver));
  Carry(stream->name, earliest, [stream, frame = std::move(frame)] {
    const auto process = stream->process.lock();
    if (process == nullptr) return;
    process->WhenAwake([stream, frame, p = process.get()] {
      if (stream->accepted) p->TakeFrame(frame);
    });
  });
  return true;
}

void World::SendResult(size_t node, stage::StepResult result) {
  const std::string name = absl::StrCat("results", node, "#", nodes_[node].results);
  Carry(name, CableOf(node), [this, node, n = nodes_[node].results, result = std::move(result)] {
    if (nodes_[node].results != n) return;  // the stream broke
    pool_->OnResult(result, now_);
    Pump();
  });
}

void World::FinishResults(size_t node) {
  const auto link = LinkOf(node, nodes_[node].process->session());
  if (link == nullptr) return;
  const std::string name = absl::StrCat("results", node, "#", nodes_[node].results);
  link->to_pool = std::max(link->to_pool, std::min(link_time_[name], now_ + kFlush));
}

// --- The coordinator's stream to the first stage.

void World::OpenPort(const PoolAction::OpenPort& open) {
  for (const auto& stage : pool_->rollout().stages()) {
    const SimWorker* process = nodes_[NodeOf(stage.planned.machine)].process.get();
    if (process != nullptr && process->Has(open.epoch) && !process->WasReady(open.epoch)) {
      Violation(absl::StrCat("the pool serves before ", process->name(), " is ready"));
    }
  }
  report_.taken += beside_epochs_.contains(open.epoch) ? 1 : 0;
  if (port_ != nullptr) port_->left = true;
  port_ = std::make_shared<Stream>();
  port_epoch_ = open.epoch;
  port_->receiver = NodeOf(open.worker);
  port_->from = {"coordinator", open.plan, open.epoch, 0};
  port_->on_opened = [](const absl::Status&) {};
  port_->on_closed = [this, epoch = open.epoch](const absl::Status& why) {
    PortClosed(epoch, why);
  };
  After(kPortPatience, [this, stream = port_, epoch = open.epoch] {
    if (!stream->left && stream->on_opened != nullptr)
      PortClosed(epoch, absl::DeadlineExceededError("the stream is not open"));
  });
  OpenStream(port_);
}

void World::PortClosed(Epoch epoch, const absl::Status& why) {
  After(0, [this, epoch, why] {
    pool_->OnPortClosed(kDeployment, epoch, why, now_);
    Pump();
  });
}

void World::SendToPort(stage::StepFrame frame) {
  if (port_ == nullptr || frame.epoch != port_epoch_)
    return Violation("a frame of another epoch than the port's");
  const Epoch epoch = frame.epoch;
  if (!SendFrame(port_, std::move(frame))) PortClosed(epoch, Unavailable("the stream is broken"));
}

}  // namespace lanyard::sim
