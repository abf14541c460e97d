// One model in the pool: its rollout over the machines, its queue and its pipeline, as one state
// machine without I/O, clock or threads. What belongs to the machines stands above it (pool.h).
#pragma once

#include <optional>
#include <set>
#include <string>
#include <vector>

#include "base/clock.h"
#include "coordinator/cluster/health.h"
#include "coordinator/cluster/rollout.h"
#include "coordinator/pool_action.h"
#include "coordinator/serve/pipeline.h"
#include "coordinator/serve/scheduler.h"

namespace lanyard::coordinator {

struct DeploymentOptions {
  SchedulerOptions scheduler;
  PipelineOptions pipeline;
  RolloutOptions rollout;  // its manifest is the model
  // A request that waits while nothing serves gives up after this long.
  TimeNs queue_timeout = 30 * kSecond;
  // After a link or a stage failed, the deployment waits this long for news of which worker was
  // lost, so that the error names the right one.
  TimeNs fault_patience = kSecond / 4;
  // After this long without a request it counts as quiet: a serving plan may be given up for a
  // better one (Rollout::Poll).
  TimeNs quiet_after = 3 * kSecond;
  // When a worker is drained, running requests have this long to end where they are, while new ones
  // wait. Those that still run then are carried over.
  TimeNs drain_patience = 10 * kSecond;
  // A plan that was loaded beside the one that serves is taken when reading the running sequences
  // again takes no longer than this, by the measured time of a row; but that is waited for only so
  // long.
  TimeNs take_pause = kSecond;
  TimeNs take_patience = 30 * kSecond;
  // Steps that are not home this long after the last one was sent are computed again by that plan.
  TimeNs last_steps_patience = kSecond / 2;
};

// Not thread-safe.
class Deployment {
 public:
  // `health` and `actions` belong to the pool and must outlive this.
  Deployment(DeploymentId id, DeploymentOptions options, MachineHealth* health,
             std::vector<PoolAction::Any>* actions);

  void OnJoined(const std::string& worker, TimeNs now) { rollout_.OnJoined(worker, now); }
  void OnGone(const Member& member, Departure how, std::string_view why, const ClusterView& view,
              TimeNs now);
  void OnProgress(net::LinkId link, const net::LoadProgress& progress, TimeNs now) {
    rollout_.OnProgress(link, progress, now);
  }
  void OnReady(net::LinkId link, const net::StageReady& ready, const ClusterView& view, TimeNs now);
  void OnStageFailed(const Member& member, const net::StageFailed& failed, const ClusterView& view,
                     TimeNs now);
  void OnPlanned(uint64_t job, const absl::StatusOr<sharding::Plan>& made, const ClusterView& view,
                 TimeNs now);
  void OnResult(stage::StepResult result, const ClusterView& view, TimeNs now);
  void OnPortClosed(Epoch epoch, const absl::Status& why, TimeNs now);
  void OnTick(const ClusterView& view, TimeNs now);
  // To be called after every event.
  void Poll(const ClusterView& view, TimeNs now);
  // The workers that are silent, and may be alive. Nothing is sent while one of them has a stage.
  void SetSuspects(const std::set<std::string>& suspects);

  // Unavailable while no plan serves and none is on its way; otherwise as Scheduler::Submit.
  absl::Status Submit(SequenceSpec spec, TimeNs now);
  void Cancel(SeqId id) { scheduler_.Cancel(id); }
  // Sends the steps that may run now.
  void Pump(TimeNs now);
  void AskDrain(const std::string& worker) { rollout_.AskDrain(worker); }

  bool serving() const { return rollout_.state() == RolloutState::kServing; }
  // New requests are taken: something serves, or it served before and a plan is on its way.
  bool admits() const;
  // Tokens of one sequence in the plan that serves, or that served last.
  uint32_t context() const;
  // Unavailable, with the reason and, where it is known, with when to ask again.
  absl::Status NotServing(TimeNs now) const;
  const Scheduler& scheduler() const { return scheduler_; }
  const Pipeline& pipeline() const { return pipeline_; }
  const Rollout& rollout() const { return rollout_; }
  const DeploymentOptions& options() const { return options_; }
  uint64_t ignored_results() const { return ignored_results_; }

 private:
  void Apply(RolloutActions actions, const ClusterView& view);
  void Apply(PipelineOutcome outcome, TimeNs now);
  void MoveFromDrained(const ClusterView& view, TimeNs now);
  void TakeBeside(const ClusterView& view, TimeNs now);
  void EndOverdue(TimeNs now);
  void Serve(const ClusterView& view);
  void Fault(absl::Status why, TimeNs now);
  template <typename A>
  void Do(A action) {
    actions_->push_back(std::move(action));
  }

  const DeploymentId id_;
  const DeploymentOptions options_;
  MachineHealth* const health_;
  std::vector<PoolAction::Any>* const actions_;
  Rollout rollout_;
  Scheduler scheduler_;
  Pipeline pipeline_;
  std::optional<absl::Status> fault_;  // a fault that was seen and is not yet acted on
  TimeNs fault_at_ = 0;
  TimeNs move_since_ = 0;  // since when it waits for running requests, before layers move
  TimeNs take_since_ = 0;  // since when a plan is ready beside the one that serves; 0: none is
  // Since when no step is sent, before that plan is taken; 0: they are sent.
  TimeNs last_steps_since_ = 0;
  TimeNs busy_at_ = 0;   // when it last had a request
  bool proven_ = false;  // a result came through the plan that serves
  bool served_once_ = false;
  std::string suspect_;          // a silent worker that has a stage; empty: none
  bool suspect_beside_ = false;  // one is silent that has a stage beside
  uint64_t ignored_results_ = 0;
};

}  // namespace lanyard::coordinator
