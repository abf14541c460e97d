// When to plan, what to assign, when the pool serves, and what to do when a stage fails or a worker
// is lost. It is a state machine without I/O or clock: (event, now) -> actions.
#pragma once

#include <cstdint>
#include <functional>
#include <map>
#include <memory>
#include <optional>
#include <set>
#include <string>
#include <vector>

#include "base/clock.h"
#include "base/status.h"
#include "coordinator/cluster/membership.h"
#include "model/manifest.h"
#include "net/control.h"
#include "sharding/planner.h"
#include "stage/types.h"

namespace lanyard::coordinator {

using PlanFn = std::function<absl::StatusOr<sharding::Plan>(const sharding::PlanRequest&)>;

struct PlacementOptions {
  std::shared_ptr<const model::Manifest> manifest;
  PlanFn make_plan = sharding::MakePlan;
  stage::NumericsId numerics;
  uint32_t context = 0;  // tokens of one sequence that are wanted
  uint32_t users = 1;
  uint32_t min_context = 256;
  uint32_t max_rows = stage::kStepFrameRows;  // rows of one frame, which size every stage's buffers
  // The first plan waits for this many workers; 0: until no worker joined for `settle`.
  uint32_t expect_workers = 0;
  std::set<std::string> drained;  // workers that were drained in an earlier life
  Epoch last_epoch;  // the highest epoch that was ever used; the first assignment gets the next one
  std::string coordinator_node;  // node of the coordinator's certificate; empty: plaintext
  TimeNs settle = kSecond;
  // How long the others wait for a lost worker before they go on without it.
  TimeNs return_wait = 10 * kSecond;
  TimeNs retry_first = kSecond / 4;  // back-off after a failed stage; it doubles
  TimeNs retry_most = 30 * kSecond;
  TimeNs load_stall = 300 * kSecond;  // a stage that neither progresses nor answers has failed
  // A serving pool looks for a better plan only this long after it began to serve: a worker that
  // comes and goes must not stop the others all the time.
  TimeNs improve_every = 60 * kSecond;
  double improve_by = 0.2;  // share of the predicted time that a plan must save to be worth loading
};

struct AssignedStage {
  sharding::PlannedStage planned;
  net::LinkId link;
  bool ready = false;
  net::StageReady answer;
  net::LoadProgress progress;
};

enum class PlacementState { kWaiting, kLoading, kServing, kNoFit };

// What the caller is to do, in this order.
struct PlacementActions {
  struct Assign {
    net::LinkId link;
    net::Assignment assignment;
  };
  struct Release {
    net::LinkId link;
    PlanId plan;
  };
  std::optional<Epoch> new_epoch;  // must be made durable before the assignments are sent
  std::vector<Assign> assign;
  std::vector<Release> release;
  bool serve = false;                // every stage is ready
  std::optional<absl::Status> lost;  // the plan that was serving (or loading) no longer is
  bool by_choice = false;  // with `lost`: for a better plan or a drain, not because of a fault
  bool carry = false;      // with `lost`: the running requests go on under the next plan
  std::string note;        // for the log
};

// Not thread-safe.
class Placement {
 public:
  explicit Placement(PlacementOptions options);

  void OnJoined(const std::string& name, TimeNs now);
  // `may_return`: the others first wait for the worker (return_wait). It is false for one that was
  // revoked.
  PlacementActions OnGone(const Member& member, std::string_view why, TimeNs now,
                          bool may_return = true);
  // A worker's cards have more or less room for stages than before.
  void OnDevices() { OnChange(); }
  void OnProgress(net::LinkId link, const net::LoadProgress& progress, TimeNs now);
  PlacementActions OnReady(net::LinkId link, const net::StageReady& ready, TimeNs now);
  PlacementActions OnFailed(net::LinkId link, const net::StageFailed& failed, TimeNs now);
  // Steps do not come back, or a link between stages broke: the same cut is tried again under a new
  // epoch.
  PlacementActions OnFault(const absl::Status& why, TimeNs now);
  // Plans when it is time. It is to be called after every event and on every tick. `quiet` says
  // that no request would notice if the pool stopped serving while it loads another plan; only then
  // is a serving plan given up for a better one.
  PlacementActions Poll(const Membership& members, TimeNs now, bool quiet = false);

  // From now on no plan has layers on `name`, also when it comes back, until Undrain.
  // FailedPrecondition with the planner's arithmetic when the worker has layers and the others
  // cannot hold the model; then nothing changes. OK when it was drained already.
  absl::Status Drain(const std::string& name, const Membership& members);
  void Undrain(const std::string& name, TimeNs now);
  const std::set<std::string>& drained() const { return drained_; }
  // True when the serving plan has layers on a drained worker and there may be a plan without it.
  bool wants_move() const;
  // To be called then: changes to a plan without the drained workers. `idle` says that no request
  // runs. Otherwise the running ones are carried over, which takes a plan of no shorter context;
  // without such a plan nothing happens.
  PlacementActions Move(const Membership& members, TimeNs now, bool idle);
  // True for a worker that is drained and in the plan all the same: the plan without it did not
  // load, so the one that served before serves again until something changes.
  bool kept(const std::string& name) const { return kept_.contains(name); }
  // Why a worker that is here has no layers, or is to lose them: one sentence that says who left it
  // out. Empty for one that the present plan uses.
  std::string WhyNotUsed(const std::string& name) const;
  bool moving() const { return moving_; }  // the plan that Move made is loading
  uint64_t moves() const { return moves_; }

  PlacementState state() const { return state_; }
  const std::string& why() const { return why_; }       // one sentence when not serving
  const sharding::Plan& plan() const { return plan_; }  // the last plan that fitted
  // They are empty unless the pool loads or serves.
  const std::vector<AssignedStage>& stages() const { return stages_; }
  Epoch epoch() const { return epoch_; }
  PlanId plan_id() const { return PlanId(epoch_.value); }  // a plan is assigned once
  // Number of plans that were given up for a better one.
  uint64_t improvements() const { return improvements_; }
  TimeNs lost_since() const { return lost_since_; }  // 0 while serving or before the first plan

 private:
  AssignedStage* StageOf(net::LinkId link);
  bool Current(PlanId plan, Epoch epoch) const { return plan == plan_id() && epoch == epoch_; }
  PlacementActions Lose(absl::Status why, TimeNs now);
  void BackOff(TimeNs now);
  // Says the one thing that planning still waits for; empty: plan now.
  std::string WaitsFor(const Membership& members, TimeNs now);
  bool OldPlanStillFits(const Membership& members) const;
  void OnChange();  // another set of workers is here or may be planned
  size_t CountUsable(const Membership& members) const;  // workers that are not drained
  bool HasStage(const std::string& name) const;
  std::string WhyNoPlan(const absl::StatusOr<sharding::Plan>& made) const;
  bool DevicesStillHave(const sharding::PlannedStage& stage, const Member& member) const;
  void RememberDevices(const Membership& members);
  sharding::PlanRequest RequestFor(const Membership& members) const;
  PlacementActions Assign(const Membership& members, TimeNs now);
  // While the pool serves: looks for a better plan when the members changed, and changes to it in a
  // quiet moment.
  PlacementActions Improve(const Membership& members, TimeNs now, bool quiet);
  // Says in words what `made` has over the serving plan; empty when that is not worth a stop.
  std::string WhyBetter(const sharding::Plan& made, size_t n_machines) const;
  double PredictedMs(const sharding::Plan& plan, size_t n_machines) const;

  struct Better {
    sharding::Plan plan;
    std::string why;
  };
  const PlacementOptions options_;
  PlacementState state_ = PlacementState::kWaiting;
  std::string why_ = "no worker has joined yet";
  sharding::Plan plan_;
  std::vector<AssignedStage> stages_;
  Epoch epoch_;
  std::map<std::string, PlanId> holding_;  // workers that hold a stage of an older plan
  bool planned_once_ = false;
  bool members_changed_ = false;
  std::map<std::string, std::vector<net::DeviceHello>>
      planned_devices_;            // devices of the workers that plan_ was made for
  std::set<std::string> awaited_;  // lost workers that may come back
  TimeNs awaited_until_ = 0;
  TimeNs not_before_ = 0;  // end of the settle time or of the back-off
  TimeNs retry_delay_ = 0;
  std::string last_failure_;
  TimeNs last_progress_ = 0;
  TimeNs lost_since_ = 0;
  TimeNs serving_since_ = 0;
  TimeNs joined_at_ = 0;                    // when the latest worker joined
  std::optional<Better> better_;            // a better plan, which waits for a quiet moment
  std::optional<sharding::Plan> fallback_;  // the plan that served before the one that is loading
  uint64_t improvements_ = 0;
  std::set<std::string> drained_;
  // The plan without the drained workers; null: not made yet.
  std::optional<sharding::Plan> move_plan_;
  bool move_blocked_ = false;  // there is no such plan until something changes
  std::set<std::string> kept_;
  bool moving_ = false;
  uint64_t moves_ = 0;
};

}  // namespace lanyard::coordinator
