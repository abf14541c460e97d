// The workers' side of the simulated world: machines, links between stages and their faults.
#include <algorithm>

#include "base/version.h"
#include "tests/sim/world.h"

namespace lanyard::sim {
namespace {

using coordinator::PoolAction;

}  // namespace

size_t World::NodeOf(const std::string& name) const { return std::stoul(name.substr(1)); }

World::Node* World::NodeOfLink(net::LinkId link) {
  for (Node& node : nodes_) {
    if (node.link == link && node.up) return &node;
  }
  return nullptr;
}

void World::StartNode(size_t index) {
  Node& node = nodes_[index];
  if (node.up) return;
  node.up = true;
  node.hung = false;
  node.busy_until = now_;
  node.worker =
      std::make_unique<FakeWorker>(absl::StrCat("w", index), &model_, options_.worker_bugs, rng_());
  ++node.life;
  CutControl(index);
}

// The control link (if there is one) ends, and the worker, which lives on, comes back with a new
// one.
void World::CutControl(size_t index) {
  Node& node = nodes_[index];
  if (!node.up) return;
  if (node.link != net::LinkId(0)) {
    After(Ms(0, 50), [this, link = node.link] {
      pool_->OnWorkerGone(link, Unavailable("connection reset"), now_);
      Pump();
    });
  }
  node.link = net::LinkId(next_link_++);
  const net::LinkId link = node.link;
  After(Ms(60, 300), [this, index, link, life = node.life] {
    if (nodes_[index].life != life || nodes_[index].link != link || !nodes_[index].up) return;
    net::WorkerHello hello;
    hello.name = absl::StrCat("w", index);
    hello.version = kVersion;
    hello.protocol = kProtocolVersion;
    hello.stage_address = "127.0.0.1:1";
    hello.memory_bytes = 1 << 30;
    hello.base_bytes = 1 << 20;
    pool_->OnWorkerEvent(link, hello, now_);
    Pump();
    Heartbeat(index, link.value);
  });
}

void World::Heartbeat(size_t index, uint64_t link) {
  Node& node = nodes_[index];
  if (!node.up || node.link.value != link) return;
  if (!node.hung) {
    pool_->OnWorkerEvent(node.link, net::Heartbeat{1 << 20, 0.5, 1}, now_);
    Pump();
  }
  After(net::kHeartbeatMs * kMillisecond, [this, index, link] { Heartbeat(index, link); });
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
  if (options_.weather == Weather::kStormy) return;
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

void World::KillNode(size_t index, bool silently) {
  Node& node = nodes_[index];
  if (!node.up) return;
  node.up = false;
  const net::LinkId link = node.link;
  node.link = net::LinkId(0);
  if (silently) return;
  const std::string name = node.worker->name();
  After(Ms(1, 50), [this, link] {
    pool_->OnWorkerGone(link, Unavailable("connection reset"), now_);
    Pump();
  });
  if (port_worker_ == name) {
    After(Ms(1, 50), [this, epoch = port_epoch_] {
      pool_->OnPortClosed(coordinator::DeploymentId(1), epoch, Unavailable("connection reset"),
                          now_);
      Pump();
    });
  }
}

void World::HangNode(size_t index, TimeNs how_long) {
  Node& node = nodes_[index];
  if (!node.up || node.hung) return;
  node.hung = true;
  node.busy_until = std::max(node.busy_until, now_ + how_long);
  After(how_long, [this, index, life = node.life] {
    if (nodes_[index].life == life) nodes_[index].hung = false;
  });
}

void World::OnAssign(const PoolAction::Assign& assign) {
  Node* node = NodeOfLink(assign.link);
  const Epoch epoch = assign.assignment.spec.epoch;
  Epoch& highest = assigned_epoch_[assign.link.value];
  if (epoch <= highest) Violation("an epoch was assigned twice");
  if (node != nullptr && drained_.contains(node->worker->name()) &&
      !pool_->rollout().kept(node->worker->name())) {
    Violation("a drained worker was planned in");
  }
  highest = epoch;
  if (assign.assignment.mode == net::AssignMode::kBeside) beside_epochs_.insert(epoch);
  if (node == nullptr) return;  // died, and the coordinator does not know yet
  const size_t index = static_cast<size_t>(node - nodes_.data());
  const bool fails = options_.weather == Weather::kStormy && now_ < 30 * kSecond && Random(12) == 0;
  TimeNs& last = control_time_[assign.link.value];
  last = std::max(last, std::max(now_, node->busy_until) + Ms(1, 400));
  // What is loaded beside the plan that serves may take long, and nobody waits for it.
  if (assign.assignment.mode != net::AssignMode::kInstead)
    last += static_cast<TimeNs>(drain_rng_() % 6000) * kMillisecond;
  At(last, [this, index, fails, life = node->life, assign] {
    Node& n = nodes_[index];
    if (n.life != life || !n.up) return;
    const stage::StageSpec& spec = assign.assignment.spec;
    n.worker->Assign(assign.assignment);
    if (fails) {
      pool_->OnWorkerEvent(assign.link,
                           net::StageFailed{spec.plan, spec.epoch, absl::DataLossError("bad disk")},
                           now_);
    } else {
      pool_->OnWorkerEvent(assign.link, net::StageReady{spec.plan, spec.epoch, 1, 1, 1, 0}, now_);
    }
    Pump();
  });
}

void World::OnRelease(const PoolAction::Release& release) {
  Node* node = NodeOfLink(release.link);
  if (node == nullptr) return;
  const size_t index = static_cast<size_t>(node - nodes_.data());
  // Behind the assignments before it, but not always before frames of the epoch that follows.
  TimeNs& last = control_time_[release.link.value];
  last = std::max(last + 1, now_ + static_cast<TimeNs>(drain_rng_() % 300) * kMillisecond);
  At(last, [this, index, life = node->life, plan = release.plan] {
    if (nodes_[index].life == life && nodes_[index].up) nodes_[index].worker->Release(plan);
  });
}

void World::Carry(const std::string& name, const std::function<void()>& deliver) {
  if (Chance(faults_.lose)) return;
  TimeNs& last = link_time_[name];
  TimeNs time = now_ + 50'000 + static_cast<TimeNs>(Random(400'000));
  if (Chance(faults_.delay)) time += Ms(10, 12000);
  if (Chance(faults_.reorder)) {
    At(time + Ms(1, 40), deliver);  // others may pass it
    return;
  }
  last = std::max(last + 1, time);
  At(last, deliver);
  if (Chance(faults_.repeat)) At(last + Ms(0, 3000), deliver);
}

void World::SendFrame(const std::string& from, size_t to, stage::StepFrame frame) {
  const std::string link = absl::StrCat(from, ">", to, "#", frame.epoch.value);
  if (options_.swap_blocks && Random(300) == 0) {
    for (stage::SeqRun& run : frame.batch.runs) {
      auto& blocks = run.tables[0].blocks;
      if (blocks.size() >= 2) std::swap(blocks.front(), blocks.back());
    }
  }
  if (options_.foreign_hidden && !frame.hidden.data.empty()) {
    std::vector<uint8_t>& before = last_hidden_[to];
    if (before.size() == frame.hidden.data.size() && Random(200) == 0) {
      frame.hidden.data = before;
    } else {
      before = frame.hidden.data;
    }
  }
  Carry(link, [this, to, life = nodes_[to].life, frame] {
    if (nodes_[to].life == life) DeliverFrame(to, frame);
  });
}

void World::DeliverFrame(size_t index, stage::StepFrame frame) {
  Node& node = nodes_[index];
  if (!node.up) return;
  const TimeNs cost = static_cast<TimeNs>(
      static_cast<double>(200'000 + 20'000 * frame.batch.TotalRows() + Random(200'000)) *
      node.slowness);
  node.busy_until = std::max(node.busy_until, now_) + cost;
  At(node.busy_until, [this, index, life = node.life, frame = std::move(frame)]() mutable {
    if (nodes_[index].life == life && nodes_[index].up) RunFrame(index, std::move(frame));
  });
}

void World::RunFrame(size_t index, stage::StepFrame frame) {
  Node& node = nodes_[index];
  if (node.hung && node.busy_until > now_) {
    At(node.busy_until, [this, index, life = node.life, frame = std::move(frame)]() mutable {
      if (nodes_[index].life == life && nodes_[index].up) RunFrame(index, std::move(frame));
    });
    return;
  }
  const stage::StepFrame header = frame;
  FakeWorker::Output output = node.worker->Run(std::move(frame));
  if (output.forward) {
    const size_t next = NodeOf(node.worker->assignment()->next_worker);
    if (nodes_[next].up) {
      SendFrame(node.worker->name(), next, std::move(*output.forward));
    } else {
      stage::StepResult error;
      error.plan = header.plan;
      error.epoch = header.epoch;
      error.step = header.batch.step;
      error.frame = header.batch.frame;
      error.stage = header.stage;
      error.worker = node.worker->name();
      error.status = Unavailable("the link to the next stage broke");
      output.result = std::move(error);
    }
  }
  if (output.result) SendResult(index, std::move(*output.result));
}

void World::SendResult(size_t from, stage::StepResult result) {
  const std::string link = absl::StrCat(from, ">coordinator#", result.epoch.value);
  Carry(link, [this, result] {
    pool_->OnResult(result, now_);
    Pump();
  });
}

}  // namespace lanyard::sim
