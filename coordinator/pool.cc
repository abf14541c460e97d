#include "coordinator/pool.h"

#include <utility>

#include "coordinator/serve/request_check.h"

namespace lanyard::coordinator {
namespace {

constexpr TimeNs kForgetLostAfter = 600 * kSecond;

template <typename... F>
struct Overloaded : F... {
  using F::operator()...;
};
template <typename... F>
Overloaded(F...) -> Overloaded<F...>;

}  // namespace

PoolMachine::PoolMachine(PoolOptions options)
    : options_(std::move(options)),
      membership_(options_.membership),
      placement_(options_.placement),
      scheduler_(options_.scheduler),
      pipeline_(options_.pipeline) {}

std::vector<PoolAction::Any> PoolMachine::TakeActions() { return std::exchange(actions_, {}); }

absl::Status PoolMachine::NotServing() const {
  return Unavailable("the pool is not ready: ", placement_.why());
}

void PoolMachine::OnWorkerEvent(net::LinkId link, const net::WorkerEvent& event, TimeNs now) {
  if (const auto* hello = std::get_if<net::WorkerHello>(&event)) {
    OnHello(link, *hello, now);
    return;
  }
  if (!membership_.OnMessage(link, now)) return;
  std::visit(Overloaded{
                 [](const net::WorkerHello&) {},
                 [](const net::Diagnosis&) {},  // the runner handles these (cluster/diagnoser.h)
                 [&](const net::Heartbeat& m) { membership_.OnHeartbeat(link, m); },
                 [&](const net::DevicesChanged& m) {
                   membership_.OnDevices(link, m);
                   placement_.OnDevices();
                 },
                 [&](const net::LoadProgress& m) { placement_.OnProgress(link, m, now); },
                 [&](const net::StageReady& m) { Apply(placement_.OnReady(link, m, now), now); },
                 [&](const net::StageFailed& m) { OnStageFailed(link, m, now); },
                 [&](const net::Leaving& m) {
                   if (auto member = membership_.OnGone(link)) {
                     Gone(*member, absl::StrCat("it left (", m.reason, ")"), now);
                   }
                   Do(PoolAction::CloseLink{link});
                 },
             },
             event);
  Apply(placement_.Poll(membership_, now), now);
}

void PoolMachine::OnStageFailed(net::LinkId link, const net::StageFailed& failed, TimeNs now) {
  // While the pool serves, a stage mostly fails because its neighbour died, and that news may be on
  // its way.
  if (pipeline_.open() && failed.epoch == pipeline_.plan().epoch &&
      failed.plan == pipeline_.plan().plan) {
    const Member* member = membership_.Find(link);
    Fault(Unavailable("worker '", member->hello.name,
                      "' gave up its stage: ", failed.status.message()),
          now);
    return;
  }
  Apply(placement_.OnFailed(link, failed, now), now);
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
    Gone(*admission.replaced, "it fell silent and a newcomer took its name", now);
  }
  lost_.erase(hello.name);
  Do(PoolAction::Welcome{link});
  Do(PoolAction::Log{false, absl::StrCat("worker '", hello.name, "' joined from ",
                                         hello.stage_address, " (pid ", hello.pid, ")")});
  placement_.OnJoined(hello.name, now);
  Apply(placement_.Poll(membership_, now), now);
}

void PoolMachine::OnWorkerGone(net::LinkId link, const absl::Status& why, TimeNs now) {
  if (auto member = membership_.OnGone(link)) {
    std::string_view text = why.ok() ? "its link closed" : StdView(why.message());
    const std::string name = absl::StrCat("worker '", member->hello.name, "': ");
    if (text.starts_with(name)) text.remove_prefix(name.size());  // the worker is named already
    Gone(*member, text, now, !absl::IsPermissionDenied(why));
  }
  Apply(placement_.Poll(membership_, now), now);
}

void PoolMachine::Gone(const Member& member, std::string_view why, TimeNs now, bool may_return) {
  lost_[member.hello.name] = {member, now};
  Do(PoolAction::Log{true,
                     absl::StrCat("worker '", member.hello.name, "' is gone: ", AbslView(why))});
  Apply(placement_.OnGone(member, why, now, may_return), now);
}

void PoolMachine::OnPortClosed(Epoch epoch, const absl::Status& why, TimeNs now) {
  if (!pipeline_.open() || epoch != pipeline_.plan().epoch) return;
  Fault(Unavailable("the link to ", pipeline_.plan().stages.front().Describe(),
                    " broke: ", why.message()),
        now);
}

void PoolMachine::Fault(absl::Status why, TimeNs now) {
  if (fault_) return;
  fault_ = std::move(why);
  fault_at_ = now;
}

void PoolMachine::OnResult(stage::StepResult result, TimeNs now) {
  Apply(pipeline_.OnResult(std::move(result), now), now);
}

void PoolMachine::OnTick(TimeNs now) {
  for (const Member& member : membership_.Expire(now)) {
    Do(PoolAction::CloseLink{member.link});
    const int64_t silent_ms = (now - member.heard) / kMillisecond;
    Gone(member, absl::StrCat("not a word for ", silent_ms, " ms"), now);
  }
  std::erase_if(lost_, [&](const auto& e) { return now - e.second.since > kForgetLostAfter; });
  Apply(pipeline_.OnTick(now), now);
  if (fault_ && now - fault_at_ >= options_.fault_patience) {
    const absl::Status why = *std::exchange(fault_, std::nullopt);
    Apply(placement_.OnFault(why, now), now);
  }
  if (!scheduler_.idle()) busy_at_ = now;
  const bool quiet = !fault_ && scheduler_.idle() && now - busy_at_ >= options_.quiet_after;
  MoveFromDrained(now);
  Apply(placement_.Poll(membership_, now, quiet), now);
  const TimeNs lost_since = placement_.lost_since();
  if (!placement_.moving() && lost_since != 0 && now - lost_since >= options_.queue_timeout) {
    for (const SeqId id : scheduler_.FailWaiting(now + 1)) Do(PoolAction::Fail{id, NotServing()});
  }
}

absl::Status PoolMachine::Drain(const std::string& worker) {
  if (placement_.drained().contains(worker)) return absl::OkStatus();
  const absl::Status status = placement_.Drain(worker, membership_);
  Do(PoolAction::Log{
      !status.ok(), status.ok()
                        ? absl::StrCat("worker '", worker, "' is drained: no plan uses it any more")
                        : Str(status.message())});
  return status;
}

void PoolMachine::Undrain(const std::string& worker, TimeNs now) {
  if (!placement_.drained().contains(worker)) return;
  placement_.Undrain(worker, now);
  Do(PoolAction::Log{false, absl::StrCat("worker '", worker, "' is not drained any more")});
}

void PoolMachine::MoveFromDrained(TimeNs now) {
  if (!placement_.wants_move() || fault_) {
    scheduler_.Hold(false);
    move_since_ = 0;
    return;
  }
  if (move_since_ == 0) {
    move_since_ = now;
    scheduler_.Hold(true);
    if (scheduler_.n_running() > 0) {
      Do(PoolAction::Log{
          false, absl::StrCat("before layers move, ", scheduler_.n_running(), " requests have ",
                              options_.drain_patience / kSecond, " s to end")});
    }
  }
  const bool idle = scheduler_.n_running() == 0 && scheduler_.steps_in_flight() == 0;
  if (idle || now - move_since_ >= options_.drain_patience)
    Apply(placement_.Move(membership_, now, idle), now);
}

void PoolMachine::Apply(PipelineOutcome outcome, TimeNs now) {
  if (!outcome.ignored.empty()) {
    ++ignored_results_;
    return;
  }
  for (const FrameDone& frame : outcome.done) {
    for (SequenceUpdate& update :
         scheduler_.CommitFrame(frame.step, frame.frame, frame.tokens, now)) {
      Do(PoolAction::Token{std::move(update)});
    }
  }
  for (const FrameFailed& frame : outcome.failed) {
    Do(PoolAction::Log{true, Str(frame.status.message())});
    for (const SeqId id : scheduler_.FailFrame(frame.step, frame.frame)) {
      Do(PoolAction::Fail{id, frame.status});
    }
  }
  if (outcome.lost) Fault(*std::move(outcome.lost), now);
}

void PoolMachine::Apply(PlacementActions actions, TimeNs now) {
  (void)now;
  if (!actions.note.empty()) Do(PoolAction::Log{false, std::move(actions.note)});
  if (actions.lost) {
    fault_.reset();
    Do(PoolAction::Log{!actions.by_choice,
                       absl::StrCat("the pipeline stopped: ", actions.lost->message())});
    if (pipeline_.open()) {
      pipeline_.Close();
      Do(PoolAction::ClosePort{});
    }
    for (const SeqId id : scheduler_.OnPipelineLost(actions.carry))
      Do(PoolAction::Fail{id, *actions.lost});
  }
  if (actions.new_epoch) Do(PoolAction::UseEpoch{*actions.new_epoch});
  for (auto& assign : actions.assign) {
    Do(PoolAction::Assign{assign.link, std::move(assign.assignment)});
  }
  for (const auto& release : actions.release) Do(PoolAction::Release{release.link, release.plan});
  if (actions.serve) Serve();
}

void PoolMachine::Serve() {
  PipelinePlan plan;
  plan.plan = placement_.plan_id();
  plan.epoch = placement_.epoch();
  plan.numerics = options_.placement.numerics;
  plan.n_vocab = options_.placement.manifest->shape.n_vocab;
  for (const AssignedStage& stage : placement_.stages()) {
    plan.stages.push_back({stage.planned.machine, stage.planned.layers});
  }
  const Member* first = membership_.FindByName(plan.stages.front().worker);
  Do(PoolAction::OpenPort{first->hello.name, first->hello.stage_address, first->hello.node,
                          plan.plan, plan.epoch});

  PipelineShape shape;
  shape.n_stages = static_cast<uint32_t>(plan.stages.size());
  shape.context = placement_.plan().context;
  const auto& groups = options_.placement.manifest->shape.groups;
  for (size_t g = 0; g < groups.size(); ++g) {
    shape.groups.push_back({groups[g].window, placement_.plan().group_blocks[g]});
  }
  pipeline_.Open(std::move(plan));
  for (SequenceFailure& failure : scheduler_.OnPipelineReady(shape)) {
    Do(PoolAction::Fail{failure.id, std::move(failure.status)});
  }
  Do(PoolAction::Log{false,
                     absl::StrCat("serving: epoch ", placement_.epoch().value, ", ", shape.n_stages,
                                  " stages, context ", scheduler_.context())});
}

absl::Status PoolMachine::Submit(SequenceSpec spec, TimeNs now) {
  if (!admits()) return NotServing();
  RETURN_IF_ERROR(CheckPromptFits(spec.prompt.size(), context()));
  busy_at_ = now;
  return scheduler_.Submit(std::move(spec), now);
}

void PoolMachine::Pump(TimeNs now) {
  if (!pipeline_.open() || fault_) return;
  while (auto step = scheduler_.NextStep(now)) {
    for (stage::StepFrame& frame : pipeline_.Submit(*std::move(step), now)) {
      Do(PoolAction::Send{std::move(frame)});
    }
  }
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
  for (const AssignedStage& stage : placement_.stages()) {
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
  node->drained = placement_.drained().contains(node->name);
  if (node->drained) node->state = node->has_stage ? "draining" : "drained";
  node->why = placement_.WhyNotUsed(node->name);
}

PoolStatus PoolMachine::Status(TimeNs now) const {
  PoolStatus status;
  status.ready = serving();
  switch (placement_.state()) {
    case PlacementState::kWaiting:
      status.state = "waiting for workers";
      break;
    case PlacementState::kLoading:
      status.state = "loading";
      break;
    case PlacementState::kServing:
      status.state = "ready";
      break;
    case PlacementState::kNoFit:
      status.state = "no plan fits";
      break;
  }
  status.why = placement_.why();
  status.context = scheduler_.context();
  status.numerics = options_.placement.numerics.ToString();
  status.epoch = placement_.epoch().value;
  status.plan_why = placement_.plan().why;
  status.kv_blocks_total = scheduler_.kv_blocks_total();
  status.kv_blocks_used = scheduler_.kv_blocks_used();
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
  for (const SequenceView& view : scheduler_.View()) {
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
