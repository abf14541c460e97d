// How a rollout that serves finds a better plan, makes it ready beside the one that serves, and
// changes to it.
#include <algorithm>
#include <utility>

#include "coordinator/cluster/rollout.h"
#include "coordinator/cluster/rollout_stages.h"
#include "model/memory.h"

namespace lanyard::coordinator {
namespace {

// Bytes of weights that a machine without cards has in memory once while it holds both stages.
uint64_t SharedBytes(const model::Manifest& manifest, const sharding::PlannedStage& a,
                     const sharding::PlannedStage& b) {
  const auto duty = [](const sharding::PlannedStage& stage) {
    model::StageDuty out;
    out.layer_begin = stage.layers.begin;
    out.layer_end = stage.layers.end;
    out.samples = stage.samples;
    return out;
  };
  return model::SharedWeightsBytes(manifest, duty(a), duty(b));
}

// The plan's prediction with what is known of its machines' pace now.
sharding::Plan AsMeasured(const sharding::Plan& plan, const MachineHealth& health) {
  sharding::Plan out = plan;
  for (const sharding::PlannedStage& stage : plan.stages) {
    const double ms = stage.ms_per_token * health.pace().Slowness(stage.machine) / stage.slowness;
    out.token_ms += ms - stage.ms_per_token;
    out.slowest_ms = std::max(out.slowest_ms, ms);
  }
  return out;
}

}  // namespace

bool Rollout::Beside::ready() const {
  return std::all_of(stages.begin(), stages.end(), [](const auto& s) { return s.ready; });
}

bool Rollout::WantsTake() const {
  const auto* serving = std::get_if<Serving>(&phase_);
  return serving != nullptr && serving->beside &&
         serving->beside->mode == net::AssignMode::kBeside && serving->beside->ready();
}

const std::vector<AssignedStage>& Rollout::beside_stages() const {
  static const std::vector<AssignedStage> none;
  const auto* serving = std::get_if<Serving>(&phase_);
  return serving != nullptr && serving->beside ? serving->beside->stages : none;
}

bool Rollout::IsBeside(PlanId plan, Epoch epoch) const {
  const auto* serving = std::get_if<Serving>(&phase_);
  return serving != nullptr && serving->beside && serving->beside->plan_id == plan &&
         serving->beside->epoch == epoch;
}

std::string Rollout::WhyBetter(const sharding::Plan& made, const ClusterView& view) const {
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
  const sharding::Plan present = AsMeasured(plan_, view.health);
  const double ms = made.Objective(made.slowest_weight);
  const double ms_now = present.Objective(made.slowest_weight);
  if (!(ms_now > 0) || ms > (1 - options_.improve_by) * ms_now) return "";
  // Fewer machines are better by themselves, see Plan::Objective.
  const std::string machines =
      made.stages.size() < plan_.stages.size()
          ? absl::StrCat(made.stages.size(), " machines instead of ", plan_.stages.size(), " at ")
          : "";
  return absl::StrFormat(
      "%sa predicted time of %.0f %% of what it is", machines,
      100 * made.StepMs(made.slowest_weight) / present.StepMs(made.slowest_weight));
}

RolloutActions Rollout::Improve(Serving* serving, const ClusterView& view, TimeNs now, bool quiet) {
  if (serving->beside) return GoOnBeside(serving, view, now, quiet);
  const bool again = serving->look_again != 0 && now >= serving->look_again;
  if (serving->considered != view.revision || again) {
    // A worker that comes back often comes with others.
    if (job_ || now < joined_at_ + options_.settle) return {};
    serving->look_again = 0;
    return StartJob({.purpose = Purpose::kImprove}, view, now);
  }
  if (!serving->candidate) return {};
  const net::AssignMode mode = HowBeside(serving->candidate->plan, view);
  const bool beside = mode != net::AssignMode::kInstead;
  if (!beside && (!quiet || now - serving->since < options_.improve_every)) return {};
  if (!StillFits(serving->candidate->plan, view)) {
    serving->candidate.reset();
    return {};
  }
  if (beside) return LoadBeside(serving, mode, view, now);
  const Serving::Candidate candidate = *std::exchange(serving->candidate, std::nullopt);
  ++improvements_;
  return Change(candidate.plan,
                absl::StrCat("planning again while no request runs: ", candidate.why),
                /*moving=*/false, view, now);
}

// Every machine must hold its new stage beside its old one, or none does: then the weights are
// fetched, which is what takes long, and the plan waits for a quiet moment.
net::AssignMode Rollout::HowBeside(const sharding::Plan& plan, const ClusterView& view) const {
  net::AssignMode mode = net::AssignMode::kBeside;
  for (const sharding::PlannedStage& next : plan.stages) {
    const Member* member = view.members.FindByName(next.machine);
    if (member == nullptr || member->hello.protocol < net::kBesideProtocol)
      return net::AssignMode::kInstead;
    for (const AssignedStage& stage : stages()) {
      if (stage.planned.machine != next.machine) continue;
      if (!HoldsBoth(plan, stage.planned, next, member->hello)) mode = net::AssignMode::kFetch;
    }
  }
  return mode;
}

bool Rollout::HoldsBoth(const sharding::Plan& plan, const sharding::PlannedStage& has,
                        const sharding::PlannedStage& next, const net::WorkerHello& hello) const {
  // The same duty is done by the stage that is there.
  if (has.layers == next.layers && has.embeds == next.embeds && has.samples == next.samples &&
      plan.context == plan_.context && plan.group_blocks == plan_.group_blocks) {
    return true;
  }
  // What a card has left is not planned with, so the new stage would be a slow one.
  if (!hello.devices.empty()) return false;
  const uint64_t both = BytesOf(has) + BytesOf(next);
  const uint64_t shared = std::min(both, SharedBytes(*options_.manifest, has, next));
  return hello.base_bytes + both - shared <= hello.memory_bytes;
}

RolloutActions Rollout::LoadBeside(Serving* serving, net::AssignMode mode, const ClusterView& view,
                                   TimeNs now) {
  Serving::Candidate candidate = *std::exchange(serving->candidate, std::nullopt);
  Beside& beside = serving->beside.emplace(Beside{});
  beside.plan = std::move(candidate.plan);
  beside.why = std::move(candidate.why);
  beside.mode = mode;
  beside.epoch = last_epoch_ = Epoch(last_epoch_.value + 1);
  beside.plan_id = PlanId(beside.epoch.value);
  beside.revision = view.revision;
  RolloutActions actions;
  actions.new_epoch = beside.epoch;
  beside.stages =
      AssignAll({beside.plan, beside.plan_id, beside.epoch, mode}, view.members, now, &actions);
  actions.note = absl::StrCat(mode == net::AssignMode::kBeside
                                  ? "a better plan is loaded beside the one that serves: "
                                  : "the weights of a better plan are fetched while another one "
                                    "serves; it waits for a quiet moment: ",
                              beside.why);
  return actions;
}

RolloutActions Rollout::GoOnBeside(Serving* serving, const ClusterView& view, TimeNs now,
                                   bool quiet) {
  const Beside& beside = *serving->beside;
  for (const AssignedStage& stage : beside.stages) {
    if (stage.ready || now < stage.progress_at + options_.load_stall) continue;
    return DropBeside(serving, Describe(stage.planned) + " neither loads nor answers", "", now);
  }
  if (!StillFits(beside.plan, view))
    return DropBeside(serving, "its machines are not what they were", "", now);
  if (beside.mode != net::AssignMode::kFetch || !beside.ready()) return {};
  if (beside.revision != view.revision) return EndBeside(serving);  // there may be a better one
  if (!quiet || now - serving->since < options_.improve_every) return {};
  const std::string why = absl::StrCat("planning again while no request runs: ", beside.why);
  ++improvements_;
  return Change(sharding::Plan(beside.plan), why, /*moving=*/false, view, now);
}

RolloutActions Rollout::EndBeside(Serving* serving, const std::string& gone) {
  RolloutActions actions;
  for (const AssignedStage& stage : serving->beside->stages) {
    if (stage.planned.machine != gone)
      actions.release.push_back({stage.link, serving->beside->plan_id});
  }
  serving->beside.reset();
  return actions;
}

RolloutActions Rollout::DropBeside(Serving* serving, std::string_view why, const std::string& gone,
                                   TimeNs now) {
  RolloutActions actions = EndBeside(serving, gone);
  actions.note = absl::StrCat("the better plan is given up: ", AbslView(why));
  const uint32_t doublings = std::min(serving->besides_dropped++, options_.beside_retry_doublings);
  serving->look_again = now + (options_.beside_retry << doublings);
  return actions;
}

RolloutActions Rollout::Take(const ClusterView& view, TimeNs now) {
  RolloutActions actions;
  auto& before = std::get<Serving>(phase_);
  Beside beside = *std::move(before.beside);
  for (const AssignedStage& stage : before.stages) {
    actions.release.push_back({stage.link, plan_id_});
    in_memory_.erase(stage.planned.machine);
  }
  for (const AssignedStage& stage : beside.stages)
    in_memory_[stage.planned.machine] = stage.planned.layers;
  const std::string why = absl::StrCat("a better plan has been loaded beside it: ", beside.why);
  actions.lost = absl::UnavailableError(why);
  actions.loss = Loss::kChosen;
  actions.serve = true;
  Serving serving;
  serving.stages = std::move(beside.stages);
  serving.since = now;
  serving.fallback = plan_;
  serving.considered = beside.revision;
  phase_ = std::move(serving);
  SetPlan(beside.plan, view.members);
  new_cut_ = false;
  plan_id_ = beside.plan_id;
  epoch_ = beside.epoch;
  ++improvements_;
  return actions;
}

}  // namespace lanyard::coordinator
