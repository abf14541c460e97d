// What a worker's state machine (machine.h) asks of the world around it: the runner (daemon.cc) or
// the simulator carries it out, in order.
#pragma once

#include <cstdint>
#include <string>
#include <variant>
#include <vector>

#include "base/ids.h"
#include "base/log.h"
#include "net/control.h"
#include "worker/machine_event.h"

namespace lanyard::worker {

struct MachineAction {
  // Connects to the coordinator with a hello that names these cards.
  struct OpenSession {
    SessionId session;
    std::vector<net::DeviceHello> devices;
  };
  struct CloseSession {};
  // Sends the event in the open session.
  struct Send {
    net::WorkerEvent event;
  };
  // Sends a heartbeat with the figures of now.
  struct Beat {};
  // Says Leaving, and waits a little for the stream's orderly end.
  struct SayLeaving {
    std::string reason;
  };
  // Opens the stream of results; a stream that is open already is closed.
  struct OpenResults {
    SessionId session;
  };
  // What is computed from now on goes nowhere.
  struct CloseResults {};
  // The same, but the coordinator has read what was computed before the next action is carried out
  // (or a short time is over).
  struct FinishResults {};

  // From now on streams of frames for this stage are accepted too, also while it loads. With a
  // `from_node`, only that node's are.
  struct Expect {
    PlanId plan;
    Epoch epoch;
    uint32_t stage = 0;
    std::string from_node;
  };
  // No stream for the stage of this epoch is accepted any more.
  struct Forget {
    Epoch epoch;
  };

  // Replaces the load under way. LoadEnded is the answer. The stage of the epoch `keep` stays
  // loaded beside it; 0: what is in memory is freed first, but for what the new stage needs of it.
  struct Load {
    net::Assignment assignment;
    Epoch keep;
  };
  // Stops the load under way; what is loaded is kept.
  struct CancelLoad {};
  // Also frees what is loaded, but for the stage of the epoch `keep`; 0: all of it.
  struct Unload {
    Epoch keep;
  };
  // Runs frames on what LoadEnded brought. StageStarted is the answer.
  struct StartStage {
    PlanId plan;
    Epoch epoch;
  };
  // No frame of the epoch runs after it; what was computed is still sent. The loaded stage stays
  // with the loader.
  struct StopStage {
    Epoch epoch;
  };

  // Nothing is taken from `all` or sent to them any more; the connections of `added`, which are new
  // on the list, are cut.
  struct Ban {
    std::vector<std::string> all;
    std::vector<std::string> added;
  };
  // Measures the links to peers. Measured is the answer, unless a later request came.
  struct Probe {
    net::DiagnoseRequest request;
  };
  // Asks the drivers what the cards have now. CardsLooked is the answer.
  struct LookAtCards {};
  struct Log {
    LogLevel level = LogLevel::kInfo;
    std::string text;
  };

  using Any = std::variant<OpenSession, CloseSession, Send, Beat, SayLeaving, OpenResults,
                           CloseResults, FinishResults, Expect, Forget, Load, CancelLoad, Unload,
                           StartStage, StopStage, Ban, Probe, LookAtCards, Log>;
};

}  // namespace lanyard::worker
