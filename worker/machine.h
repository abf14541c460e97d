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
  // A stage that was assigned.
  struct Duty {
    PlanId plan;
    Epoch epoch;
    std::string layers;  // "layers 3-7", for people
    std::string next_worker;
    std::string next_node;
    NextLinkId next;  // the open link, while the stage runs
    uint64_t fetched_bytes = 0;

    bool Is(PlanId p, Epoch e) const { return plan == p && epoch == e; }
  };
  enum class StageState { kNone, kLoading, kStarting, kRunning, kFailed };

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
  void Handle(MachineEvent::LeaveAsked event, TimeNs now);
  void Handle(MachineEvent::Tick event, TimeNs now);

  bool InSession() const { return session_ != SessionId(); }
  bool Runs() const { return stage_ == StageState::kStarting || stage_ == StageState::kRunning; }
  void Join(TimeNs now);
  void DropSession(const absl::Status& why, TimeNs now);
  void StopStage();
  // The stage is given up, and the coordinator is told why. `unreachable`: the next worker, where
  // the link to it is the reason.
  void FailStage(const absl::Status& why, const std::string& unreachable = "");
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

  StageState stage_ = StageState::kNone;
  Duty duty_;    // of the present assignment; means nothing with kNone
  Epoch epoch_;  // the highest that was assigned in this session

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
