#include "coordinator/cluster/placement.h"

#include <algorithm>
#include <utility>

#include "coordinator/serve/pipeline.h"

namespace lanyard::coordinator {
namespace {

std::string Describe(const sharding::PlannedStage& stage) {
  return PipelineStage{stage.machine, stage.layers}.Describe();
}

std::string Join(const std::vector<std::string>& parts) {
  std::string out;
  for (const std::string& part : parts) absl::StrAppend(&out, out.empty() ? "" : "; ", part);
  return out;
}

}  // namespace

Placement::Placement(PlacementOptions options)
    : options_(std::move(options)), epoch_(options_.last_epoch), drained_(options_.drained) {}

AssignedStage* Placement::StageOf(net::LinkId link) {
  for (AssignedStage& stage : stages_) {
    if (stage.link == link) return &stage;
  }
  return nullptr;
}

void Placement::OnChange() {
  members_changed_ = true;
  move_plan_.reset();
  move_blocked_ = false;
  kept_.clear();
}

void Placement::OnJoined(const std::string& name, TimeNs now) {
  OnChange();
  joined_at_ = now;
  holding_.erase(name);
  awaited_.erase(name);
  if (!planned_once_) not_before_ = now + options_.settle;
}

PlacementActions Placement::OnGone(const Member& member, std::string_view why, TimeNs now,
                                   bool may_return) {
  OnChange();
  holding_.erase(member.hello.name);
  AssignedStage* stage = StageOf(member.link);
  const bool in_last_plan =
      planned_once_ && std::any_of(plan_.stages.begin(), plan_.stages.end(),
                                   [&](const auto& s) { return s.machine == member.hello.name; });
  // This holds also when its neighbour noticed first and the stages are gone already.
  if (may_return && in_last_plan && !drained_.contains(member.hello.name) &&
      (stage != nullptr || stages_.empty())) {
    awaited_.insert(member.hello.name);
    awaited_until_ = now + options_.return_wait;
  }
  if (stage == nullptr) return {};
  return Lose(Unavailable(Describe(stage->planned), " was lost: ", AbslView(why)), now);
}

PlacementActions Placement::Lose(absl::Status why, TimeNs now) {
  PlacementActions actions;
  for (const AssignedStage& stage : stages_) holding_[stage.planned.machine] = plan_id();
  for (const std::string& name : awaited_) holding_.erase(name);
  if (moving_) {
    kept_ = drained_;
    move_blocked_ = true;
    actions.note =
        "the plan without the drained workers did not come to serve; they keep their layers until "
        "something changes";
  }
  if (fallback_) {
    // The chosen plan did not come to serve: we go back to the one that did, without waiting for
    // workers that it does not need.
    plan_ = *std::exchange(fallback_, std::nullopt);
    std::erase_if(awaited_, [this](const std::string& name) {
      return std::none_of(plan_.stages.begin(), plan_.stages.end(),
                          [&](const auto& s) { return s.machine == name; });
    });
  }
  better_.reset();
  moving_ = false;
  stages_.clear();
  state_ = PlacementState::kWaiting;
  why_ = Str(why.message());
  last_failure_ = why_;
  if (lost_since_ == 0) lost_since_ = now;
  actions.lost = std::move(why);
  return actions;
}

void Placement::BackOff(TimeNs now) {
  // A plan that served for a while and then failed starts again with a short delay.
  if (state_ == PlacementState::kServing && now - serving_since_ >= options_.retry_most) {
    retry_delay_ = 0;
  }
  retry_delay_ =
      retry_delay_ == 0 ? options_.retry_first : std::min(2 * retry_delay_, options_.retry_most);
  not_before_ = now + retry_delay_;
}

void Placement::OnProgress(net::LinkId link, const net::LoadProgress& progress, TimeNs now) {
  AssignedStage* stage = StageOf(link);
  if (stage == nullptr || progress.plan != plan_id()) return;
  if (progress.done_bytes != stage->progress.done_bytes) last_progress_ = now;
  stage->progress = progress;
}

PlacementActions Placement::OnReady(net::LinkId link, const net::StageReady& ready, TimeNs now) {
  AssignedStage* stage = StageOf(link);
  if (stage == nullptr || !Current(ready.plan, ready.epoch) || state_ != PlacementState::kLoading) {
    return {};
  }
  stage->ready = true;
  stage->answer = ready;
  last_progress_ = now;
  PlacementActions actions;
  if (!std::all_of(stages_.begin(), stages_.end(), [](const auto& s) { return s.ready; })) {
    return actions;
  }
  state_ = PlacementState::kServing;
  serving_since_ = now;
  why_.clear();
  last_failure_.clear();
  fallback_.reset();
  moving_ = false;
  lost_since_ = 0;
  actions.serve = true;
  return actions;
}

PlacementActions Placement::OnFailed(net::LinkId link, const net::StageFailed& failed, TimeNs now) {
  AssignedStage* stage = StageOf(link);
  if (stage == nullptr || !Current(failed.plan, failed.epoch)) return {};
  BackOff(now);
  return Lose(Unavailable(Describe(stage->planned),
                          " could not make its stage ready: ", failed.status.message()),
              now);
}

PlacementActions Placement::OnFault(const absl::Status& why, TimeNs now) {
  if (stages_.empty()) return {};
  BackOff(now);
  return Lose(why, now);
}

std::string Placement::WaitsFor(const Membership& members, TimeNs now) {
  const size_t n = CountUsable(members);
  if (n == 0 && !members.members().empty()) return "every worker that is here is drained";
  if (n == 0) return last_failure_.empty() ? "no worker has joined yet" : last_failure_;
  if (!planned_once_) {
    if (options_.expect_workers > 0) {
      // The drained ones among the expected workers do not take part.
      const size_t expect =
          options_.expect_workers - std::min<size_t>(drained_.size(), options_.expect_workers - 1);
      if (n >= expect) return "";
      return absl::StrCat(n, " of ", expect, " workers have joined");
    }
    if (now < not_before_) return absl::StrCat(n, " workers have joined; waiting for more");
    return "";
  }
  for (auto it = awaited_.begin(); it != awaited_.end();) {
    it = members.FindByName(*it) != nullptr ? awaited_.erase(it) : std::next(it);
  }
  if (!awaited_.empty() && now < awaited_until_) {
    return absl::StrCat(last_failure_, "; waiting for it to come back");
  }
  awaited_.clear();
  if (now < not_before_) return last_failure_;
  return "";
}

PlacementActions Placement::Poll(const Membership& members, TimeNs now, bool quiet) {
  if (state_ == PlacementState::kServing)
    return wants_move() ? PlacementActions() : Improve(members, now, quiet);
  if (state_ == PlacementState::kLoading) {
    if (now < last_progress_ + options_.load_stall) return {};
    for (const AssignedStage& stage : stages_) {
      if (stage.ready) continue;
      BackOff(now);
      return Lose(Unavailable(Describe(stage.planned), " neither loads nor answers"), now);
    }
  }
  if (state_ == PlacementState::kNoFit) {
    if (!members_changed_) return {};
    state_ = PlacementState::kWaiting;
  }
  std::string waits = WaitsFor(members, now);
  if (!waits.empty()) {
    why_ = std::move(waits);
    return {};
  }
  return Assign(members, now);
}

void Placement::RememberDevices(const Membership& members) {
  planned_devices_.clear();
  for (const auto& [name, member] : members.members())
    planned_devices_[name] = member.hello.devices;
}

// Says whether the cards that the plan puts layers on have about as much memory as then: other
// programs on the same desk take a little more or less every time.
bool Placement::DevicesStillHave(const sharding::PlannedStage& stage, const Member& member) const {
  const auto planned = planned_devices_.find(stage.machine);
  if (planned == planned_devices_.end()) return true;
  for (const net::DeviceHello& before : planned->second) {
    if (stage.device.find(before.name) == std::string::npos) continue;
    const auto& devices = member.hello.devices;
    const auto now =
        std::find_if(devices.begin(), devices.end(),
                     [&](const net::DeviceHello& device) { return device.name == before.name; });
    // What no longer has room on a card goes to RAM, but not with fast attention.
    const bool fast = options_.numerics.attention == stage::AttentionForm::kFast;
    const uint64_t least_bytes = fast ? before.memory_bytes : before.memory_bytes / 8 * 7;
    if (now == devices.end() || now->memory_bytes < least_bytes || (fast && !now->fast_attention))
      return false;
  }
  return true;
}

bool Placement::OldPlanStillFits(const Membership& members) const {
  if (!plan_.fits || plan_.stages.empty()) return false;
  std::map<std::string, uint64_t> planned_bytes;
  for (const sharding::PlannedStage& stage : plan_.stages) {
    planned_bytes[stage.machine] += stage.weights_bytes + stage.kv_bytes + stage.buffer_bytes;
    const Member* member = members.FindByName(stage.machine);
    if (member != nullptr && !DevicesStillHave(stage, *member)) return false;
  }
  for (const auto& [name, bytes] : planned_bytes) {
    const Member* member = members.FindByName(name);
    if (member == nullptr || (drained_.contains(name) && !kept(name))) return false;
    // A restarted worker's own code takes a little more or less than last time.
    uint64_t limit = member->hello.memory_bytes;
    for (const net::DeviceHello& device : member->hello.devices) limit += device.memory_bytes;
    if (bytes > limit || limit - bytes < member->hello.base_bytes) return false;
  }
  return true;
}

sharding::PlanRequest Placement::RequestFor(const Membership& members) const {
  sharding::PlanRequest request;
  request.manifest = options_.manifest.get();
  request.numerics = options_.numerics;
  request.context = options_.context;
  request.users = options_.users;
  request.max_rows = options_.max_rows;
  request.min_context = std::min(options_.min_context, options_.context);
  request.one_stage_a_machine = true;
  // A user who counts workers wants each of them to take part.
  request.require_all = options_.expect_workers > 0;
  for (const auto& [name, member] : members.members()) {
    if (drained_.contains(name)) continue;
    sharding::MachineProfile machine;
    machine.name = name;
    machine.memory_bytes = member.hello.memory_bytes;
    machine.base_bytes = member.hello.base_bytes;
    machine.threads = member.hello.threads;
    machine.speed = member.hello.speed;
    for (const net::DeviceHello& device : member.hello.devices) {
      machine.devices.push_back(
          {device.kind, device.name, device.memory_bytes, device.speed, device.fast_attention});
    }
    request.machines.push_back(std::move(machine));
  }
  return request;
}

double Placement::PredictedMs(const sharding::Plan& plan, size_t n_machines) const {
  // This is the planner's formula (sharding::MakePlan) with its own figures of the stages.
  const sharding::LinkProfile link;
  const double hidden_bits =
      8.0 * static_cast<double>(stage::Hidden::BytesFor(options_.numerics.wire, 1,
                                                        options_.manifest->shape.d_model));
  const double hop_ms = link.rtt_us / 2 * 1e-3 + hidden_bits / link.bandwidth_bps * 1e3;
  double sum_ms = 0, slowest_ms = 0;
  for (const sharding::PlannedStage& stage : plan.stages) {
    sum_ms += stage.ms_per_token + (&stage == &plan.stages.front() ? 0 : hop_ms);
    slowest_ms = std::max(slowest_ms, stage.ms_per_token);
  }
  const size_t sharing = std::max<size_t>(1, std::min<size_t>(options_.users, n_machines));
  const double weight =
      std::max(static_cast<double>(sharing - 1), options_.expect_workers > 0 ? 1.0 : 0.0);
  return sum_ms + weight * slowest_ms;
}

std::string Placement::WhyBetter(const sharding::Plan& made, size_t n_machines) const {
  if (!made.fits) return "";
  if (made.context != plan_.context) {
    if (made.context < plan_.context) return "";
    return absl::StrCat("a context of ", made.context, " tokens instead of ", plan_.context);
  }
  const uint32_t users = std::min(made.users, options_.users),
                 users_now = std::min(plan_.users, options_.users);
  if (users != users_now) {
    if (users < users_now) return "";
    return absl::StrCat("KV for ", users, " users of full context instead of ", users_now);
  }
  if (plan_.stages.size() < std::min<size_t>(made.stages.size(), options_.expect_workers)) {
    return absl::StrCat(made.stages.size(), " of the ", options_.expect_workers,
                        " workers asked for take part instead of ", plan_.stages.size());
  }
  const double ms = PredictedMs(made, n_machines), ms_now = PredictedMs(plan_, n_machines);
  if (!(ms_now > 0) || ms > (1 - options_.improve_by) * ms_now) return "";
  return absl::StrFormat("a predicted time of %.0f %% of what it is", 100 * ms / ms_now);
}

PlacementActions Placement::Improve(const Membership& members, TimeNs now, bool quiet) {
  PlacementActions actions;
  if (members_changed_) {
    if (now < joined_at_ + options_.settle)
      return actions;  // a worker that comes back often comes with others
    members_changed_ = false;
    better_.reset();
    absl::StatusOr<sharding::Plan> made = options_.make_plan(RequestFor(members));
    if (!made.ok()) return actions;
    std::string why = WhyBetter(*made, CountUsable(members));
    if (why.empty()) return actions;
    actions.note = absl::StrCat("a better plan waits for a quiet moment: ", why);
    better_ = Better{*std::move(made), std::move(why)};
  }
  if (!better_ || !quiet || now - serving_since_ < options_.improve_every) return actions;
  const Better better = *std::exchange(better_, std::nullopt);
  const sharding::Plan before = plan_;
  const std::string why = absl::StrCat("planning again while no request runs: ", better.why);
  Lose(absl::UnavailableError(why), now);
  plan_ = better.plan;
  RememberDevices(members);
  ++improvements_;
  actions = Assign(members, now);
  fallback_ = before;
  actions.lost = absl::UnavailableError(why);
  actions.by_choice = true;
  return actions;
}

size_t Placement::CountUsable(const Membership& members) const {
  return static_cast<size_t>(
      std::count_if(members.members().begin(), members.members().end(),
                    [this](const auto& m) { return !drained_.contains(m.first); }));
}

bool Placement::HasStage(const std::string& name) const {
  return std::any_of(stages_.begin(), stages_.end(),
                     [&](const auto& s) { return s.planned.machine == name; });
}

std::string Placement::WhyNoPlan(const absl::StatusOr<sharding::Plan>& made) const {
  std::string out = made.ok() ? Join(made->why) : Str(made.status().message());
  for (const std::string& name : drained_) {
    absl::StrAppend(&out, "; '", name, "' is drained (`lanyard node drain --disable ", name,
                    "` takes it back)");
  }
  return out;
}

absl::Status Placement::Drain(const std::string& name, const Membership& members) {
  if (drained_.contains(name)) return absl::OkStatus();
  drained_.insert(name);
  std::optional<sharding::Plan> without;
  if (HasStage(name)) {
    absl::StatusOr<sharding::Plan> made = options_.make_plan(RequestFor(members));
    if (!made.ok() || !made->fits) {
      drained_.erase(name);
      return FailedPrecondition(
          "'", name,
          "' is needed and goes on serving; the others cannot hold the model: ", WhyNoPlan(made));
    }
    without = *std::move(made);
  }
  OnChange();
  better_.reset();
  awaited_.erase(name);
  move_plan_ = std::move(without);
  return absl::OkStatus();
}

void Placement::Undrain(const std::string& name, TimeNs now) {
  if (drained_.erase(name) == 0) return;
  OnChange();
  joined_at_ = now;
}

std::string Placement::WhyNotUsed(const std::string& name) const {
  if (drained_.contains(name)) {
    const std::string back =
        absl::StrCat("; `lanyard node drain --disable ", name, "` takes it back");
    if (!HasStage(name)) {
      return absl::StrCat("an administrator drained it, so no plan gives it layers", back);
    }
    return absl::StrCat("an administrator drained it, ",
                        move_blocked_ ? "but the other workers cannot take over its layers yet"
                                      : "and its layers go to other workers",
                        back);
  }
  if (HasStage(name)) return "";
  const auto uses = [&](const sharding::Plan& plan) {
    return std::any_of(plan.stages.begin(), plan.stages.end(),
                       [&](const auto& s) { return s.machine == name; });
  };
  switch (state_) {
    case PlacementState::kWaiting:
    case PlacementState::kNoFit:
      return absl::StrCat("nothing is served now: ", why_);
    case PlacementState::kLoading:
      return "the plan that is being loaded does without it; once the pool serves, it is "
             "considered "
             "again";
    case PlacementState::kServing:
      break;
  }
  if (better_ && uses(better_->plan)) {
    return absl::StrCat("it gets layers when no request runs, because that gives ", better_->why);
  }
  if (members_changed_) {
    return "the pool serves without it, and soon looks whether a plan with it is better";
  }
  return "the pool serves without it, and no plan with it is enough better to interrupt the "
         "service; it takes over when a worker that has layers leaves";
}

bool Placement::wants_move() const {
  return state_ == PlacementState::kServing && !move_blocked_ &&
         std::any_of(drained_.begin(), drained_.end(),
                     [this](const std::string& name) { return HasStage(name); });
}

PlacementActions Placement::Move(const Membership& members, TimeNs now, bool idle) {
  PlacementActions actions;
  if (!wants_move()) return actions;
  if (!move_plan_) {
    absl::StatusOr<sharding::Plan> made = options_.make_plan(RequestFor(members));
    if (!made.ok() || !made->fits) {
      move_blocked_ = true;
      actions.note = absl::StrCat(
          "drained workers go on serving until the others can hold the model: ", WhyNoPlan(made));
      return actions;
    }
    move_plan_ = *std::move(made);
  }
  if (!idle && move_plan_->context < plan_.context) return actions;
  std::string why = "the layers of drained workers go to others:";
  for (const AssignedStage& stage : stages_) {
    if (drained_.contains(stage.planned.machine))
      absl::StrAppend(&why, " ", Describe(stage.planned));
  }
  const sharding::Plan plan = *std::exchange(move_plan_, std::nullopt), before = plan_;
  Lose(absl::UnavailableError(why), now);
  plan_ = plan;
  RememberDevices(members);
  ++moves_;
  actions = Assign(members, now);
  moving_ = true;
  fallback_ = before;
  actions.lost = absl::UnavailableError(why);
  actions.by_choice = true;
  actions.carry = true;
  return actions;
}

PlacementActions Placement::Assign(const Membership& members, TimeNs now) {
  PlacementActions actions;
  members_changed_ = false;
  // The old cut is kept while it still can be: the workers that stayed have its weights already.
  if (!OldPlanStillFits(members)) {
    absl::StatusOr<sharding::Plan> made = options_.make_plan(RequestFor(members));
    if (!made.ok() || !made->fits) {
      why_ = WhyNoPlan(made);
      state_ = PlacementState::kNoFit;
      return actions;
    }
    plan_ = *std::move(made);
    RememberDevices(members);
  }
  planned_once_ = true;
  not_before_ = 0;
  epoch_ = Epoch(epoch_.value + 1);
  actions.new_epoch = epoch_;
  stages_.clear();
  const uint32_t n = static_cast<uint32_t>(plan_.stages.size());
  for (uint32_t i = 0; i < n; ++i) {
    const sharding::PlannedStage& planned = plan_.stages[i];
    AssignedStage& stage = stages_.emplace_back();
    stage.planned = planned;
    stage.link = members.FindByName(planned.machine)->link;
    net::Assignment assignment;
    stage::StageSpec& spec = assignment.spec;
    spec.plan = plan_id();
    spec.epoch = epoch_;
    spec.index = i;
    spec.n_stages = n;
    spec.numerics = options_.numerics;
    spec.layers = planned.layers;
    spec.embeds = planned.embeds;
    spec.samples = planned.samples;
    spec.group_blocks = plan_.group_blocks;
    spec.max_context = plan_.context;
    spec.max_rows = options_.max_rows;
    assignment.manifest = options_.manifest;
    if (i + 1 < n) {
      assignment.next_worker = plan_.stages[i + 1].machine;
      const net::WorkerHello& next = members.FindByName(assignment.next_worker)->hello;
      assignment.next_address = next.stage_address;
      assignment.next_node = next.node;
    }
    assignment.from_node = i == 0 ? options_.coordinator_node
                                  : members.FindByName(plan_.stages[i - 1].machine)->hello.node;
    holding_.erase(planned.machine);
    actions.assign.push_back({stage.link, std::move(assignment)});
  }
  for (const auto& [name, plan] : holding_) {
    if (const Member* member = members.FindByName(name)) {
      actions.release.push_back({member->link, plan});
    }
  }
  holding_.clear();
  state_ = PlacementState::kLoading;
  why_ = absl::StrCat("loading ", n, n == 1 ? " stage" : " stages");
  last_progress_ = now;
  return actions;
}

}  // namespace lanyard::coordinator
