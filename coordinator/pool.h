// The pool as one state machine: the machines (who is here, who is drained, who failed) and the
// models that are deployed on them, behind a single (event, now) -> actions. It has no I/O, clock
// or threads: pool_runner.h puts sockets and time around it, and tests/sim drives it from a seed.
#pragma once

#include <map>
#include <set>
#include <string>
#include <vector>

#include "base/clock.h"
#include "coordinator/cluster/health.h"
#include "coordinator/cluster/membership.h"
#include "coordinator/cluster/rollout.h"
#include "coordinator/deployment.h"
#include "coordinator/pool_action.h"
#include "coordinator/serve/generator.h"
#include "net/control.h"

namespace lanyard::coordinator {

struct PoolOptions {
  MembershipOptions membership;
  HealthOptions health;
  std::set<std::string> drained;  // workers that were drained in an earlier life
  DeploymentOptions deployment;
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
  void OnPortClosed(DeploymentId deployment, Epoch epoch, const absl::Status& why, TimeNs now);
  // The answer to PoolAction::MakePlan.
  void OnPlanned(DeploymentId deployment, uint64_t job, const absl::StatusOr<sharding::Plan>& made,
                 TimeNs now);
  // From now on no plan has layers on `worker`, also when it comes back, until Undrain. The answer
  // is a PoolAction::DrainAnswer: OK, or FailedPrecondition with the planner's arithmetic when the
  // worker has layers and the others cannot hold the model; then nothing changes.
  void Drain(const std::string& worker, TimeNs now);
  void Undrain(const std::string& worker, TimeNs now);
  // Deployment::Submit.
  absl::Status Submit(SequenceSpec spec, TimeNs now);
  void Cancel(SeqId id) { deployment_.Cancel(id); }
  // To be called at least every 100 ms.
  void OnTick(TimeNs now);
  // Sends the steps that may run now. To be called after every event, once its actions were carried
  // out.
  void Pump(TimeNs now) { deployment_.Pump(now); }

  std::vector<PoolAction::Any> TakeActions();

  bool serving() const { return deployment_.serving(); }
  bool admits() const { return deployment_.admits(); }
  uint32_t context() const { return deployment_.context(); }
  absl::Status NotServing(TimeNs now) const { return deployment_.NotServing(now); }
  const Scheduler& scheduler() const { return deployment_.scheduler(); }
  const Pipeline& pipeline() const { return deployment_.pipeline(); }
  const Rollout& rollout() const { return deployment_.rollout(); }
  const Membership& membership() const { return membership_; }
  const MachineHealth& health() const { return health_; }
  const std::set<std::string>& drained() const { return drained_; }
  uint64_t ignored_results() const { return deployment_.ignored_results(); }
  // Fills in all but what only the runner knows (model id, digest, request ids).
  PoolStatus Status(TimeNs now) const;

 private:
  struct LostMember {
    Member member;
    TimeNs since = 0;
  };

  ClusterView View() const {
    return {membership_, drained_, health_, revision_ + health_.revision()};
  }
  void OnHello(net::LinkId link, const net::WorkerHello& hello, TimeNs now);
  void Gone(const Member& member, Departure how, std::string_view why, TimeNs now);
  void OnDrainAnswer(const PoolAction::DrainAnswer& answer, TimeNs now);
  void WatchSilence(TimeNs now);
  void FillNode(const Member& member, TimeNs now, NodeStatus* node) const;
  template <typename A>
  void Do(A action) {
    actions_.push_back(std::move(action));
  }

  const PoolOptions options_;
  Membership membership_;
  MachineHealth health_;
  std::set<std::string> drained_;
  uint64_t revision_ = 1;  // of membership, devices and drained_
  std::map<std::string, LostMember> lost_;
  std::set<std::string> suspects_;  // silent for a while
  std::vector<PoolAction::Any> actions_;
  Deployment deployment_;  // the model; a second one would stand beside it
};

}  // namespace lanyard::coordinator
