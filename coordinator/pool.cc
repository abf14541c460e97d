#include "coordinator/pool.h"

#include <utility>

namespace lanyard::coordinator {
namespace {

constexpr TimeNs kForgetLostAfter = 600 * kSecond;

template <typename... F>
struct Overloaded : F... {
  using F::operator()...;
};
template <typename... F>
Overloaded(F...) -> Overloaded<F...>;

std::string TextOf(const Pace::Verdict& verdict) {
  if (verdict.slowness <= 1)
    return absl::StrCat("worker '", verdict.machine, "' is as fast as its speed promises again");
  return absl::StrFormat(
      "worker '%s' takes %.1f times as long for its layers as its speed promises beside the "
      "others; "
      "plans count on that from now on",
      verdict.machine, verdict.slowness);
}

}  // namespace

PoolMachine::PoolMachine(PoolOptions options)
    : options_(std::move(options)),
      membership_(options_.membership),
      health_(options_.health),
      drained_(options_.drained),
      deployment_(DeploymentId(1), options_.deployment, &health_, &actions_) {}

std::vector<PoolAction::Any> PoolMachine::TakeActions() { return std::exchange(actions_, {}); }

void PoolMachine::OnWorkerEvent(net::LinkId link, const net::WorkerEvent& event, TimeNs now) {
  if (const auto* hello = std::get_if<net::WorkerHello>(&event)) {
    OnHello(link, *hello, now);
    return;
  }
  if (!membership_.OnMessage(link, now)) return;
  const std::string name = membership_.Find(link)->hello.name;
  std::visit(Overloaded{
                 [](const net::WorkerHello&) {},
                 [](const net::Diagnosis&) {},  // the runner handles these (cluster/diagnoser.h)
                 [&](const net::Heartbeat& m) {
                   membership_.OnHeartbeat(link, m);
                   health_.pace().OnHeartbeat(name, m, now);
                   for (const Pace::Verdict& verdict : health_.pace().TakeVerdicts())
                     Do(PoolAction::Log{verdict.slowness > 1, TextOf(verdict)});
                 },
                 [&](const net::DevicesChanged& m) {
                   membership_.OnDevices(link, m);
                   ++revision_;
                 },
                 [&](const net::LoadProgress& m) { deployment_.OnProgress(link, m, now); },
                 [&](const net::StageReady& m) { deployment_.OnReady(link, m, View(), now); },
                 [&](const net::StageFailed& m) {
                   deployment_.OnStageFailed(*membership_.Find(link), m, View(), now);
                 },
                 [&](const net::Leaving& m) {
                   if (auto gone = membership_.OnGone(link))
                     Gone(*gone, Departure::kLeft, absl::StrCat("it left (", m.reason, ")"), now);
                   Do(PoolAction::CloseLink{link});
                 },
             },
             event);
  if (suspects_.contains(name)) WatchSilence(now);
  deployment_.Poll(View(), now);
}

void PoolMachine::OnHello(net::LinkId link, const net::WorkerHello& hello, TimeNs now) {
  Membership::Admission admission = membership_.OnHello(link, hello, now);
  if (!admission.status.ok()) {
    Do(PoolAction::Log{true, absl::StrCat("a worker was refused: ", admission.status.message())});
    Do(PoolAction::Refuse{link, std::move(admission.status)});
    return;
  }
  if (admission.replaced) {
    Do(PoolAction::CloseLink{admission.replaced->link});
    Gone(*admission.replaced, Departure::kSilent, "it fell silent and a newcomer took its name",
         now);
  }
  lost_.erase(hello.name);
  ++revision_;
  Do(PoolAction::Welcome{link});
  Do(PoolAction::Log{false, absl::StrCat("worker '", hello.name, "' joined from ",
                                         hello.stage_address, " (pid ", hello.pid, ")")});
  deployment_.OnJoined(hello.name, now);
  deployment_.Poll(View(), now);
}

void PoolMachine::OnWorkerGone(net::LinkId link, const absl::Status& why, TimeNs now) {
  if (auto member = membership_.OnGone(link)) {
    std::string_view text = why.ok() ? "its link closed" : StdView(why.message());
    const std::string name = absl::StrCat("worker '", member->hello.name, "': ");
    if (text.starts_with(name)) text.remove_prefix(name.size());  // the worker is named already
    Gone(*member, absl::IsPermissionDenied(why) ? Departure::kRevoked : Departure::kBroke, text,
         now);
  }
  deployment_.Poll(View(), now);
}

void PoolMachine::Gone(const Member& member, Departure how, std::string_view why, TimeNs now) {
  lost_[member.hello.name] = {member, now};
  suspects_.erase(member.hello.name);
  ++revision_;
  Do(PoolAction::Log{true,
                     absl::StrCat("worker '", member.hello.name, "' is gone: ", AbslView(why))});
  deployment_.OnGone(member, how, why, View(), now);
  deployment_.SetSuspects(suspects_);
}

void PoolMachine::OnPortClosed(DeploymentId /*deployment*/, Epoch epoch, const absl::Status& why,
                               TimeNs now) {
  deployment_.OnPortClosed(epoch, why, now);
}

void PoolMachine::OnPlanned(DeploymentId /*deployment*/, uint64_t job,
                            const absl::StatusOr<sharding::Plan>& made, TimeNs now) {
  const size_t n_before = actions_.size();
  deployment_.OnPlanned(job, made, View(), now);
  for (size_t i = n_before; i < actions_.size(); ++i) {
    const auto* answer = std::get_if<PoolAction::DrainAnswer>(&actions_[i]);
    if (answer != nullptr) OnDrainAnswer(PoolAction::DrainAnswer(*answer), now);
  }
  deployment_.Poll(View(), now);  // only now, when it is known who is drained
}

void PoolMachine::OnResult(stage::StepResult result, TimeNs now) {
  deployment_.OnResult(std::move(result), View(), now);
}

absl::Status PoolMachine::Submit(SequenceSpec spec, TimeNs now) {
  return deployment_.Submit(std::move(spec), now);
}

void PoolMachine::WatchSilence(TimeNs now) {
  std::set<std::string> suspects = membership_.Silent(now);
  for (const std::string& name : suspects_) {
    if (suspects.contains(name)) continue;
    health_.OnStall(name);
    Do(PoolAction::Log{false, absl::StrCat("worker '", name, "' is heard again")});
  }
  suspects_ = std::move(suspects);
  deployment_.SetSuspects(suspects_);
}

void PoolMachine::OnTick(TimeNs now) {
  for (const Member& member : membership_.Expire(now)) {
    Do(PoolAction::CloseLink{member.link});
    const int64_t silent_ms = (now - member.heard) / kMillisecond;
    Gone(member, Departure::kSilent, absl::StrCat("not a word for ", silent_ms, " ms"), now);
  }
  WatchSilence(now);
  health_.OnTick(now);
  std::erase_if(lost_, [&](const auto& e) { return now - e.second.since > kForgetLostAfter; });
  deployment_.OnTick(View(), now);
}

void PoolMachine::Drain(const std::string& worker, TimeNs now) {
  if (!drained_.contains(worker) && rollout().HasStage(worker)) {
    deployment_.AskDrain(worker);
    deployment_.Poll(View(), now);
    return;
  }
  OnDrainAnswer({worker, absl::OkStatus()}, now);
  Do(PoolAction::DrainAnswer{worker, absl::OkStatus()});
}

void PoolMachine::OnDrainAnswer(const PoolAction::DrainAnswer& answer, TimeNs now) {
  if (!answer.status.ok()) {
    Do(PoolAction::Log{true, Str(answer.status.message())});
    return;
  }
  if (!drained_.insert(answer.worker).second) return;
  ++revision_;
  Do(PoolAction::Log{
      false, absl::StrCat("worker '", answer.worker, "' is drained: no plan uses it any more")});
  deployment_.Poll(View(), now);
}

void PoolMachine::Undrain(const std::string& worker, TimeNs now) {
  if (drained_.erase(worker) == 0) return;
  ++revision_;
  health_.Forgive(worker);
  deployment_.OnJoined(worker, now);
  Do(PoolAction::Log{false, absl::StrCat("worker '", worker, "' is not drained any more")});
}

void PoolMachine::FillNode(const Member& member, TimeNs now, NodeStatus* node) const {
  node->name = member.hello.name;
  node->state = "joined";
  node->address = member.hello.stage_address;
  node->version = member.hello.version;
  node->isa = member.hello.isa;
  node->pid = member.hello.pid;
  node->threads = member.hello.threads;
  node->speed = member.hello.speed;
  node->memory_bytes = member.hello.memory_bytes;
  node->resident_bytes = member.heartbeat.resident_bytes;
  node->busy = member.heartbeat.busy;
  node->heartbeat_age_s = static_cast<double>(now - member.heard) / kSecond;
  for (const net::DeviceHello& device : member.hello.devices) {
    const net::DeviceRates& rates = device.rates;
    node->devices.push_back({device.name, device.model, device.memory_bytes, device.speed,
                             rates.read_bytes_per_second, rates.int8_ops_per_second,
                             rates.f16_ops_per_second, rates.to_device_bytes_per_second,
                             rates.to_host_bytes_per_second});
  }
  for (const AssignedStage& stage : rollout().stages()) {
    if (stage.link != member.link) continue;
    node->state = stage.ready ? "ready" : "loading";
    node->has_stage = true;
    node->layers = stage.planned.layers;
    node->embeds = stage.planned.embeds;
    node->samples = stage.planned.samples;
    node->gguf_bytes = stage.planned.gguf_bytes;
    node->weights_bytes = stage.ready ? stage.answer.weights_bytes : stage.planned.weights_bytes;
    node->kv_bytes = stage.ready ? stage.answer.kv_bytes : stage.planned.kv_bytes;
    node->buffer_bytes = stage.ready ? stage.answer.buffer_bytes : stage.planned.buffer_bytes;
    node->fetched_bytes = stage.answer.fetched_bytes;
    node->load_done_bytes = stage.progress.done_bytes;
    node->load_total_bytes = stage.progress.total_bytes;
  }
  for (const AssignedStage& stage : rollout().beside_stages()) {
    if (stage.link != member.link || node->has_stage || stage.ready) continue;
    node->state = "loading";
    node->load_done_bytes = stage.progress.done_bytes;
    node->load_total_bytes = stage.progress.total_bytes;
  }
  node->drained = drained_.contains(node->name);
  if (node->drained) node->state = node->has_stage ? "draining" : "drained";
  node->why = rollout().WhyNotUsed(node->name, View(), now);
  node->slowness = health_.pace().Slowness(node->name);
  if (node->why.empty() && node->slowness > 1) {
    node->why = absl::StrFormat(
        "it takes %.1f times as long for its layers as its speed promises beside the others, which "
        "wait for it; plans give it fewer of them",
        node->slowness);
  }
  if (const HealthRecord* record = health_.Failing(node->name); record != nullptr) {
    const LoadCauseText text = TextOf(record->cause);
    node->load_failure = {text.id, text.what, text.next, record->load_failures, record->why};
  }
}

PoolStatus PoolMachine::Status(TimeNs now) const {
  PoolStatus status;
  status.ready = serving();
  switch (rollout().state()) {
    case RolloutState::kWaiting:
      status.state = "waiting for workers";
      break;
    case RolloutState::kLoading:
      status.state = "loading";
      break;
    case RolloutState::kServing:
      status.state = "ready";
      break;
    case RolloutState::kNoFit:
      status.state = "no plan fits";
      break;
  }
  status.why = rollout().why();
  if (const auto in = rollout().ReadyIn(now)) status.ready_in_s = SecondsUp(*in);
  status.context = scheduler().context();
  status.numerics = options_.deployment.rollout.numerics.ToString();
  status.epoch = rollout().epoch().value;
  status.plan_why = rollout().plan().why;
  status.kv_blocks_total = scheduler().kv_blocks_total();
  status.kv_blocks_used = scheduler().kv_blocks_used();
  for (const auto& [name, member] : membership_.members()) {
    FillNode(member, now, &status.nodes.emplace_back());
  }
  for (const auto& [name, lost] : lost_) {
    NodeStatus& node = status.nodes.emplace_back();
    FillNode(lost.member, now, &node);
    node.state = "lost";
    if (!node.drained) node.why = "it left the pool and has not come back";
    node.has_stage = false;
  }
  for (const SequenceView& view : scheduler().View()) {
    RequestStatus& request = status.requests.emplace_back();
    request.request_id = absl::StrCat(view.id.value);
    request.state = view.state;
    request.prompt_tokens = view.prompt_tokens;
    request.prefilled_tokens = view.prefilled_tokens;
    request.completion_tokens = view.completion_tokens;
    request.age_s = static_cast<double>(now - view.arrived) / kSecond;
  }
  return status;
}

}  // namespace lanyard::coordinator
