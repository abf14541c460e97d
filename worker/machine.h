// The worker as one state machine, (event, now) -> actions: when it joins and joins again, which
// assignment it obeys, when its stage is ready or has failed, when it stops. It holds no policy
// beyond that, and no I/O, clock or threads: daemon.cc puts sockets and time around it, and
// tests/sim drives it from a seed.
#pragma once

#include <cstdint>
#include <optional>
#include <set>
#include <string>
#include <vector>

#include "base/clock.h"
#include "base/status.h"
#include "worker/machine_action.h"
#include "worker/machine_event.h"

namespace lanyard::worker {

struct MachineOptions {
  std::string name;  // unique in the pool
  std::string join;  // the coordinator's host:port, for texts
};

// Not thread-safe.
class WorkerMachine {
 public:
  explicit WorkerMachine(MachineOptions options) : options_(std::move(options)) {}

  // A Tick is to come at least every 100 ms, after the events that have arrived: the first one
  // starts the worker. Nothing is done after stopped().
  void On(MachineEvent::Any event, TimeNs now);
  std::vector<MachineAction::Any> TakeActions();

  // The worker is at its end: it was told to stop, or refused for good; then `status` has the
  // reason.
  bool stopped() const { return stopped_; }
  const absl::Status& status() const { return status_; }
  // One line that says what this worker does, for the code that supervises the process.
  const std::string& doing() const { return doing_; }

 private:
  enum class StageState { kNone, kLoading, kFetched, kStarting, kRunning, kFailed };
  // A stage that was assigned. With kNone the other members mean nothing.
  struct Duty {
    StageState state = StageState::kNone;
    PlanId plan;
    Epoch epoch;
    bool fetch = false;  // its weights are only fetched
    std::string layers;  // "layers 3-7", for people
    std::string next_worker;
    std::string next_node;
    NextLinkId next;  // the open link, while the stage runs
    uint64_t fetched_bytes = 0;

    bool Of(PlanId p) const { return state != StageState::kNone && plan == p; }
    bool Is(PlanId p, Epoch e) const { return Of(p) && epoch == e; }
    bool Runs() const { return state == StageState::kStarting || state == StageState::kRunning; }
  };

  void Handle(MachineEvent::Welcomed event, TimeNs now);
  void Handle(MachineEvent::Refused event, TimeNs now);
  void Handle(MachineEvent::Assigned event, TimeNs now);
  void Handle(MachineEvent::BadAssignment event, TimeNs now);
  void Handle(MachineEvent::Released event, TimeNs now);
  void Handle(MachineEvent::Revoked event, TimeNs now);
  void Handle(MachineEvent::DiagnoseAsked event, TimeNs now);
  void Handle(MachineEvent::SessionClosed event, TimeNs now);
  void Handle(MachineEvent::ResultsClosed event, TimeNs now);
  void Handle(MachineEvent::LoadProgress event, TimeNs now);
  void Handle(MachineEvent::LoadEnded event, TimeNs now);
  void Handle(MachineEvent::StageStarted event, TimeNs now);
  void Handle(MachineEvent::NextClosed event, TimeNs now);
  void Handle(MachineEvent::StageLost event, TimeNs now);
  void Handle(MachineEvent::DevicesSeen event, TimeNs now);
  void Handle(MachineEvent::CardsLooked event, TimeNs now);
  void Handle(MachineEvent::Measured event, TimeNs now);
  void Handle(MachineEvent::SleepAsked event, TimeNs now);
  void Handle(MachineEvent::Woke event, TimeNs now);
  void Handle(MachineEvent::LeaveAsked event, TimeNs now);
  void Handle(MachineEvent::Tick event, TimeNs now);

  bool InSession() const { return session_ != SessionId(); }
  void Join(TimeNs now);
  void DropSession(const absl::Status& why, TimeNs now);
  // Ends the session and all that it brought.
  void EndSession();
  // Ends what runs, and tells the coordinator of the leaving after every result.
  void SayGoodbye(const std::string& reason);
  // Null: neither duty is of this plan and epoch.
  Duty* Find(PlanId plan, Epoch epoch);
  void StopStage(const Duty& duty);
  // Stops it, takes no stream for it any more, and forgets it.
  void End(Duty* duty);
  // The stage is given up, and the coordinator is told why. `unreachable`: the next worker, where
  // the link to it is the reason.
  void FailStage(Duty* duty, const absl::Status& why, const std::string& unreachable = "");
  void Fail(PlanId plan, Epoch epoch, const absl::Status& why, const std::string& unreachable = "");
  void TellDevices();
  void Send(net::WorkerEvent event) { Do(MachineAction::Send{std::move(event)}); }
  template <typename A>
  void Do(A action) {
    actions_.push_back(std::move(action));
  }

  const MachineOptions options_;
  std::vector<MachineAction::Any> actions_;

  SessionId session_;  // 0: there is none
  uint64_t sessions_ = 0;
  bool welcomed_ = false;
  TimeNs heard_ = 0;  // from the coordinator, or when the session was opened
  int backoff_ms_ = 0;
  bool complained_ = false;  // so that the log has the reason once and not twice a second
  TimeNs connect_at_ = 0;
  TimeNs results_at_ = 0;  // when to open the stream of results again; 0: it is open
  TimeNs beat_at_ = 0;

  Duty duty_;  // that the coordinator believes this worker serves, or is to serve next
  // What was assigned beside it, of a later epoch: it becomes duty_ when the other plan is
  // released.
  Duty beside_;
  Epoch epoch_;  // the highest that was assigned in this session

  TimeNs asleep_until_ = 0;   // 0: nobody said that the machine sleeps
  TimeNs looking_since_ = 0;  // since when the next hello waits for a look; 0: it does not
  std::vector<net::DeviceHello> devices_;
  std::vector<net::DeviceHello> told_;  // the cards as the coordinator was told of them
  std::set<std::string> revoked_;
  uint64_t diagnose_ = 0;  // the request that is being measured
  int64_t diagnose_received_unix_ms_ = 0;

  bool stopped_ = false;
  absl::Status status_;
  std::string doing_ = "connecting";
};

}  // namespace lanyard::worker
