#include "coordinator/deployment.h"

#include <algorithm>
#include <utility>

#include "base/field_error.h"
#include "coordinator/serve/request_check.h"
#include "net/limits.h"

namespace lanyard::coordinator {
namespace {

static_assert(kBytesInFlight < net::kMaxQueuedBytes, "a stream's queue takes them");

}  // namespace

Deployment::Deployment(DeploymentId id, DeploymentOptions options, MachineHealth* health,
                       std::vector<PoolAction::Any>* actions)
    : id_(id),
      options_(std::move(options)),
      health_(health),
      actions_(actions),
      rollout_(options_.rollout),
      scheduler_(options_.scheduler),
      pipeline_(options_.pipeline) {}

absl::Status Deployment::NotServing(TimeNs now) const {
  absl::Status status = Unavailable("the pool is not ready: ", rollout_.why());
  const std::optional<TimeNs> ready_in = rollout_.ReadyIn(now);
  return ready_in ? WithRetryAfter(std::move(status), SecondsUp(*ready_in)) : status;
}

bool Deployment::admits() const {
  switch (rollout_.state()) {
    case RolloutState::kServing:
      return true;
    case RolloutState::kNoFit:
      return false;
    case RolloutState::kWaiting:
    case RolloutState::kLoading:
      return served_once_;
  }
  return false;
}

uint32_t Deployment::context() const {
  return serving() ? scheduler_.context() : rollout_.plan().context;
}

absl::Status Deployment::Submit(SequenceSpec spec, TimeNs now) {
  if (!admits()) return NotServing(now);
  RETURN_IF_ERROR(CheckPromptFits(spec.prompt.size(), context()));
  busy_at_ = now;
  return scheduler_.Submit(std::move(spec), now);
}

void Deployment::Pump(TimeNs now) {
  if (!pipeline_.open() || fault_ || !suspect_.empty() || last_steps_since_ != 0) return;
  while (auto step = scheduler_.NextStep(now)) {
    for (stage::StepFrame& frame : pipeline_.Submit(*std::move(step), now)) {
      Do(PoolAction::Send{id_, std::move(frame)});
    }
  }
}

void Deployment::OnGone(const Member& member, Departure how, std::string_view why,
                        const ClusterView& view, TimeNs now) {
  const auto& stages = rollout_.stages();
  const auto stage = std::find_if(stages.begin(), stages.end(),
                                  [&](const auto& s) { return s.link == member.link; });
  if (stage != stages.end()) {
    // One that ends whenever it loads its stage must not keep the pool from serving.
    if (!serving() && !stage->ready && MayReturn(how)) {
      health_->OnLoadFailed(member.hello.name, {Unavailable(AbslView(why))}, now);
    } else {
      health_->OnLost(member.hello.name, now);
    }
  } else if (MayReturn(how)) {
    for (const AssignedStage& beside : rollout_.beside_stages()) {
      if (beside.link == member.link && !beside.ready)
        health_->OnLoadFailed(member.hello.name, {Unavailable(AbslView(why))}, now);
    }
  }
  Apply(rollout_.OnGone(member, how, why, view, now), view);
}

void Deployment::OnReady(net::LinkId link, const net::StageReady& ready, const ClusterView& view,
                         TimeNs now) {
  Apply(rollout_.OnReady(link, ready, now), view);
}

void Deployment::OnStageFailed(const Member& member, const net::StageFailed& failed,
                               const ClusterView& view, TimeNs now) {
  const bool current = failed.epoch == rollout_.epoch() && failed.plan == rollout_.plan_id();
  const bool serves = pipeline_.open() && current;
  // One that serves well must not be left out of a plan that follows a loss because it could not
  // make another stage ready beside its own.
  const bool beside = rollout_.IsBeside(failed.plan, failed.epoch) &&
                      (!rollout_.HasStage(member.hello.name) || !failed.unreachable.empty());
  if (beside || (current && !proven_ && (!serves || !failed.unreachable.empty())))
    health_->OnLoadFailed(member.hello.name, {failed.status, failed.cause, failed.unreachable},
                          now);
  // While it serves, a stage mostly fails because its neighbour died, and that news may be on its
  // way.
  if (serves) {
    Fault(Unavailable("worker '", member.hello.name,
                      "' gave up its stage: ", failed.status.message()),
          now);
    return;
  }
  Apply(rollout_.OnFailed(member.link, failed, view, now), view);
}

void Deployment::OnPlanned(uint64_t job, const absl::StatusOr<sharding::Plan>& made,
                           const ClusterView& view, TimeNs now) {
  Apply(rollout_.OnPlanned(job, made, view, now), view);
}

void Deployment::OnPortClosed(Epoch epoch, const absl::Status& why, TimeNs now) {
  if (!pipeline_.open() || epoch != pipeline_.plan().epoch) return;
  Fault(Unavailable("the link to ", pipeline_.plan().stages.front().Describe(),
                    " broke: ", why.message()),
        now);
}

void Deployment::Fault(absl::Status why, TimeNs now) {
  if (fault_) return;
  fault_ = std::move(why);
  fault_at_ = now;
}

void Deployment::OnResult(stage::StepResult result, const ClusterView& view, TimeNs now) {
  Apply(pipeline_.OnResult(std::move(result), now), now);
  if (last_steps_since_ != 0) TakeBeside(view, now);
}

void Deployment::SetSuspects(const std::set<std::string>& suspects) {
  std::string suspect;
  for (const AssignedStage& stage : rollout_.stages()) {
    if (suspects.contains(stage.planned.machine)) suspect = stage.planned.machine;
  }
  const auto& beside = rollout_.beside_stages();
  suspect_beside_ = std::any_of(beside.begin(), beside.end(), [&](const AssignedStage& stage) {
    return suspects.contains(stage.planned.machine);
  });
  if (suspect == suspect_) return;
  if (!suspect.empty() && serving()) {
    Do(PoolAction::Log{
        true, absl::StrCat("worker '", suspect, "' is silent; the pool waits for it a little")});
  }
  suspect_ = std::move(suspect);
}

void Deployment::OnTick(const ClusterView& view, TimeNs now) {
  if (suspect_.empty()) {
    Apply(pipeline_.OnTick(now), now);
  } else {
    pipeline_.Stalled(now);  // what is late for a known reason is not lost
  }
  if (fault_ && now - fault_at_ >= options_.fault_patience) {
    const absl::Status why = *std::exchange(fault_, std::nullopt);
    Apply(rollout_.OnFault(why, view, now), view);
  }
  if (!scheduler_.idle()) busy_at_ = now;
  EndOverdue(now);
  MoveFromDrained(view, now);
  Poll(view, now);
  const TimeNs lost_since = rollout_.lost_since();
  const bool timed_out =
      !rollout_.moving() && lost_since != 0 && now - lost_since >= options_.queue_timeout;
  if (timed_out || rollout_.state() == RolloutState::kNoFit) {
    for (const SeqId id : scheduler_.FailWaiting(now + 1))
      Do(PoolAction::Fail{id, NotServing(now)});
  }
}

void Deployment::EndOverdue(TimeNs now) {
  for (const Scheduler::Overdue& overdue : scheduler_.EndOverdue(now)) {
    Do(PoolAction::Fail{overdue.id, absl::DeadlineExceededError(absl::StrCat(
                                        "the request's own 'timeout' ended before its answer ",
                                        overdue.completion_tokens == 0 ? "began" : "was whole"))});
  }
}

void Deployment::Poll(const ClusterView& view, TimeNs now) {
  const bool quiet = !fault_ && scheduler_.idle() && now - busy_at_ >= options_.quiet_after;
  Apply(rollout_.Poll(view, now, quiet), view);
  TakeBeside(view, now);
}

// Between two steps, so that no request counts this among the losses that it may have caused.
void Deployment::TakeBeside(const ClusterView& view, TimeNs now) {
  if (!rollout_.WantsTake() || fault_ || !suspect_.empty() || suspect_beside_) {
    take_since_ = last_steps_since_ = 0;
    return;
  }
  if (take_since_ == 0) take_since_ = now;
  const bool impatient = now - take_since_ >= options_.take_patience;
  if (last_steps_since_ == 0) {
    if (scheduler_.ReplayTime() > options_.take_pause && !impatient) return;
    last_steps_since_ = now;
  }
  if (scheduler_.steps_in_flight() > 0 && now - last_steps_since_ < options_.last_steps_patience)
    return;
  take_since_ = last_steps_since_ = 0;
  Apply(rollout_.Take(view, now), view);
}

void Deployment::MoveFromDrained(const ClusterView& view, TimeNs now) {
  if (!rollout_.WantsMove(view) || fault_) {
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
  const uint32_t context = rollout_.move_context();
  if (context == 0) return;  // it is being planned
  const bool idle = scheduler_.n_running() == 0 && scheduler_.steps_in_flight() == 0;
  const bool impatient = now - move_since_ >= options_.drain_patience;
  // Running requests are carried over, unless the new plan has a shorter context. Then those that
  // wait are let in again, and the layers move when nothing happens to run.
  if (idle || (impatient && context >= rollout_.plan().context)) {
    Apply(rollout_.Move(view, now), view);
  } else if (impatient) {
    scheduler_.Hold(false);
  }
}

void Deployment::Apply(PipelineOutcome outcome, TimeNs now) {
  if (!outcome.ignored.empty()) {
    ++ignored_results_;
    return;
  }
  if (!outcome.done.empty() && !proven_) {
    proven_ = true;
    rollout_.OnProven();
    for (const AssignedStage& stage : rollout_.stages()) health_->OnServed(stage.planned.machine);
  }
  for (const FrameDone& frame : outcome.done) {
    for (SequenceUpdate& update :
         scheduler_.CommitFrame(frame.step, frame.frame, frame.tokens, now)) {
      Do(PoolAction::Token{std::move(update)});
    }
    for (const stage::TokenOut& out : frame.tokens) {
      if (out.status.ok() || !scheduler_.Fail(out.seq)) continue;
      Do(PoolAction::Log{true, absl::StrCat("a request ended: ", out.status.message())});
      Do(PoolAction::Fail{out.seq, out.status});
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

void Deployment::Apply(RolloutActions actions, const ClusterView& view) {
  if (!actions.note.empty()) Do(PoolAction::Log{false, std::move(actions.note)});
  if (actions.drain) Do(PoolAction::DrainAnswer{actions.drain->worker, actions.drain->status});
  if (actions.plan) Do(PoolAction::MakePlan{id_, *std::move(actions.plan)});
  if (actions.lost) {
    fault_.reset();
    proven_ = false;
    Do(PoolAction::Log{actions.loss != Loss::kChosen,
                       absl::StrCat("the pipeline stopped: ", actions.lost->message())});
    if (pipeline_.open()) {
      pipeline_.Close();
      Do(PoolAction::ClosePort{id_});
    }
    // A silent worker closes its neighbours' connections too, and they may be heard of first.
    const bool suspicious = actions.loss == Loss::kBroke && suspect_.empty();
    for (const SeqId id : scheduler_.OnPipelineLost(suspicious)) {
      Do(PoolAction::Fail{
          id, Unavailable("the pipeline stopped ", options_.scheduler.max_losses,
                          " times while it worked on this request, the last time because ",
                          actions.lost->message())});
    }
  }
  if (actions.new_epoch) Do(PoolAction::UseEpoch{*actions.new_epoch});
  for (auto& assign : actions.assign) {
    Do(PoolAction::Assign{id_, assign.link, std::move(assign.assignment)});
  }
  for (const auto& release : actions.release)
    Do(PoolAction::Release{id_, release.link, release.plan});
  if (actions.serve) Serve(view);
}

void Deployment::Serve(const ClusterView& view) {
  PipelinePlan plan;
  plan.plan = rollout_.plan_id();
  plan.epoch = rollout_.epoch();
  plan.numerics = options_.rollout.numerics;
  plan.n_vocab = options_.rollout.manifest->shape.n_vocab;
  for (const AssignedStage& stage : rollout_.stages()) {
    plan.stages.push_back({stage.planned.machine, stage.planned.layers});
  }
  const net::WorkerHello& first = view.members.FindByName(plan.stages.front().worker)->hello;
  Do(PoolAction::OpenPort{id_, first.name, first.stage_address, first.node, plan.plan, plan.epoch});

  PipelineShape shape;
  shape.n_stages = static_cast<uint32_t>(plan.stages.size());
  shape.context = rollout_.plan().context;
  const auto& groups = options_.rollout.manifest->shape.groups;
  for (size_t g = 0; g < groups.size(); ++g) {
    shape.groups.push_back({groups[g].window, rollout_.plan().group_blocks[g]});
  }
  shape.row_bytes = stage::Hidden::BytesFor(options_.rollout.numerics.wire, 1,
                                            options_.rollout.manifest->shape.d_model);
  std::vector<sharding::PlannedStage> planned;
  for (const AssignedStage& stage : rollout_.stages()) planned.push_back(stage.planned);
  health_->pace().OnPlan(planned);
  pipeline_.Open(std::move(plan));
  served_once_ = true;
  for (SequenceFailure& failure : scheduler_.OnPipelineReady(shape)) {
    Do(PoolAction::Fail{failure.id, std::move(failure.status)});
  }
  Do(PoolAction::Log{false,
                     absl::StrCat("serving: epoch ", rollout_.epoch().value, ", ", shape.n_stages,
                                  " stages, context ", scheduler_.context())});
}

}  // namespace lanyard::coordinator
