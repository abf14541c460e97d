// When to plan, what to assign, when the pool serves, and what to do when a stage fails or a worker
// is lost. A state machine without I/O or clock: (event, now) -> actions.
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
  uint32_t context = 0;  // tokens of one sequence wanted
  uint32_t users = 1;
  uint32_t min_context = 256;
  uint32_t max_rows = stage::kStepFrameRows;  // of one frame: sizes every stage's buffers
  uint32_t expect_workers =
      0;  // the first plan waits for so many; 0: until nobody joined for `settle`
  std::set<std::string> drained;  // workers that were drained in an earlier life
  Epoch last_epoch;               // highest one ever used; the first assignment gets the next
  std::string coordinator_node;   // of its certificate; empty: plaintext
  TimeNs settle = kSecond;
  TimeNs return_wait =
      10 * kSecond;  // how long a lost worker is waited for before the others go on without it
  TimeNs retry_first = kSecond / 4;  // back-off after a failed stage; doubles
  TimeNs retry_most = 30 * kSecond;
  TimeNs load_stall = 300 * kSecond;  // a stage that neither progresses nor answers has failed
  // A pool that serves plans again for a better plan only so long after it began to serve: a worker
  // that comes and goes must not stop the others all the time.
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

// What the pool's glue is to do, in order.
struct PlacementActions {
  struct Assign {
    net::LinkId link;
    net::Assignment assignment;
  };
  struct Release {
    net::LinkId link;
    PlanId plan;
  };
  std::optional<Epoch> new_epoch;  // to be made durable before the assignments leave
  std::vector<Assign> assign;
  std::vector<Release> release;
  bool serve = false;                // every stage is ready
  std::optional<absl::Status> lost;  // what was serving (or loading) is not any more
  bool by_choice = false;            // ... for a better plan or a drain, not for a fault
  bool carry = false;                // ... and what it carried goes on under the next plan
  std::string note;                  // for the log
};

// Not thread-safe.
class Placement {
 public:
  explicit Placement(PlacementOptions options);

  void OnJoined(const std::string& name, TimeNs now);
  // `may_return`: the others wait for it first (return_wait); not for one that was thrown out.
  PlacementActions OnGone(const Member& member, std::string_view why, TimeNs now,
                          bool may_return = true);
  void OnDevices() { OnChange(); }  // a worker's cards have more or less for stages than they had
  void OnProgress(net::LinkId link, const net::LoadProgress& progress, TimeNs now);
  PlacementActions OnReady(net::LinkId link, const net::StageReady& ready, TimeNs now);
  PlacementActions OnFailed(net::LinkId link, const net::StageFailed& failed, TimeNs now);
  // Steps do not come back, or a link between stages broke: the same cut again under a new epoch.
  PlacementActions OnFault(const absl::Status& why, TimeNs now);
  // Plans when it is time. To be called after every event and on every tick. `quiet`: no request
  // would notice if the pool stopped serving while it loads another plan; only then is a plan that
  // serves given up for a better one.
  PlacementActions Poll(const Membership& members, TimeNs now, bool quiet = false);

  // From now on no plan has layers on `name`, also when it comes back, until Undrain.
  // FailedPrecondition with the planner's arithmetic when it has some and the others cannot hold
  // the model: then nothing changes. OK when it was drained already.
  absl::Status Drain(const std::string& name, const Membership& members);
  void Undrain(const std::string& name, TimeNs now);
  const std::set<std::string>& drained() const { return drained_; }
  // The plan that serves has layers on a drained worker, and there may be one without.
  bool wants_move() const;
  // Then: changes to the plan without the drained ones. `idle`: nothing runs; otherwise what runs
  // is carried over, which takes a plan of no shorter context (without it nothing happens).
  PlacementActions Move(const Membership& members, TimeNs now, bool idle);
  // Drained, and in the plan all the same: the one without it did not load, so what served before
  // serves again until something changes.
  bool kept(const std::string& name) const { return kept_.contains(name); }
  // Why a worker that is here has no layers, or is to lose them: one sentence that says who left it
  // out. Empty for one that the present plan uses.
  std::string WhyNotUsed(const std::string& name) const;
  bool moving() const { return moving_; }  // the plan that Move made is loading
  uint64_t moves() const { return moves_; }

  PlacementState state() const { return state_; }
  const std::string& why() const { return why_; }       // one sentence when not serving
  const sharding::Plan& plan() const { return plan_; }  // the last one that fitted
  const std::vector<AssignedStage>& stages() const {
    return stages_;
  }  // empty unless loading or serving
  Epoch epoch() const { return epoch_; }
  PlanId plan_id() const { return PlanId(epoch_.value); }  // a plan is assigned once
  uint64_t improvements() const { return improvements_; }  // plans given up for a better one
  TimeNs lost_since() const { return lost_since_; }  // 0 while serving or before the first plan

 private:
  AssignedStage* StageOf(net::LinkId link);
  bool Current(PlanId plan, Epoch epoch) const { return plan == plan_id() && epoch == epoch_; }
  PlacementActions Lose(absl::Status why, TimeNs now);
  void BackOff(TimeNs now);
  // The one thing that planning still waits for; empty: plan now.
  std::string WaitsFor(const Membership& members, TimeNs now);
  bool OldPlanStillFits(const Membership& members) const;
  void OnChange();                                      // of who is here and may be planned
  size_t CountUsable(const Membership& members) const;  // not drained
  bool HasStage(const std::string& name) const;
  std::string WhyNoPlan(const absl::StatusOr<sharding::Plan>& made) const;
  bool DevicesStillHave(const sharding::PlannedStage& stage, const Member& member) const;
  void RememberDevices(const Membership& members);
  sharding::PlanRequest RequestFor(const Membership& members) const;
  PlacementActions Assign(const Membership& members, TimeNs now);
  // While serving: looks for a better plan when members changed, and changes to it when it is
  // quiet.
  PlacementActions Improve(const Membership& members, TimeNs now, bool quiet);
  // What `made` has over the plan that serves, in words; empty when that is not worth a stop.
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
      planned_devices_;            // of the workers that plan_ was made for
  std::set<std::string> awaited_;  // lost workers that may come back
  TimeNs awaited_until_ = 0;
  TimeNs not_before_ = 0;  // settle time or back-off
  TimeNs retry_delay_ = 0;
  std::string last_failure_;
  TimeNs last_progress_ = 0;
  TimeNs lost_since_ = 0;
  TimeNs serving_since_ = 0;
  TimeNs joined_at_ = 0;                    // the latest
  std::optional<Better> better_;            // waits for a quiet moment
  std::optional<sharding::Plan> fallback_;  // served before the one that is loading
  uint64_t improvements_ = 0;
  std::set<std::string> drained_;
  std::optional<sharding::Plan> move_plan_;  // without the drained; null: not made yet
  bool move_blocked_ = false;                // there is none, until something changes
  std::set<std::string> kept_;
  bool moving_ = false;
  uint64_t moves_ = 0;
};

}  // namespace lanyard::coordinator
