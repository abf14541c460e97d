// What a worker's state machine (machine.h) is told of the world: by the coordinator, by the loader
// and the stage of this machine, and by its owner. The runner (daemon.cc) or the simulator tells
// it.
#pragma once

#include <cstdint>
#include <string>
#include <variant>
#include <vector>

#include "base/clock.h"
#include "base/ids.h"
#include "base/status.h"
#include "net/control.h"

namespace lanyard::worker {

// Names one attempt to join the coordinator, and the connection that came of it. A process never
// uses an id twice; 0 is none.
using SessionId = StrongId<struct SessionTag>;
// Names one attempt to open the stream to the next stage. A process never uses an id twice; 0 is
// none.
using NextLinkId = StrongId<struct NextLinkTag>;

struct MachineEvent {
  // Those with a session come from the coordinator; they are ignored unless the session is the
  // present one.
  struct Welcomed {
    SessionId session;
  };
  struct Refused {
    SessionId session;
    absl::Status why;
    bool final = false;  // trying again will not help
  };
  struct Assigned {
    SessionId session;
    net::Assignment assignment;
  };
  // An assignment came that could not be converted or validated.
  struct BadAssignment {
    SessionId session;
    PlanId plan;
    Epoch epoch;
    absl::Status why;
  };
  struct Released {
    SessionId session;
    PlanId plan;
  };
  // The whole list of the nodes that were thrown out of the cluster.
  struct Revoked {
    SessionId session;
    std::vector<std::string> nodes;
  };
  struct DiagnoseAsked {
    SessionId session;
    net::DiagnoseRequest request;
    int64_t received_unix_ms = 0;
  };
  // The session ended, or could not be opened.
  struct SessionClosed {
    SessionId session;
    absl::Status why;
  };
  // The stream of results ended, or could not be opened: some may be lost.
  struct ResultsClosed {
    SessionId session;
    absl::Status why;
  };

  struct LoadProgress {
    PlanId plan;
    uint64_t done_bytes = 0;
    uint64_t total_bytes = 0;
  };
  // The answer to MachineAction::Load, unless that load was replaced or cancelled.
  struct LoadEnded {
    PlanId plan;
    Epoch epoch;
    absl::Status status;
    bool next_unreachable = false;  // `status` is about the link to the next worker
    NextLinkId next;                // 0: it is the last stage
    bool next_open = false;         // the link still stands
    uint64_t fetched_bytes = 0;
  };
  // The answer to MachineAction::StartStage.
  struct StageStarted {
    PlanId plan;
    Epoch epoch;
    absl::Status status;
    uint64_t weights_bytes = 0;
    uint64_t kv_bytes = 0;
    uint64_t buffer_bytes = 0;
  };
  struct NextClosed {
    NextLinkId next;
    absl::Status why;
  };
  // The stage can no longer run: a device was lost, or its memory was taken back.
  struct StageLost {
    PlanId plan;
    Epoch epoch;
    absl::Status why;
  };

  // The cards as they are now.
  struct DevicesSeen {
    std::vector<net::DeviceHello> devices;
  };
  // The answer to MachineAction::LookAtCards; DevicesSeen came before it.
  struct CardsLooked {};
  // The answer to MachineAction::Probe. All is filled in but when the request came.
  struct Measured {
    net::Diagnosis diagnosis;
  };
  // The machine is about to sleep, and has woken up.
  struct SleepAsked {};
  struct Woke {};
  // The owner wants this worker to stop. With a reason the coordinator is told.
  struct LeaveAsked {
    std::string reason;
  };
  // Time passes. `heard`: when the coordinator's last message came; 0: none came in this session.
  struct Tick {
    TimeNs heard = 0;
  };

  using Any = std::variant<Welcomed, Refused, Assigned, BadAssignment, Released, Revoked,
                           DiagnoseAsked, SessionClosed, ResultsClosed, LoadProgress, LoadEnded,
                           StageStarted, NextClosed, StageLost, DevicesSeen, CardsLooked, Measured,
                           SleepAsked, Woke, LeaveAsked, Tick>;
};

}  // namespace lanyard::worker
