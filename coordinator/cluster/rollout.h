// Brings a plan of one model to serve and keeps it serving: when to plan, what to assign, and what
// to do when a stage fails or a worker is lost. It is a state machine without I/O or clock, (event,
// now) -> actions. Planning itself is an action too, whose answer comes back as an event.
#pragma once

#include <cstdint>
#include <deque>
#include <map>
#include <memory>
#include <optional>
#include <set>
#include <string>
#include <variant>
#include <vector>

#include "base/clock.h"
#include "base/status.h"
#include "coordinator/cluster/health.h"
#include "coordinator/cluster/membership.h"
#include "model/manifest.h"
#include "net/control.h"
#include "net/versions.h"
#include "sharding/planner.h"
#include "stage/types.h"

namespace lanyard::coordinator {

struct RolloutOptions {
  std::shared_ptr<const model::Manifest> manifest;
  stage::NumericsId numerics;
  uint32_t context = 0;  // tokens of one sequence that are wanted
  uint32_t users = 1;
  uint32_t min_context = 256;
  uint32_t max_rows = stage::kStepFrameRows;  // rows of one frame, which size every stage's buffers
  // The first plan waits for this many workers; 0: until no worker joined for `settle`.
  uint32_t expect_workers = 0;
  Epoch last_epoch;  // the highest epoch that was ever used; the first assignment gets the next one
  std::string coordinator_node;  // node of the coordinator's certificate; empty: plaintext
  TimeNs settle = kSecond;
  // How long the others wait for a lost worker, where going on without it would take longer.
  TimeNs return_wait = 10 * kSecond;
  double load_bytes_per_second = 100e6;  // at which a worker is thought to fetch layers new to it
  TimeNs retry_first = kSecond / 4;      // back-off after a failed stage; it doubles
  TimeNs retry_most = 30 * kSecond;
  TimeNs load_stall = 300 * kSecond;  // a stage that neither progresses nor answers has failed
  // A serving pool is stopped for a better plan only this long after it began to serve: a worker
  // that comes and goes must not stop the others all the time. (What is loaded beside the plan that
  // serves stops nobody.)
  TimeNs improve_every = 60 * kSecond;
  TimeNs beside_retry = 30 * kSecond;   // after a better plan did not load; it doubles
  uint32_t beside_retry_doublings = 6;  // ... so often
  // Share of the planner's objective that a plan must save to be worth loading. (A plan with one
  // machine less saves as much by that alone.)
  double improve_by = sharding::kFurtherMachineSaves;
};

// What a rollout sees of the machines, which belong to the whole pool. Valid for one call.
struct ClusterView {
  const Membership& members;
  const std::set<std::string>& drained;
  const MachineHealth& health;
  // Changes whenever another set of machines is here or may be planned, and when their devices do.
  uint64_t revision = 0;
};

struct AssignedStage {
  sharding::PlannedStage planned;
  net::LinkId link;
  bool ready = false;
  net::StageReady answer;
  net::LoadProgress progress;
  TimeNs assigned_at = 0;
  TimeNs progress_at = 0;  // when it was last heard to come forward
};

enum class RolloutState { kWaiting, kLoading, kServing, kNoFit };

// A plan to be made, on any thread; the answer goes to Rollout::OnPlanned. A later job makes an
// earlier one pointless.
struct PlanJob {
  uint64_t id = 0;
  std::shared_ptr<const model::Manifest> manifest;  // that request.manifest points to
  sharding::PlanRequest request;
};

// Why a plan serves no more.
enum class Loss {
  kBroke,    // a connection or a stage did: what was in flight may be the reason
  kMachine,  // a worker fell silent or left, which no request brings about
  kChosen,   // for a better plan or a drain
};

// What the caller is to do, in this order.
struct RolloutActions {
  struct Assign {
    net::LinkId link;
    net::Assignment assignment;
  };
  struct Release {
    net::LinkId link;
    PlanId plan;
  };
  struct DrainAnswer {
    std::string worker;
    absl::Status status;
  };
  std::optional<PlanJob> plan;
  std::optional<DrainAnswer> drain;  // the answer to AskDrain
  std::optional<Epoch> new_epoch;    // must be made durable before the assignments are sent
  std::vector<Assign> assign;
  std::vector<Release> release;
  bool serve = false;                // every stage is ready
  std::optional<absl::Status> lost;  // the plan that was serving (or loading) no longer is
  Loss loss = Loss::kBroke;          // with `lost`
  std::string note;                  // for the log
};

// Not thread-safe.
class Rollout {
 public:
  explicit Rollout(RolloutOptions options);

  void OnJoined(const std::string& name, TimeNs now);
  RolloutActions OnGone(const Member& member, Departure how, std::string_view why,
                        const ClusterView& view, TimeNs now);
  void OnProgress(net::LinkId link, const net::LoadProgress& progress, TimeNs now);
  RolloutActions OnReady(net::LinkId link, const net::StageReady& ready, TimeNs now);
  RolloutActions OnFailed(net::LinkId link, const net::StageFailed& failed, const ClusterView& view,
                          TimeNs now);
  // Steps do not come back, or a link between stages broke: the same cut is tried again under a new
  // epoch.
  RolloutActions OnFault(const absl::Status& why, const ClusterView& view, TimeNs now);
  // A result came through every stage: the plan works, and the one before it is forgotten.
  void OnProven();
  // Changes to the plan that was loaded beside the one that serves: `lost` and `serve` at once. To
  // be called when WantsTake.
  RolloutActions Take(const ClusterView& view, TimeNs now);
  // The answer to a PlanJob. It is ignored when another job was given since.
  RolloutActions OnPlanned(uint64_t job, const absl::StatusOr<sharding::Plan>& made,
                           const ClusterView& view, TimeNs now);
  // Asks for a plan when it is time. It is to be called after every event and on every tick.
  // `quiet` says that no request would notice if the pool stopped serving while it loads another
  // plan; only then is a serving plan given up for a better one that cannot be loaded beside it.
  RolloutActions Poll(const ClusterView& view, TimeNs now, bool quiet = false);

  // Asks whether the others could do without `worker`, which has a stage. RolloutActions::drain is
  // the answer: OK, or FailedPrecondition with the planner's arithmetic.
  void AskDrain(const std::string& worker) { drain_wishes_.push_back(worker); }
  // True when the serving plan has layers on a drained worker and there may be a plan without it.
  bool WantsMove(const ClusterView& view) const;
  // Tokens of a sequence in the plan without the drained workers; 0: it is not made yet.
  uint32_t move_context() const;
  // To be called when WantsMove and move_context() > 0: changes to that plan.
  RolloutActions Move(const ClusterView& view, TimeNs now);
  // True for a worker that is drained and in the plan all the same: the plan without it did not
  // load, so the one that served before serves again until something changes.
  bool kept(const std::string& name) const { return kept_.contains(name); }
  // Why a worker that is here has no layers, or is to lose them: one sentence that says who left it
  // out. Empty for one that the present plan uses.
  std::string WhyNotUsed(const std::string& name, const ClusterView& view, TimeNs now) const;
  bool HasStage(const std::string& name) const;
  // Every stage of the plan beside the one that serves is ready.
  bool WantsTake() const;
  // The stages of a better plan, which are made ready while another plan serves; empty: there is
  // none.
  const std::vector<AssignedStage>& beside_stages() const;
  bool IsBeside(PlanId plan, Epoch epoch) const;
  bool moving() const;  // the plan that Move made is loading
  uint64_t moves() const { return moves_; }

  RolloutState state() const { return static_cast<RolloutState>(phase_.index()); }
  // One sentence when not serving.
  std::string why() const;
  const sharding::Plan& plan() const { return plan_; }  // the last plan that fitted
  // How long the stages that load will still take, by how fast each came forward until now.
  // Nullopt: nothing loads, or one of them has not come forward yet.
  std::optional<TimeNs> ReadyIn(TimeNs now) const;
  // They are empty unless the pool loads or serves.
  const std::vector<AssignedStage>& stages() const;
  Epoch epoch() const { return epoch_; }       // of the plan that loads or serves
  PlanId plan_id() const { return plan_id_; }  // of the last cut; every assignment of it has it
  // Number of plans that were given up for a better one.
  uint64_t improvements() const { return improvements_; }
  TimeNs lost_since() const { return lost_since_; }  // 0 while serving or before the first plan

 private:
  struct Waiting {
    std::string why = {};
    std::set<std::string> awaited = {};  // lost workers that may come back
    TimeNs awaited_until = 0;
    uint64_t no_better = 0;  // the revision at which doing without them was found no better
  };
  struct Loading {
    std::vector<AssignedStage> stages;
    std::optional<sharding::Plan> fallback;  // that served before
    bool moving = false;                     // from drained workers
    uint64_t revision = 0;                   // of the machines that it was assigned to
  };
  // A better plan that is made ready while another one serves.
  struct Beside {
    sharding::Plan plan;
    std::string why;
    PlanId plan_id;
    Epoch epoch;
    net::AssignMode mode = net::AssignMode::kBeside;  // the same for all
    std::vector<AssignedStage> stages;
    uint64_t revision = 0;  // of the machines that it was assigned to
    bool ready() const;
  };
  struct Serving {
    std::vector<AssignedStage> stages;
    TimeNs since = 0;
    std::optional<sharding::Plan> fallback;  // until a result has come through every stage
    uint64_t considered = 0;                 // the revision for which a better plan was looked for
    struct Candidate {
      sharding::Plan plan;
      std::string why;
    };
    std::optional<Candidate> candidate;  // a better plan, which waits for a quiet moment
    std::optional<Beside> beside;
    TimeNs look_again = 0;  // when a plan that did not load is tried again; 0: never
    uint32_t besides_dropped = 0;
    // The plan without the drained workers, and the revision that it was made for.
    std::optional<sharding::Plan> without_drained;
    uint64_t without_drained_of = 0;
  };
  struct NoFit {
    std::string why;
    uint64_t revision = 0;
  };

  enum class Purpose { kAssign, kImprove, kMove, kDrain };
  // The machines that are planned with, as long as they hold the model. After a loss those come
  // first that have had layers: one that is new may have all of its weights to fetch, and takes
  // part later, beside what serves.
  enum class From { kWithLayers, kNotBenched, kAll };
  static From Wider(From from) {
    return from == From::kWithLayers ? From::kNotBenched : From::kAll;
  }
  struct Job {
    uint64_t id = 0;
    Purpose purpose = Purpose::kAssign;
    uint64_t revision = 0;
    std::string drain = {};  // the worker that is to be left out
    From from = From::kNotBenched;
    bool left_out = false;  // a machine was
  };

  AssignedStage* StageOf(net::LinkId link);
  std::vector<AssignedStage>* MutableStages();
  bool Current(PlanId plan, Epoch epoch) const { return plan == plan_id_ && epoch == epoch_; }
  RolloutActions Lose(absl::Status why, const ClusterView& view, TimeNs now);
  void BackOff(TimeNs now);
  // Says the one thing that planning still waits for; empty: plan now.
  std::string WaitsFor(Waiting* waiting, const ClusterView& view, TimeNs now);
  // Whether every machine of the plan is here and still has the memory for its stage.
  bool StillFits(const sharding::Plan& plan, const ClusterView& view) const;
  static bool UsesBenched(const sharding::Plan& plan, const ClusterView& view, TimeNs now);
  bool DevicesStillHave(const sharding::PlannedStage& stage, const Member& member) const;
  void RememberDevices(const Membership& members);
  size_t CountUsable(const ClusterView& view) const;  // workers that are not drained
  std::string WhyNoPlan(const absl::StatusOr<sharding::Plan>& made, const ClusterView& view) const;
  RolloutActions StartJob(Job job, const ClusterView& view, TimeNs now);
  bool Planning(Purpose purpose) const { return job_ && job_->purpose == purpose; }
  sharding::PlanRequest RequestFor(const Job& job, const ClusterView& view, TimeNs now,
                                   bool* left_out) const;
  RolloutActions OnPlanToAssign(const Job& job, const absl::StatusOr<sharding::Plan>& made,
                                const ClusterView& view, TimeNs now);
  // How long the workers would fetch before the plan could serve.
  TimeNs LoadTime(const sharding::Plan& plan) const;
  // While it serves: looks for a better plan when the machines changed, and makes it ready beside
  // the one that serves, or changes to it in a quiet moment.
  RolloutActions Improve(Serving* serving, const ClusterView& view, TimeNs now, bool quiet);
  // Says in words what `made` has over the serving plan; empty when that is not worth a stop.
  std::string WhyBetter(const sharding::Plan& made, const ClusterView& view) const;
  // How the machines can make `plan` ready while they serve; kInstead: they cannot.
  net::AssignMode HowBeside(const sharding::Plan& plan, const ClusterView& view) const;
  // Whether the machine has memory for the stage that it `has` and the `next` one, of `plan`.
  bool HoldsBoth(const sharding::Plan& plan, const sharding::PlannedStage& has,
                 const sharding::PlannedStage& next, const net::WorkerHello& hello) const;
  RolloutActions LoadBeside(Serving* serving, net::AssignMode mode, const ClusterView& view,
                            TimeNs now);
  RolloutActions GoOnBeside(Serving* serving, const ClusterView& view, TimeNs now, bool quiet);
  // What serves goes on. `gone`: the machine that is not here any more; empty: all are.
  static RolloutActions EndBeside(Serving* serving, const std::string& gone = "");
  // The same because of a fault; it is tried again later.
  RolloutActions DropBeside(Serving* serving, std::string_view why, const std::string& gone,
                            TimeNs now);
  // Gives up what serves for `plan`, and falls back to it if that does not come to serve.
  RolloutActions Change(const sharding::Plan& plan, const std::string& why, bool moving,
                        const ClusterView& view, TimeNs now);
  void SetPlan(const sharding::Plan& plan, const Membership& members);
  // Machines that are alike change places where more layers then stay where they are: the planner
  // knows nothing of what a machine has in memory or on its disk.
  void KeepLayersInPlace(sharding::Plan* plan, const ClusterView& view) const;
  uint32_t Kept(const std::string& machine, stage::LayerRange layers) const;
  RolloutActions Assign(const ClusterView& view, TimeNs now);
  // A plan under its numbers.
  struct Numbered {
    const sharding::Plan& plan;
    PlanId id;
    Epoch epoch;
    net::AssignMode mode = net::AssignMode::kInstead;
  };
  // Adds the assignments to `actions` and returns the stages.
  std::vector<AssignedStage> AssignAll(const Numbered& numbered, const Membership& members,
                                       TimeNs now, RolloutActions* actions) const;
  net::Assignment AssignmentOf(const Numbered& numbered, uint32_t index,
                               const Membership& members) const;

  const RolloutOptions options_;
  // In the order of RolloutState.
  std::variant<Waiting, Loading, Serving, NoFit> phase_;
  sharding::Plan plan_;
  PlanId plan_id_;
  Epoch epoch_;
  Epoch last_epoch_;                       // the highest that was ever used
  bool new_cut_ = true;                    // plan_ was not assigned yet
  std::map<std::string, PlanId> holding_;  // workers that hold a stage of an older plan
  std::map<std::string, std::vector<net::DeviceHello>> planned_devices_;  // that plan_ was made for
  std::map<std::string, std::set<uint32_t>> fetched_;   // layers that a worker once had
  std::map<std::string, stage::LayerRange> in_memory_;  // of workers whose stage was ready
  bool planned_once_ = false;
  std::optional<Job> job_;
  uint64_t next_job_ = 1;
  std::deque<std::string> drain_wishes_;
  TimeNs not_before_ = 0;  // end of the settle time or of the back-off
  TimeNs retry_delay_ = 0;
  std::string last_failure_;
  TimeNs lost_since_ = 0;
  TimeNs joined_at_ = 0;        // when the latest worker joined
  std::set<std::string> kept_;  // drained workers that keep their layers, at revision kept_of_
  uint64_t kept_of_ = 0;
  uint64_t improvements_ = 0;
  uint64_t moves_ = 0;
};

}  // namespace lanyard::coordinator
