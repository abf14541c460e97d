// The pool as one state machine: membership, placement, scheduler and pipeline behind a single
// (event, now) -> actions. It has no I/O, clock or threads: pool_runner.h puts sockets and time
// around it, and tests/sim drives it from a seed.
#pragma once

#include <map>
#include <optional>
#include <string>
#include <variant>
#include <vector>

#include "base/clock.h"
#include "coordinator/cluster/membership.h"
#include "coordinator/cluster/placement.h"
#include "coordinator/serve/generator.h"
#include "coordinator/serve/pipeline.h"
#include "coordinator/serve/scheduler.h"
#include "net/control.h"

namespace lanyard::coordinator {

struct PoolOptions {
  SchedulerOptions scheduler;
  PipelineOptions pipeline;
  MembershipOptions membership;
  PlacementOptions placement;  // its manifest is the model of the pool
  // A request that waits while no plan serves gives up after this long.
  TimeNs queue_timeout = 30 * kSecond;
  // After a link or a stage failed, the pool waits this long for news of which worker was lost, so
  // that the error names the right one.
  TimeNs fault_patience = kSecond / 4;
  // After this long without a request the pool counts as quiet: a serving plan may be given up for
  // a better one (Placement::Poll).
  TimeNs quiet_after = 3 * kSecond;
  // When a worker is drained, running requests have this long to end where they are, while new ones
  // wait. Those that still run then are carried over.
  TimeNs drain_patience = 10 * kSecond;
};

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
  struct UseEpoch {
    Epoch epoch;
  };  // the epoch must be made durable: no later coordinator may use it again
  struct Assign {
    net::LinkId link;
    net::Assignment assignment;
  };
  struct Release {
    net::LinkId link;
    PlanId plan;
  };
  struct OpenPort {
    std::string worker;
    std::string address;
    std::string node;  // the node whose certificate is at the other end; empty: plaintext
    PlanId plan;
    Epoch epoch;
  };
  struct ClosePort {};
  struct Send {
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
  using Any = std::variant<Welcome, Refuse, CloseLink, UseEpoch, Assign, Release, OpenPort,
                           ClosePort, Send, Token, Fail, Log>;
};

// Not thread-safe.
class PoolMachine {
 public:
  explicit PoolMachine(PoolOptions options);

  void OnWorkerEvent(net::LinkId link, const net::WorkerEvent& event, TimeNs now);
  // PermissionDenied as `why` means that the worker was thrown out; then the pool does not wait for
  // it.
  void OnWorkerGone(net::LinkId link, const absl::Status& why, TimeNs now);
  void OnResult(stage::StepResult result, TimeNs now);
  // The stream to the first stage ended, or did not take a frame.
  void OnPortClosed(Epoch epoch, const absl::Status& why, TimeNs now);
  // See Placement::Drain and Undrain; a log line says what happens.
  absl::Status Drain(const std::string& worker);
  void Undrain(const std::string& worker, TimeNs now);
  // Unavailable while no plan serves (unless a drained worker's layers are moving); otherwise as
  // Scheduler::Submit.
  absl::Status Submit(SequenceSpec spec, TimeNs now);
  void Cancel(SeqId id) { scheduler_.Cancel(id); }
  // To be called at least every 100 ms.
  void OnTick(TimeNs now);
  // Sends the steps that may run now. To be called after every event, once its actions were carried
  // out.
  void Pump(TimeNs now);

  std::vector<PoolAction::Any> TakeActions();

  bool serving() const { return placement_.state() == PlacementState::kServing; }
  bool admits() const { return serving() || placement_.moving(); }
  // Tokens of one sequence in the plan that serves, or that will serve when the layers have moved.
  uint32_t context() const { return serving() ? scheduler_.context() : placement_.plan().context; }
  absl::Status NotServing() const;  // Unavailable, with the reason
  const Scheduler& scheduler() const { return scheduler_; }
  const Pipeline& pipeline() const { return pipeline_; }
  const Placement& placement() const { return placement_; }
  const Membership& membership() const { return membership_; }
  uint64_t ignored_results() const { return ignored_results_; }
  // Fills in all but what only the runner knows (model id, digest, request ids).
  PoolStatus Status(TimeNs now) const;

 private:
  struct LostMember {
    Member member;
    TimeNs since = 0;
  };

  void OnHello(net::LinkId link, const net::WorkerHello& hello, TimeNs now);
  void OnStageFailed(net::LinkId link, const net::StageFailed& failed, TimeNs now);
  void Gone(const Member& member, std::string_view why, TimeNs now, bool may_return = true);
  void Apply(PlacementActions actions, TimeNs now);
  void Apply(PipelineOutcome outcome, TimeNs now);
  void MoveFromDrained(TimeNs now);
  void Serve();
  void Fault(absl::Status why, TimeNs now);
  void FillNode(const Member& member, TimeNs now, NodeStatus* node) const;
  template <typename A>
  void Do(A action) {
    actions_.push_back(std::move(action));
  }

  const PoolOptions options_;
  Membership membership_;
  Placement placement_;
  Scheduler scheduler_;
  Pipeline pipeline_;
  std::optional<absl::Status> fault_;  // a fault that was seen and is not yet acted on
  TimeNs fault_at_ = 0;
  TimeNs move_since_ = 0;  // since when the pool waits for running requests, before layers move
  TimeNs busy_at_ = 0;     // when the pool last had a request
  std::map<std::string, LostMember> lost_;
  uint64_t ignored_results_ = 0;
  std::vector<PoolAction::Any> actions_;
};

}  // namespace lanyard::coordinator
