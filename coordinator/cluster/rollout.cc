#include "coordinator/cluster/rollout.h"

#include <algorithm>
#include <cmath>
#include <utility>

#include "coordinator/cluster/rollout_stages.h"

namespace lanyard::coordinator {
namespace {

std::string Join(const std::vector<std::string>& parts) {
  std::string out;
  for (const std::string& part : parts) absl::StrAppend(&out, out.empty() ? "" : "; ", part);
  return out;
}

// Whether two machines without cards can do each other's stage about as fast as their own.
bool Alike(const net::WorkerHello& a, const sharding::PlannedStage& of_a, const net::WorkerHello& b,
           const sharding::PlannedStage& of_b, const Pace& pace) {
  constexpr double kAsFast = 0.1;
  const auto holds = [](const net::WorkerHello& hello, const sharding::PlannedStage& stage) {
    return hello.memory_bytes >= hello.base_bytes &&
           hello.memory_bytes - hello.base_bytes >= BytesOf(stage);
  };
  const double of_one = a.speed / pace.Slowness(a.name), other = b.speed / pace.Slowness(b.name);
  return a.devices.empty() && b.devices.empty() && a.threads == b.threads &&
         std::abs(of_one - other) <= kAsFast * std::max(of_one, other) && holds(a, of_b) &&
         holds(b, of_a);
}

}  // namespace

Rollout::Rollout(RolloutOptions options)
    : options_(std::move(options)),
      phase_(Waiting{.why = "no worker has joined yet"}),
      epoch_(options_.last_epoch),
      last_epoch_(options_.last_epoch) {}

std::string Rollout::why() const {
  if (const auto* waiting = std::get_if<Waiting>(&phase_)) return waiting->why;
  if (const auto* none = std::get_if<NoFit>(&phase_)) return none->why;
  if (const auto* loading = std::get_if<Loading>(&phase_)) {
    const size_t n = loading->stages.size();
    return absl::StrCat("loading ", n, n == 1 ? " stage" : " stages");
  }
  return "";
}

std::vector<AssignedStage>* Rollout::MutableStages() {
  if (auto* loading = std::get_if<Loading>(&phase_)) return &loading->stages;
  if (auto* serving = std::get_if<Serving>(&phase_)) return &serving->stages;
  return nullptr;
}

std::optional<TimeNs> Rollout::ReadyIn(TimeNs now) const {
  const auto* loading = std::get_if<Loading>(&phase_);
  if (loading == nullptr) return std::nullopt;
  TimeNs last = 0;
  for (const AssignedStage& stage : loading->stages) {
    if (stage.ready) continue;
    const uint64_t done = stage.progress.done_bytes, total = stage.progress.total_bytes;
    const TimeNs took = stage.progress_at - stage.assigned_at;
    if (done == 0 || total < done || took <= 0) return std::nullopt;
    const double whole =
        static_cast<double>(took) * static_cast<double>(total) / static_cast<double>(done);
    last = std::max(last, stage.assigned_at + static_cast<TimeNs>(whole) - now);
  }
  return last;
}

const std::vector<AssignedStage>& Rollout::stages() const {
  static const std::vector<AssignedStage> none;
  const auto* stages = const_cast<Rollout*>(this)->MutableStages();
  return stages != nullptr ? *stages : none;
}

AssignedStage* Rollout::StageOf(net::LinkId link) {
  std::vector<AssignedStage>* stages = MutableStages();
  return stages == nullptr ? nullptr : OfLink(stages, link);
}

bool Rollout::HasStage(const std::string& name) const {
  return std::any_of(stages().begin(), stages().end(),
                     [&](const auto& stage) { return stage.planned.machine == name; });
}

bool Rollout::moving() const {
  const auto* loading = std::get_if<Loading>(&phase_);
  return loading != nullptr && loading->moving;
}

void Rollout::OnJoined(const std::string& name, TimeNs now) {
  joined_at_ = now;
  if (auto* waiting = std::get_if<Waiting>(&phase_)) waiting->awaited.erase(name);
  if (!planned_once_) not_before_ = now + options_.settle;
}

RolloutActions Rollout::OnGone(const Member& member, Departure how, std::string_view why,
                               const ClusterView& view, TimeNs now) {
  const std::string& name = member.hello.name;
  in_memory_.erase(name);
  holding_.erase(name);
  RolloutActions actions;
  auto* serving = std::get_if<Serving>(&phase_);
  if (serving != nullptr && serving->beside && Uses(serving->beside->plan, name)) {
    const std::string lost = absl::StrCat("worker '", name, "' was lost: ", AbslView(why));
    actions = DropBeside(serving, lost, name, now);
  }
  if (const AssignedStage* stage = StageOf(member.link)) {
    absl::Status lost = Unavailable(Describe(stage->planned), " was lost: ", AbslView(why));
    if (WantsTake()) {  // without it
      actions = Take(view, now);
      actions.lost = std::move(lost);
      actions.loss = how == Departure::kBroke ? Loss::kBroke : Loss::kMachine;
      std::erase_if(actions.release, [&](const auto& r) { return r.link == member.link; });
      return actions;
    }
    RolloutActions losing = Lose(std::move(lost), view, now);
    losing.release.insert(losing.release.end(), actions.release.begin(), actions.release.end());
    if (losing.note.empty()) losing.note = std::move(actions.note);
    actions = std::move(losing);
    if (how != Departure::kBroke) actions.loss = Loss::kMachine;
    holding_.erase(name);
  }
  // This holds also when its neighbour noticed first and the stages are gone already.
  auto* waiting = std::get_if<Waiting>(&phase_);
  if (waiting != nullptr && MayReturn(how) && planned_once_ && Uses(plan_, name) &&
      !view.drained.contains(name)) {
    waiting->awaited.insert(name);
    waiting->awaited_until = now + options_.return_wait;
  }
  return actions;
}

RolloutActions Rollout::Lose(absl::Status why, const ClusterView& view, TimeNs now) {
  RolloutActions actions;
  for (const AssignedStage& stage : stages()) holding_[stage.planned.machine] = plan_id_;
  std::optional<sharding::Plan> fallback;
  if (auto* loading = std::get_if<Loading>(&phase_)) {
    fallback = std::move(loading->fallback);
    if (loading->moving) {
      kept_ = view.drained;
      kept_of_ = view.revision;
      actions.note =
          "the plan without the drained workers did not come to serve; they keep their layers "
          "until something changes";
    }
  } else if (auto* serving = std::get_if<Serving>(&phase_)) {
    if (serving->beside) actions = DropBeside(serving, StdView(why.message()), "", now);
    fallback = std::move(serving->fallback);
  }
  if (fallback) {
    // The chosen plan did not come to serve: we go back to the one that did.
    plan_ = *std::move(fallback);
    new_cut_ = true;
  }
  last_failure_ = Str(why.message());
  phase_ = Waiting{.why = last_failure_};
  if (lost_since_ == 0) lost_since_ = now;
  actions.lost = std::move(why);
  return actions;
}

void Rollout::BackOff(TimeNs now) {
  // A plan that served for a while and then failed starts again with a short delay.
  const auto* serving = std::get_if<Serving>(&phase_);
  if (serving != nullptr && now - serving->since >= options_.retry_most) retry_delay_ = 0;
  retry_delay_ =
      retry_delay_ == 0 ? options_.retry_first : std::min(2 * retry_delay_, options_.retry_most);
  not_before_ = now + retry_delay_;
}

void Rollout::OnProgress(net::LinkId link, const net::LoadProgress& progress, TimeNs now) {
  AssignedStage* stage = StageOf(link);
  auto* serving = std::get_if<Serving>(&phase_);
  if (serving != nullptr && serving->beside && progress.plan == serving->beside->plan_id) {
    stage = OfLink(&serving->beside->stages, link);
  } else if (progress.plan != plan_id_) {
    return;
  }
  if (stage == nullptr) return;
  if (progress.done_bytes != stage->progress.done_bytes) stage->progress_at = now;
  stage->progress = progress;
}

RolloutActions Rollout::OnReady(net::LinkId link, const net::StageReady& ready, TimeNs now) {
  auto* loading = std::get_if<Loading>(&phase_);
  AssignedStage* stage = nullptr;
  if (IsBeside(ready.plan, ready.epoch)) {
    stage = OfLink(&std::get<Serving>(phase_).beside->stages, link);
  } else if (loading != nullptr && Current(ready.plan, ready.epoch)) {
    stage = StageOf(link);
  }
  if (stage == nullptr) return {};
  stage->ready = true;
  stage->answer = ready;
  std::set<uint32_t>& fetched = fetched_[stage->planned.machine];
  for (uint32_t l = stage->planned.layers.begin; l < stage->planned.layers.end; ++l)
    fetched.insert(l);
  RolloutActions actions;
  if (loading == nullptr) return actions;  // see WantsTake
  in_memory_[stage->planned.machine] = stage->planned.layers;
  if (!std::all_of(loading->stages.begin(), loading->stages.end(),
                   [](const auto& s) { return s.ready; })) {
    return actions;
  }
  Serving serving;
  serving.stages = std::move(loading->stages);
  serving.since = now;
  serving.fallback = std::move(loading->fallback);
  serving.considered = loading->revision;
  phase_ = std::move(serving);
  last_failure_.clear();
  lost_since_ = 0;
  actions.serve = true;
  return actions;
}

void Rollout::OnProven() {
  if (auto* serving = std::get_if<Serving>(&phase_)) serving->fallback.reset();
}

RolloutActions Rollout::OnFailed(net::LinkId link, const net::StageFailed& failed,
                                 const ClusterView& view, TimeNs now) {
  if (IsBeside(failed.plan, failed.epoch)) {
    auto& serving = std::get<Serving>(phase_);
    const AssignedStage* beside = OfLink(&serving.beside->stages, link);
    if (beside == nullptr) return {};
    const std::string why = absl::StrCat(
        Describe(beside->planned), " could not make its stage ready: ", failed.status.message());
    return DropBeside(&serving, why, "", now);
  }
  const AssignedStage* stage = StageOf(link);
  if (stage == nullptr || !Current(failed.plan, failed.epoch)) return {};
  BackOff(now);
  return Lose(Unavailable(Describe(stage->planned),
                          " could not make its stage ready: ", failed.status.message()),
              view, now);
}

RolloutActions Rollout::OnFault(const absl::Status& why, const ClusterView& view, TimeNs now) {
  if (stages().empty()) return {};
  BackOff(now);
  return Lose(why, view, now);
}

std::string Rollout::WaitsFor(Waiting* waiting, const ClusterView& view, TimeNs now) {
  const size_t n = CountUsable(view);
  if (n == 0 && !view.members.members().empty()) return "every worker that is here is drained";
  if (n == 0) return last_failure_.empty() ? "no worker has joined yet" : last_failure_;
  if (!planned_once_) {
    if (options_.expect_workers > 0) {
      // The drained ones among the expected workers do not take part.
      const size_t expect = options_.expect_workers -
                            std::min<size_t>(view.drained.size(), options_.expect_workers - 1);
      if (n >= expect) return "";
      return absl::StrCat(n, " of ", expect, " workers have joined");
    }
    if (now < not_before_) return absl::StrCat(n, " workers have joined; waiting for more");
    return "";
  }
  if (now >= waiting->awaited_until) waiting->awaited.clear();
  std::erase_if(waiting->awaited, [&](const std::string& name) {
    return view.members.FindByName(name) != nullptr || !Uses(plan_, name);
  });
  if (!waiting->awaited.empty() && waiting->no_better == view.revision)
    return absl::StrCat(last_failure_, "; waiting for it to come back");
  if (now < not_before_) return last_failure_;
  return "";
}

RolloutActions Rollout::Poll(const ClusterView& view, TimeNs now, bool quiet) {
  if (kept_of_ != view.revision) kept_.clear();
  if (!drain_wishes_.empty() && !job_) {
    Job job{.purpose = Purpose::kDrain, .drain = drain_wishes_.front()};
    drain_wishes_.pop_front();
    return StartJob(std::move(job), view, now);
  }
  if (auto* serving = std::get_if<Serving>(&phase_)) {
    if (!WantsMove(view)) return Improve(serving, view, now, quiet);
    if (serving->beside) {
      serving->considered = 0;  // afterwards it is looked for again
      return EndBeside(serving);
    }
    if (job_ || serving->without_drained_of == view.revision) return {};
    return StartJob({.purpose = Purpose::kMove}, view, now);
  }
  if (auto* loading = std::get_if<Loading>(&phase_)) {
    for (const AssignedStage& stage : loading->stages) {
      if (stage.ready || now < stage.progress_at + options_.load_stall) continue;
      BackOff(now);
      return Lose(Unavailable(Describe(stage.planned), " neither loads nor answers"), view, now);
    }
    return {};
  }
  if (const auto* none = std::get_if<NoFit>(&phase_)) {
    if (none->revision == view.revision) return {};
    phase_ = Waiting{.why = none->why};
  }
  auto& waiting = std::get<Waiting>(phase_);
  std::string waits = WaitsFor(&waiting, view, now);
  if (!waits.empty()) {
    waiting.why = std::move(waits);
    return {};
  }
  // The old cut is kept while it still can be: the workers that stayed have its weights already.
  if (StillFits(plan_, view) && !UsesBenched(plan_, view, now)) return Assign(view, now);
  if (Planning(Purpose::kAssign)) return {};
  if (last_failure_.empty()) waiting.why = "planning";
  return StartJob({.purpose = Purpose::kAssign, .from = From::kWithLayers}, view, now);
}

void Rollout::RememberDevices(const Membership& members) {
  planned_devices_.clear();
  for (const auto& [name, member] : members.members())
    planned_devices_[name] = member.hello.devices;
}

// Says whether the cards that the plan puts layers on have about as much memory as then: other
// programs on the same desk take a little more or less every time.
bool Rollout::DevicesStillHave(const sharding::PlannedStage& stage, const Member& member) const {
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

bool Rollout::StillFits(const sharding::Plan& plan, const ClusterView& view) const {
  if (!plan.fits || plan.stages.empty()) return false;
  std::map<std::string, uint64_t> planned_bytes;
  for (const sharding::PlannedStage& stage : plan.stages) {
    planned_bytes[stage.machine] += BytesOf(stage);
    const Member* member = view.members.FindByName(stage.machine);
    if (member != nullptr && !DevicesStillHave(stage, *member)) return false;
  }
  for (const auto& [name, bytes] : planned_bytes) {
    const Member* member = view.members.FindByName(name);
    if (member == nullptr || (view.drained.contains(name) && !kept(name))) return false;
    // A restarted worker's own code takes a little more or less than last time.
    uint64_t limit = member->hello.memory_bytes;
    for (const net::DeviceHello& device : member->hello.devices) limit += device.memory_bytes;
    if (bytes > limit || limit - bytes < member->hello.base_bytes) return false;
  }
  return true;
}

bool Rollout::UsesBenched(const sharding::Plan& plan, const ClusterView& view, TimeNs now) {
  return std::any_of(plan.stages.begin(), plan.stages.end(),
                     [&](const auto& stage) { return view.health.Benched(stage.machine, now); });
}

sharding::PlanRequest Rollout::RequestFor(const Job& job, const ClusterView& view, TimeNs now,
                                          bool* left_out) const {
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
  for (const auto& [name, member] : view.members.members()) {
    if (view.drained.contains(name) || name == job.drain) continue;
    const bool has_had_layers = fetched_.contains(name);
    if ((job.from == From::kWithLayers && !has_had_layers) ||
        (job.from != From::kAll && view.health.Benched(name, now))) {
      *left_out = true;
      continue;
    }
    sharding::MachineProfile machine;
    machine.name = name;
    machine.memory_bytes = member.hello.memory_bytes;
    machine.base_bytes = member.hello.base_bytes;
    machine.threads = member.hello.threads;
    machine.speed = member.hello.speed;
    machine.slowness = view.health.pace().Slowness(name);
    machine.losses = view.health.LossesLately(name, now);
    for (const net::DeviceHello& device : member.hello.devices) {
      machine.devices.push_back(
          {device.kind, device.name, device.memory_bytes, device.speed, device.fast_attention});
    }
    request.machines.push_back(std::move(machine));
  }
  return request;
}

RolloutActions Rollout::StartJob(Job job, const ClusterView& view, TimeNs now) {
  // A drain that was being judged is judged again later.
  if (job_ && job_->purpose == Purpose::kDrain) drain_wishes_.push_front(job_->drain);
  RolloutActions actions;
  PlanJob& out = actions.plan.emplace();
  job.id = out.id = next_job_++;
  job.revision = view.revision;
  out.manifest = options_.manifest;
  out.request = RequestFor(job, view, now, &job.left_out);
  while (out.request.machines.empty() && job.left_out && job.from != From::kAll) {
    job.from = Wider(job.from);
    job.left_out = false;
    out.request = RequestFor(job, view, now, &job.left_out);
  }
  job_ = std::move(job);
  return actions;
}

RolloutActions Rollout::OnPlanned(uint64_t id, const absl::StatusOr<sharding::Plan>& made,
                                  const ClusterView& view, TimeNs now) {
  if (!job_ || job_->id != id) return {};
  Job job = *std::exchange(job_, std::nullopt);
  const bool fits = made.ok() && made->fits;
  // Without a newcomer nothing may be lost but time.
  const bool enough = fits && (job.from != From::kWithLayers || made->context >= plan_.context);
  if (!enough && job.left_out && job.from != From::kAll) {
    job.from = Wider(job.from);
    job.left_out = false;
    return StartJob(std::move(job), view, now);
  }
  auto* serving = std::get_if<Serving>(&phase_);
  switch (job.purpose) {
    case Purpose::kAssign:
      return OnPlanToAssign(job, made, view, now);
    case Purpose::kDrain: {
      RolloutActions actions;
      absl::Status status;
      if (!fits && HasStage(job.drain)) {
        status = FailedPrecondition(
            "'", job.drain, "' is needed and goes on serving; the others cannot hold the model: ",
            WhyNoPlan(made, view));
      }
      actions.drain = {job.drain, std::move(status)};
      return actions;
    }
    case Purpose::kImprove: {
      if (serving == nullptr) return {};
      serving->considered = job.revision;
      serving->candidate.reset();
      std::string why = fits ? WhyBetter(*made, view) : "";
      if (why.empty()) return {};
      sharding::Plan plan = *made;
      KeepLayersInPlace(&plan, view);
      RolloutActions actions;
      if (HowBeside(plan, view) == net::AssignMode::kInstead)
        actions.note = absl::StrCat("a better plan waits for a quiet moment: ", why);
      serving->candidate = {std::move(plan), std::move(why)};
      return actions;
    }
    case Purpose::kMove: {
      if (serving == nullptr || job.revision != view.revision) return {};
      serving->without_drained_of = job.revision;
      serving->without_drained.reset();
      if (fits) {
        serving->without_drained = *made;
        return {};
      }
      RolloutActions actions;
      actions.note =
          absl::StrCat("drained workers go on serving until the others can hold the model: ",
                       WhyNoPlan(made, view));
      return actions;
    }
  }
  return {};
}

RolloutActions Rollout::OnPlanToAssign(const Job& job, const absl::StatusOr<sharding::Plan>& made,
                                       const ClusterView& view, TimeNs now) {
  auto* waiting = std::get_if<Waiting>(&phase_);
  if (waiting == nullptr) return {};
  const bool fits = made.ok() && made->fits;
  if (!waiting->awaited.empty()) {
    // What the others would have to fetch decides whether waiting for the lost ones is quicker.
    if (!fits || LoadTime(*made) > waiting->awaited_until - now) {
      waiting->no_better = job.revision;
      return {};
    }
  }
  if (!fits) {
    // Others may have come or gone meanwhile: then Poll asks again.
    if (job.revision == view.revision) phase_ = NoFit{WhyNoPlan(made, view), view.revision};
    return {};
  }
  sharding::Plan plan = *made;
  KeepLayersInPlace(&plan, view);
  SetPlan(plan, view.members);
  if (!StillFits(plan_, view)) return {};
  RolloutActions actions = Assign(view, now);
  // Once it serves, a plan with all of them is looked for.
  if (job.from == From::kWithLayers && job.left_out) std::get<Loading>(phase_).revision = 0;
  return actions;
}

uint32_t Rollout::Kept(const std::string& machine, stage::LayerRange layers) const {
  uint32_t kept = 0;
  const auto memory = in_memory_.find(machine);
  const auto disk = fetched_.find(machine);
  for (uint32_t l = layers.begin; l < layers.end; ++l) {
    // Reading a layer from the disk costs about as much again as fetching it.
    if (memory != in_memory_.end() && memory->second.begin <= l && l < memory->second.end)
      kept += 2;
    else if (disk != fetched_.end() && disk->second.contains(l))
      kept += 1;
  }
  return kept;
}

void Rollout::KeepLayersInPlace(sharding::Plan* plan, const ClusterView& view) const {
  std::vector<sharding::PlannedStage>& stages = plan->stages;
  // Each change of places keeps more than before, so that it ends.
  for (bool changed = true; changed;) {
    changed = false;
    for (size_t i = 0; i < stages.size(); ++i) {
      for (size_t j = i + 1; j < stages.size(); ++j) {
        sharding::PlannedStage &a = stages[i], &b = stages[j];
        const Member* const on_a = view.members.FindByName(a.machine);
        const Member* const on_b = view.members.FindByName(b.machine);
        if (on_a == nullptr || on_b == nullptr ||
            !Alike(on_a->hello, a, on_b->hello, b, view.health.pace()))
          continue;
        if (Kept(a.machine, b.layers) + Kept(b.machine, a.layers) <=
            Kept(a.machine, a.layers) + Kept(b.machine, b.layers))
          continue;
        std::swap(a.machine, b.machine);
        std::swap(a.base_bytes, b.base_bytes);
        std::swap(a.limit_bytes, b.limit_bytes);
        changed = true;
      }
    }
  }
}

TimeNs Rollout::LoadTime(const sharding::Plan& plan) const {
  double most = 0;
  for (const sharding::PlannedStage& stage : plan.stages) {
    if (stage.layers.size() == 0) continue;
    uint32_t fresh = 0;
    const auto it = fetched_.find(stage.machine);
    for (uint32_t l = stage.layers.begin; l < stage.layers.end; ++l)
      fresh += it == fetched_.end() || !it->second.contains(l);
    most = std::max(most, static_cast<double>(stage.gguf_bytes) * fresh / stage.layers.size());
  }
  return static_cast<TimeNs>(most / options_.load_bytes_per_second * kSecond);
}

RolloutActions Rollout::Change(const sharding::Plan& plan, const std::string& why, bool moving,
                               const ClusterView& view, TimeNs now) {
  const sharding::Plan before = plan_;
  const RolloutActions losing = Lose(absl::UnavailableError(why), view, now);
  SetPlan(plan, view.members);
  RolloutActions actions = Assign(view, now);
  actions.release.insert(actions.release.end(), losing.release.begin(), losing.release.end());
  auto& loading = std::get<Loading>(phase_);
  loading.fallback = before;
  loading.moving = moving;
  actions.lost = absl::UnavailableError(why);
  actions.loss = Loss::kChosen;
  return actions;
}

size_t Rollout::CountUsable(const ClusterView& view) const {
  const auto& members = view.members.members();
  return static_cast<size_t>(std::count_if(members.begin(), members.end(), [&](const auto& m) {
    return !view.drained.contains(m.first);
  }));
}

std::string Rollout::WhyNoPlan(const absl::StatusOr<sharding::Plan>& made,
                               const ClusterView& view) const {
  std::string out = made.ok() ? Join(made->why) : Str(made.status().message());
  for (const std::string& name : view.drained) {
    absl::StrAppend(&out, "; '", name, "' is drained (`lanyard node drain --disable ", name,
                    "` takes it back)");
  }
  return out;
}

std::string Rollout::WhyNotUsed(const std::string& name, const ClusterView& view,
                                TimeNs now) const {
  const auto* serving = std::get_if<Serving>(&phase_);
  if (view.drained.contains(name)) {
    const std::string back =
        absl::StrCat("; `lanyard node drain --disable ", name, "` takes it back");
    if (!HasStage(name)) {
      return absl::StrCat("an administrator drained it, so no plan gives it layers", back);
    }
    const bool stuck = kept(name) || (serving != nullptr && !WantsMove(view));
    return absl::StrCat("an administrator drained it, ",
                        stuck ? "but the other workers cannot take over its layers yet"
                              : "and its layers go to other workers",
                        back);
  }
  if (HasStage(name)) return "";
  if (view.health.Benched(name, now)) {
    const HealthRecord& record = *view.health.Find(name);
    return absl::StrCat(
        "it could not make its stage ready ", record.load_failures,
        " times, so plans leave it out for another ", (record.benched_until - now) / kSecond + 1,
        " s where the others can hold the model: ", record.why, "; ", TextOf(record.cause).next);
  }
  if (std::holds_alternative<Loading>(phase_)) {
    return "the plan that is being loaded does without it; once the pool serves, it is considered "
           "again";
  }
  if (serving == nullptr) return absl::StrCat("nothing is served now: ", why());
  if (serving->beside && Uses(serving->beside->plan, name)) {
    return serving->beside->mode == net::AssignMode::kBeside
               ? "its layers are loaded while the pool serves without it; it takes part when every "
                 "machine of the better plan is ready"
               : "its weights are fetched while the pool serves without it; it gets layers when no "
                 "request runs";
  }
  if (serving->candidate && Uses(serving->candidate->plan, name)) {
    return absl::StrCat("it gets layers when no request runs, because that gives ",
                        serving->candidate->why);
  }
  if (serving->considered != view.revision) {
    return "the pool serves without it, and soon looks whether a plan with it is better";
  }
  return "the pool serves without it, and no plan with it is enough better to interrupt the "
         "service; it takes over when a worker that has layers leaves";
}

bool Rollout::WantsMove(const ClusterView& view) const {
  const auto* serving = std::get_if<Serving>(&phase_);
  if (serving == nullptr || (kept_of_ == view.revision && !kept_.empty())) return false;
  // There is no plan without them until something changes.
  if (serving->without_drained_of == view.revision && !serving->without_drained) return false;
  return std::any_of(view.drained.begin(), view.drained.end(),
                     [this](const std::string& name) { return HasStage(name); });
}

uint32_t Rollout::move_context() const {
  const auto* serving = std::get_if<Serving>(&phase_);
  return serving != nullptr && serving->without_drained ? serving->without_drained->context : 0;
}

RolloutActions Rollout::Move(const ClusterView& view, TimeNs now) {
  auto* serving = std::get_if<Serving>(&phase_);
  if (!WantsMove(view) || !serving->without_drained) return {};
  const sharding::Plan plan = *std::exchange(serving->without_drained, std::nullopt);
  if (!StillFits(plan, view)) {
    serving->without_drained_of = 0;
    return {};
  }
  std::string why = "the layers of drained workers go to others:";
  for (const AssignedStage& stage : serving->stages) {
    if (view.drained.contains(stage.planned.machine))
      absl::StrAppend(&why, " ", Describe(stage.planned));
  }
  ++moves_;
  return Change(plan, why, /*moving=*/true, view, now);
}

void Rollout::SetPlan(const sharding::Plan& plan, const Membership& members) {
  plan_ = plan;
  new_cut_ = true;
  RememberDevices(members);
}

net::Assignment Rollout::AssignmentOf(const Numbered& numbered, uint32_t index,
                                      const Membership& members) const {
  const sharding::Plan& plan = numbered.plan;
  const uint32_t n = static_cast<uint32_t>(plan.stages.size());
  const sharding::PlannedStage& planned = plan.stages[index];
  net::Assignment assignment;
  assignment.mode = numbered.mode;
  stage::StageSpec& spec = assignment.spec;
  spec.plan = numbered.id;
  spec.epoch = numbered.epoch;
  spec.index = index;
  spec.n_stages = n;
  spec.numerics = options_.numerics;
  spec.layers = planned.layers;
  spec.embeds = planned.embeds;
  spec.samples = planned.samples;
  spec.group_blocks = plan.group_blocks;
  spec.max_context = plan.context;
  spec.max_rows = options_.max_rows;
  assignment.manifest = options_.manifest;
  if (index + 1 < n) {
    assignment.next_worker = plan.stages[index + 1].machine;
    const net::WorkerHello& next = members.FindByName(assignment.next_worker)->hello;
    assignment.next_address = next.stage_address;
    assignment.next_node = next.node;
  }
  assignment.from_node = index == 0
                             ? options_.coordinator_node
                             : members.FindByName(plan.stages[index - 1].machine)->hello.node;
  return assignment;
}

std::vector<AssignedStage> Rollout::AssignAll(const Numbered& numbered, const Membership& members,
                                              TimeNs now, RolloutActions* actions) const {
  std::vector<AssignedStage> out;
  for (uint32_t i = 0; i < numbered.plan.stages.size(); ++i) {
    AssignedStage& stage = out.emplace_back();
    stage.planned = numbered.plan.stages[i];
    stage.link = members.FindByName(stage.planned.machine)->link;
    stage.assigned_at = stage.progress_at = now;
    actions->assign.push_back({stage.link, AssignmentOf(numbered, i, members)});
  }
  return out;
}

RolloutActions Rollout::Assign(const ClusterView& view, TimeNs now) {
  RolloutActions actions;
  if (Planning(Purpose::kAssign)) job_.reset();
  planned_once_ = true;
  not_before_ = 0;
  epoch_ = last_epoch_ = Epoch(last_epoch_.value + 1);
  // Numbers of plans are never used again either, also not by a later coordinator.
  if (std::exchange(new_cut_, false)) plan_id_ = PlanId(epoch_.value);
  actions.new_epoch = epoch_;
  Loading loading;
  loading.revision = view.revision;
  loading.stages = AssignAll({plan_, plan_id_, epoch_}, view.members, now, &actions);
  for (const AssignedStage& stage : loading.stages) holding_.erase(stage.planned.machine);
  for (const auto& [name, plan] : holding_) {
    if (const Member* member = view.members.FindByName(name)) {
      actions.release.push_back({member->link, plan});
    }
    in_memory_.erase(name);
  }
  holding_.clear();
  phase_ = std::move(loading);
  return actions;
}

}  // namespace lanyard::coordinator
