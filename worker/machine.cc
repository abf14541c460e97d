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
    if (now >= connect_at_) Join(now);
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
  StopStage();
  Do(MachineAction::ExpectNothing{});
  Do(MachineAction::CancelLoad{});
  stage_ = StageState::kNone;
  epoch_ = Epoch();
  welcomed_ = false;
  Do(MachineAction::CloseResults{});
  results_at_ = 0;
  Do(MachineAction::CloseSession{});
  session_ = SessionId();
  const int wait_ms = std::max(backoff_ms_, kFirstBackoffMs);
  connect_at_ = now + wait_ms * kMillisecond;
  backoff_ms_ = std::min(2 * wait_ms, kLastBackoffMs);
}

void WorkerMachine::StopStage() {
  if (Runs()) Do(MachineAction::StopStage{});
}

void WorkerMachine::FailStage(const absl::Status& why, const std::string& unreachable) {
  StopStage();
  stage_ = StageState::kFailed;
  Fail(duty_.plan, duty_.epoch, why, unreachable);
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
  StopStage();
  status_ = event.why;
  stopped_ = true;
}

void WorkerMachine::Handle(MachineEvent::SessionClosed event, TimeNs now) {
  DropSession(event.why, now);
}

void WorkerMachine::Handle(MachineEvent::Assigned event, TimeNs /*now*/) {
  net::Assignment& assignment = event.assignment;
  const stage::StageSpec& spec = assignment.spec;
  if (spec.epoch == epoch_) return;  // a repeated message: it was obeyed the first time
  if (spec.epoch < epoch_) {
    Fail(spec.plan, spec.epoch,
         FailedPrecondition("worker '", options_.name, "' is at epoch ", epoch_.value, " already"));
    return;
  }
  StopStage();
  epoch_ = spec.epoch;
  stage_ = StageState::kLoading;
  duty_ = Duty();
  duty_.plan = spec.plan;
  duty_.epoch = spec.epoch;
  duty_.layers = LayersText(spec);
  duty_.next_worker = assignment.next_worker;
  duty_.next_node = assignment.next_node;
  doing_ = absl::StrCat("loading ", duty_.layers);
  Do(MachineAction::Expect{spec.plan, spec.epoch, spec.index, assignment.from_node});
  Do(MachineAction::Load{std::move(assignment)});
}

void WorkerMachine::Handle(MachineEvent::BadAssignment event, TimeNs /*now*/) {
  Fail(event.plan, event.epoch, event.why);
}

void WorkerMachine::Handle(MachineEvent::Released event, TimeNs /*now*/) {
  if (stage_ == StageState::kNone || duty_.plan != event.plan) return;
  StopStage();
  stage_ = StageState::kNone;
  doing_ = absl::StrCat("joined ", options_.join, ", no layers now");
  Do(MachineAction::ExpectNothing{});
  Do(MachineAction::Unload{});
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
  if (Runs() && std::find(added.begin(), added.end(), duty_.next_node) != added.end()) {
    FailStage(Unavailable("worker '", duty_.next_worker, "' was revoked"));
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
  if (!Runs()) return;
  FailStage(
      Unavailable("worker '", options_.name, "' lost its result stream: ", event.why.message()));
}

void WorkerMachine::Handle(MachineEvent::LoadProgress event, TimeNs /*now*/) {
  if (stage_ != StageState::kLoading || duty_.plan != event.plan) return;
  Send(net::LoadProgress{event.plan, event.done_bytes, event.total_bytes});
}

void WorkerMachine::Handle(MachineEvent::LoadEnded event, TimeNs /*now*/) {
  if (stage_ != StageState::kLoading || !duty_.Is(event.plan, event.epoch)) return;
  if (event.status.ok() && event.next != NextLinkId() && !event.next_open) {
    event.next_unreachable = true;
    event.status = Unavailable("worker '", options_.name, "' lost its link to worker '",
                               duty_.next_worker, "' at once");
  }
  if (!event.status.ok()) {
    FailStage(event.status, event.next_unreachable ? duty_.next_worker : "");
    return;
  }
  stage_ = StageState::kStarting;
  duty_.next = event.next;
  duty_.fetched_bytes = event.fetched_bytes;
  Do(MachineAction::StartStage{event.plan, event.epoch});
}

void WorkerMachine::Handle(MachineEvent::StageStarted event, TimeNs /*now*/) {
  if (stage_ != StageState::kStarting || !duty_.Is(event.plan, event.epoch)) return;
  if (!event.status.ok()) {
    FailStage(event.status);
    return;
  }
  stage_ = StageState::kRunning;
  Send(net::StageReady{event.plan, event.epoch, event.weights_bytes, event.kv_bytes,
                       event.buffer_bytes, duty_.fetched_bytes});
  doing_ = absl::StrCat("runs ", duty_.layers, " for ", options_.join);
}

void WorkerMachine::Handle(MachineEvent::NextClosed event, TimeNs /*now*/) {
  // Of an earlier stage, or of an attempt that failed.
  if (!Runs() || duty_.next != event.next) return;
  FailStage(Unavailable("worker '", options_.name, "' lost its link to worker '", duty_.next_worker,
                        "': ", event.why.message()),
            duty_.next_worker);
}

// The coordinator plans by what a worker said when it joined, so it joins again with what it has
// now.
void WorkerMachine::Handle(MachineEvent::StageLost event, TimeNs now) {
  if (!Runs() || !duty_.Is(event.plan, event.epoch)) return;
  StopStage();
  stage_ = StageState::kFailed;
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

void WorkerMachine::Handle(MachineEvent::LeaveAsked event, TimeNs /*now*/) {
  StopStage();
  stage_ = StageState::kNone;
  stopped_ = true;
  if (event.reason.empty() || !InSession()) return;
  Do(MachineAction::Log{LogLevel::kInfo, absl::StrCat("leaving: ", event.reason)});
  // The coordinator has read every result before it is told of the leaving.
  Do(MachineAction::FinishResults{});
  Do(MachineAction::SayLeaving{event.reason});
}

}  // namespace lanyard::worker
