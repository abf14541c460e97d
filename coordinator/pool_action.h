// What the pool's state machines ask of the world around them: the runner (pool_runner.h) or the
// simulator carries it out.
#pragma once

#include <string>
#include <variant>

#include "base/ids.h"
#include "base/status.h"
#include "coordinator/cluster/rollout.h"
#include "coordinator/serve/scheduler.h"
#include "net/control.h"
#include "stage/types.h"

namespace lanyard::coordinator {

// A model that is served: its rollout, its queue and its pipeline.
using DeploymentId = StrongId<struct DeploymentTag>;

struct PoolAction {
  struct Welcome {
    net::LinkId link;
  };
  struct Refuse {
    net::LinkId link;
    absl::Status why;
  };
  struct CloseLink {
    net::LinkId link;
  };
  // The epoch must be made durable: no later coordinator may use it again.
  struct UseEpoch {
    Epoch epoch;
  };
  // The plan is to be made on a thread of its own; its answer goes to PoolMachine::OnPlanned.
  struct MakePlan {
    DeploymentId deployment;
    PlanJob job;
  };
  // The answer to PoolMachine::Drain.
  struct DrainAnswer {
    std::string worker;
    absl::Status status;
  };
  struct Assign {
    DeploymentId deployment;
    net::LinkId link;
    net::Assignment assignment;
  };
  struct Release {
    DeploymentId deployment;
    net::LinkId link;
    PlanId plan;
  };
  // Opens the stream to the first stage.
  struct OpenPort {
    DeploymentId deployment;
    std::string worker;
    std::string address;
    std::string node;  // the node whose certificate is at the other end; empty: plaintext
    PlanId plan;
    Epoch epoch;
  };
  struct ClosePort {
    DeploymentId deployment;
  };
  struct Send {
    DeploymentId deployment;
    stage::StepFrame frame;
  };
  struct Token {
    SequenceUpdate update;
  };
  struct Fail {
    SeqId id;
    absl::Status status;
  };
  struct Log {
    bool warning;
    std::string text;
  };
  using Any = std::variant<Welcome, Refuse, CloseLink, UseEpoch, MakePlan, DrainAnswer, Assign,
                           Release, OpenPort, ClosePort, Send, Token, Fail, Log>;
};

}  // namespace lanyard::coordinator
