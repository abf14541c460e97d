#include "worker/machine.h"

#include <algorithm>
#include <utility>

namespace lanyard::worker {
namespace {

constexpr int kFirstBackoffMs = 100;
constexpr int kLastBackoffMs = 2000;
constexpr TimeNs kWaitForLook = kSecond;  // before a hello, to have present figures
constexpr TimeNs kHeartbeat = TimeNs{net::kHeartbeatMs} * kMillisecond;
constexpr TimeNs kDead = TimeNs{net::kDeadAfterMs} * kMillisecond;
// One that is awake so long after it was to sleep does not sleep. (This clock stands still while it
// does.)
constexpr TimeNs kAwakeAllTheSame = 20 * kSecond;
// A card's memory is told again when it differs by this much.
constexpr uint64_t kTellBytes = uint64_t{32} << 20;

std::string LayersText(const stage::StageSpec& spec) {
  if (spec.layers.begin >= spec.layers.end) return spec.samples ? "the head" : "the embedding";
  return absl::StrCat("layers ", spec.layers.begin, "-", spec.layers.end - 1);
}

// Says whether a coordinator that knows `told` plans badly.
bool WorthTelling(const std::vector<net::DeviceHello>& told,
                  const std::vector<net::DeviceHello>& now) {
  if (told.size() != now.size()) return true;
  for (size_t i = 0; i < now.size(); ++i) {
    const uint64_t a = told[i].memory_bytes, b = now[i].memory_bytes;
    if (told[i].name != now[i].name || std::max(a, b) - std::min(a, b) >= kTellBytes) return true;
  }
  return false;
}

// Events of the coordinator belong to a session, the others to none.
template <typename E>
SessionId SessionOf(const E& event) {
  if constexpr (requires { event.session; }) {
    return event.session;
  } else {
    return SessionId();
  }
}

}  // namespace

std::vector<MachineAction::Any> WorkerMachine::TakeActions() { return std::exchange(actions_, {}); }

void WorkerMachine::On(MachineEvent::Any event, TimeNs now) {
  if (stopped_) return;
  std::visit(
      [&](auto&& e) {
        const SessionId session = SessionOf(e);
        if (session == SessionId() || session == session_) Handle(std::move(e), now);
      },
      std::move(event));
}

void WorkerMachine::Handle(MachineEvent::Tick event, TimeNs now) {
  if (!InSession()) {
    if (asleep_until_ != 0 && now >= asleep_until_) Handle(MachineEvent::Woke{}, now);
    if (asleep_until_ == 0 && now >= connect_at_) Join(now);
    return;
  }
  heard_ = std::max(heard_, event.heard);
  if (now >= beat_at_) {
    beat_at_ = now + kHeartbeat;
    Do(MachineAction::Beat{});
  }
  if (results_at_ != 0 && now >= results_at_) {
    results_at_ = 0;
    Do(MachineAction::OpenResults{session_});
  }
  if (now - heard_ > kDead) {
    DropSession(absl::DeadlineExceededError(absl::StrCat("nothing heard from the coordinator for ",
                                                         net::kDeadAfterMs, " ms")),
                now);
  }
}

// A hello says what the cards have now; a driver that does not answer delays it only a little.
void WorkerMachine::Join(TimeNs now) {
  if (looking_since_ == 0) {
    looking_since_ = now;
    Do(MachineAction::LookAtCards{});
  } else if (now - looking_since_ >= kWaitForLook) {
    Handle(MachineEvent::CardsLooked{}, now);
  }
}

void WorkerMachine::Handle(MachineEvent::CardsLooked, TimeNs now) {
  if (looking_since_ == 0) return;  // the hello did not wait for it
  looking_since_ = 0;
  session_ = SessionId(++sessions_);
  heard_ = now;
  beat_at_ = now + kHeartbeat;
  told_ = devices_;
  Do(MachineAction::OpenSession{session_, devices_});
}

void WorkerMachine::DropSession(const absl::Status& why, TimeNs now) {
  if (!complained_) {
    Do(MachineAction::Log{LogLevel::kWarning,
                          absl::StrCat("not joined to ", options_.join, ": ", why.message(),
                                       "; trying again until it answers")});
  }
  complained_ = true;
  doing_ = absl::StrCat("not joined to ", options_.join, ": ", why.message());
  EndSession();
  const int wait_ms = std::max(backoff_ms_, kFirstBackoffMs);
  connect_at_ = now + wait_ms * kMillisecond;
  backoff_ms_ = std::min(2 * wait_ms, kLastBackoffMs);
}

void WorkerMachine::EndSession() {
  End(&beside_);
  End(&duty_);
  Do(MachineAction::CancelLoad{});
  epoch_ = Epoch();
  welcomed_ = false;
  Do(MachineAction::CloseResults{});
  results_at_ = 0;
  Do(MachineAction::CloseSession{});
  session_ = SessionId();
}

WorkerMachine::Duty* WorkerMachine::Find(PlanId plan, Epoch epoch) {
  for (Duty* duty : {&duty_, &beside_}) {
    if (duty->Is(plan, epoch)) return duty;
  }
  return nullptr;
}

void WorkerMachine::StopStage(const Duty& duty) {
  if (duty.Runs()) Do(MachineAction::StopStage{duty.epoch});
}

void WorkerMachine::End(Duty* duty) {
  StopStage(*duty);
  if (duty->state != StageState::kNone && !duty->fetch) Do(MachineAction::Forget{duty->epoch});
  *duty = Duty();
}

void WorkerMachine::FailStage(Duty* duty, const absl::Status& why, const std::string& unreachable) {
  StopStage(*duty);
  duty->state = StageState::kFailed;
  Fail(duty->plan, duty->epoch, why, unreachable);
}

void WorkerMachine::Fail(PlanId plan, Epoch epoch, const absl::Status& why,
                         const std::string& unreachable) {
  Do(MachineAction::Log{LogLevel::kError, absl::StrCat("plan ", plan.value, " epoch ", epoch.value,
                                                       ": ", why.message())});
  const net::LoadCause cause =
      unreachable.empty() ? net::CauseOf(why) : net::LoadCause::kUnreachable;
  Send(net::StageFailed{plan, epoch, why, unreachable, cause});
}

void WorkerMachine::Handle(MachineEvent::Welcomed event, TimeNs /*now*/) {
  if (std::exchange(welcomed_, true)) return;
  Do(MachineAction::Log{LogLevel::kInfo,
                        absl::StrCat("joined ", options_.join, " as '", options_.name, "'")});
  complained_ = false;
  doing_ = absl::StrCat("joined ", options_.join, ", no layers yet");
  backoff_ms_ = 0;
  Do(MachineAction::OpenResults{event.session});
}

void WorkerMachine::Handle(MachineEvent::Refused event, TimeNs now) {
  if (!event.final) {
    DropSession(Annotate(event.why, "refused by the coordinator"), now);
    return;
  }
  Do(MachineAction::Log{LogLevel::kError, absl::StrCat("refused by the coordinator at ",
                                                       options_.join, ": ", event.why.message())});
  End(&beside_);
  End(&duty_);
  status_ = event.why;
  stopped_ = true;
}

void WorkerMachine::Handle(MachineEvent::SessionClosed event, TimeNs now) {
  DropSession(event.why, now);
}

void WorkerMachine::Handle(MachineEvent::Assigned event, TimeNs /*now*/) {
  net::Assignment& assignment = event.assignment;
  const stage::StageSpec& spec = assignment.spec;
  // A repeated message: it was obeyed the first time.
  if (spec.epoch == epoch_ || Find(spec.plan, spec.epoch) != nullptr) return;
  if (spec.epoch < epoch_) {
    Fail(spec.plan, spec.epoch,
         FailedPrecondition("worker '", options_.name, "' is at epoch ", epoch_.value, " already"));
    return;
  }
  epoch_ = spec.epoch;
  const bool fetch = assignment.mode == net::AssignMode::kFetch;
  End(&beside_);
  // There is nothing beside which it could stand but a stage that runs.
  if (assignment.mode == net::AssignMode::kInstead || !duty_.Runs()) End(&duty_);
  const bool beside = fetch || duty_.Runs();
  Duty& duty = beside ? beside_ : duty_;
  duty.state = StageState::kLoading;
  duty.plan = spec.plan;
  duty.epoch = spec.epoch;
  duty.fetch = fetch;
  duty.layers = LayersText(spec);
  duty.next_worker = assignment.next_worker;
  duty.next_node = assignment.next_node;
  if (!beside) doing_ = absl::StrCat("loading ", duty.layers);
  if (!fetch) Do(MachineAction::Expect{spec.plan, spec.epoch, spec.index, assignment.from_node});
  const Epoch keep = beside ? duty_.epoch : Epoch();
  Do(MachineAction::Load{std::move(assignment), keep});
}

void WorkerMachine::Handle(MachineEvent::BadAssignment event, TimeNs /*now*/) {
  Fail(event.plan, event.epoch, event.why);
}

void WorkerMachine::Handle(MachineEvent::Released event, TimeNs /*now*/) {
  if (beside_.Of(event.plan)) {
    End(&beside_);
  } else if (duty_.Of(event.plan)) {
    End(&duty_);
    // The plan beside it is taken only when all of it is ready.
    if (beside_.Runs() || beside_.state == StageState::kFailed) {
      duty_ = std::exchange(beside_, Duty());
      doing_ = absl::StrCat("runs ", duty_.layers, " for ", options_.join);
    } else {
      End(&beside_);
      doing_ = absl::StrCat("joined ", options_.join, ", no layers now");
    }
  } else {
    return;
  }
  Do(MachineAction::Unload{duty_.epoch});
}

void WorkerMachine::Handle(MachineEvent::Revoked event, TimeNs /*now*/) {
  std::vector<std::string> added;
  for (const std::string& node : event.nodes) {
    if (!revoked_.contains(node)) added.push_back(node);
  }
  revoked_ = {event.nodes.begin(), event.nodes.end()};
  for (const std::string& node : added) {
    Do(MachineAction::Log{
        LogLevel::kWarning,
        absl::StrCat("node ", node,
                     " was revoked: nothing is taken from it or sent to it any more")});
  }
  Do(MachineAction::Ban{std::move(event.nodes), added});
  for (Duty* duty : {&duty_, &beside_}) {
    if (duty->Runs() && std::find(added.begin(), added.end(), duty->next_node) != added.end())
      FailStage(duty, Unavailable("worker '", duty->next_worker, "' was revoked"));
  }
}

void WorkerMachine::Handle(MachineEvent::DiagnoseAsked event, TimeNs /*now*/) {
  diagnose_ = event.request.id;
  diagnose_received_unix_ms_ = event.received_unix_ms;
  Do(MachineAction::Probe{std::move(event.request)});
}

void WorkerMachine::Handle(MachineEvent::Measured event, TimeNs /*now*/) {
  if (event.diagnosis.id != diagnose_) return;  // a later request is being measured
  event.diagnosis.received_unix_ms = diagnose_received_unix_ms_;
  if (InSession()) Send(std::move(event.diagnosis));
}

// Results may be lost: the requests that wait for them must end, and the coordinator starts a new
// epoch.
void WorkerMachine::Handle(MachineEvent::ResultsClosed event, TimeNs now) {
  Do(MachineAction::CloseResults{});
  results_at_ = now + kFirstBackoffMs * kMillisecond;
  for (Duty* duty : {&duty_, &beside_}) {
    if (!duty->Runs()) continue;
    FailStage(duty, Unavailable("worker '", options_.name,
                                "' lost its result stream: ", event.why.message()));
  }
}

void WorkerMachine::Handle(MachineEvent::LoadProgress event, TimeNs /*now*/) {
  for (const Duty* duty : {&duty_, &beside_}) {
    if (duty->state == StageState::kLoading && duty->plan == event.plan)
      Send(net::LoadProgress{event.plan, event.done_bytes, event.total_bytes});
  }
}

void WorkerMachine::Handle(MachineEvent::LoadEnded event, TimeNs /*now*/) {
  Duty* const duty = Find(event.plan, event.epoch);
  if (duty == nullptr || duty->state != StageState::kLoading) return;
  if (event.status.ok() && event.next != NextLinkId() && !event.next_open) {
    event.next_unreachable = true;
    event.status = Unavailable("worker '", options_.name, "' lost its link to worker '",
                               duty->next_worker, "' at once");
  }
  if (!event.status.ok()) {
    FailStage(duty, event.status, event.next_unreachable ? duty->next_worker : "");
    return;
  }
  duty->next = event.next;
  duty->fetched_bytes = event.fetched_bytes;
  if (duty->fetch) {
    duty->state = StageState::kFetched;
    Send(net::StageReady{event.plan, event.epoch, 0, 0, 0, duty->fetched_bytes});
    return;
  }
  duty->state = StageState::kStarting;
  Do(MachineAction::StartStage{event.plan, event.epoch});
}

void WorkerMachine::Handle(MachineEvent::StageStarted event, TimeNs /*now*/) {
  Duty* const duty = Find(event.plan, event.epoch);
  if (duty == nullptr || duty->state != StageState::kStarting) return;
  if (!event.status.ok()) {
    FailStage(duty, event.status);
    return;
  }
  duty->state = StageState::kRunning;
  Send(net::StageReady{event.plan, event.epoch, event.weights_bytes, event.kv_bytes,
                       event.buffer_bytes, duty->fetched_bytes});
  if (duty == &duty_) doing_ = absl::StrCat("runs ", duty_.layers, " for ", options_.join);
}

void WorkerMachine::Handle(MachineEvent::NextClosed event, TimeNs /*now*/) {
  for (Duty* duty : {&duty_, &beside_}) {
    // Of an earlier stage, or of an attempt that failed.
    if (!duty->Runs() || duty->next != event.next) continue;
    FailStage(duty,
              Unavailable("worker '", options_.name, "' lost its link to worker '",
                          duty->next_worker, "': ", event.why.message()),
              duty->next_worker);
  }
}

// The coordinator plans by what a worker said when it joined, so it joins again with what it has
// now.
void WorkerMachine::Handle(MachineEvent::StageLost event, TimeNs now) {
  const Duty* const duty = Find(event.plan, event.epoch);
  if (duty == nullptr || !duty->Runs()) return;
  for (Duty* other : {&beside_, &duty_}) {
    StopStage(*other);
    if (other->state != StageState::kNone) other->state = StageState::kFailed;
  }
  // What it still computed arrives before the news that ends its requests.
  Do(MachineAction::FinishResults{});
  Fail(event.plan, event.epoch, Annotate(event.why, absl::StrCat("worker '", options_.name, "'")));
  DropSession(event.why, now);
  // Frees what it still holds of the cards, before they are looked at again.
  Do(MachineAction::Unload{});
}

void WorkerMachine::Handle(MachineEvent::DevicesSeen event, TimeNs /*now*/) {
  devices_ = std::move(event.devices);
  if (InSession()) TellDevices();
}

void WorkerMachine::TellDevices() {
  if (!WorthTelling(told_, devices_)) return;
  told_ = devices_;
  Send(net::DevicesChanged{devices_});
}

void WorkerMachine::Handle(MachineEvent::SleepAsked, TimeNs now) {
  asleep_until_ = now + kAwakeAllTheSame;
  looking_since_ = 0;
  doing_ = "the machine sleeps";
  if (!InSession()) return;
  SayGoodbye("its machine goes to sleep");
  EndSession();
}

void WorkerMachine::Handle(MachineEvent::Woke, TimeNs now) {
  if (asleep_until_ == 0) return;
  asleep_until_ = 0;
  Do(MachineAction::Log{LogLevel::kInfo, "the machine is awake"});
  doing_ = absl::StrCat("not joined to ", options_.join, ": the machine has just woken up");
  connect_at_ = now;
  backoff_ms_ = 0;
}

void WorkerMachine::Handle(MachineEvent::LeaveAsked event, TimeNs /*now*/) {
  stopped_ = true;
  if (!event.reason.empty() && InSession()) return SayGoodbye(event.reason);
  End(&beside_);
  End(&duty_);
}

void WorkerMachine::SayGoodbye(const std::string& reason) {
  End(&beside_);
  End(&duty_);
  Do(MachineAction::Log{LogLevel::kInfo, absl::StrCat("leaving: ", reason)});
  // The coordinator has read every result before it is told of the leaving.
  Do(MachineAction::FinishResults{});
  Do(MachineAction::SayLeaving{reason});
}

}  // namespace lanyard::worker
