#include "sharding/planner.h"

#include <algorithm>
#include <cmath>
#include <set>

#include "sharding/explain.h"
#include "sharding/problem.h"
#include "sharding/search.h"

namespace lanyard::sharding {
namespace {

uint32_t CeilDiv(uint32_t a, uint32_t b) { return a / b + (a % b != 0 ? 1 : 0); }

absl::Status CheckMachine(const MachineProfile& m) {
  if (m.name.empty()) return InvalidArgument("a machine has no name");
  if (!(m.speed > 0) || !std::isfinite(m.speed)) {
    return InvalidArgument("machine ", m.name, ": speed ", m.speed, " is not above 0");
  }
  if (!(m.slowness > 0) || !std::isfinite(m.slowness)) {
    return InvalidArgument("machine ", m.name, ": slowness ", m.slowness, " is not above 0");
  }
  std::set<std::string> names = {"cpu"};
  for (const DeviceProfile& d : m.devices) {
    if (!names.insert(d.name).second) {
      return InvalidArgument("machine ", m.name, ": two devices are called ", d.name);
    }
    if (!(d.speed > 0) || !std::isfinite(d.speed)) {
      return InvalidArgument("machine ", m.name, " ", d.name, ": speed ", d.speed,
                             " is not above 0");
    }
  }
  return absl::OkStatus();
}

absl::Status CheckLinks(const PlanRequest& request, const std::set<std::string>& machines) {
  for (const LinkProfile& link : request.links) {
    for (const std::string& end : {link.a, link.b}) {
      if (!machines.contains(end))
        return InvalidArgument("a link names ", end, ", which is no machine");
    }
    if (link.a == link.b) return InvalidArgument("a link goes from ", link.a, " to itself");
    if (!(link.rtt_us >= 0) || !(link.bandwidth_bps > 0) || !std::isfinite(link.rtt_us)) {
      return InvalidArgument("link ", link.a, " - ", link.b, ": rtt_us ", link.rtt_us,
                             " must be 0 or more, bandwidth ", link.bandwidth_bps, " above 0");
    }
  }
  return absl::OkStatus();
}

absl::Status CheckRequest(const PlanRequest& request) {
  if (request.manifest == nullptr || request.manifest->shape.n_layers == 0) {
    return InvalidArgument("there is no model to plan for");
  }
  if (request.machines.empty()) return InvalidArgument("there is no machine to plan for");
  if (request.context == 0)
    return InvalidArgument("context 0: a sequence needs at least one token");
  if (request.users == 0) return InvalidArgument("users 0: plan for at least one");
  if (request.max_rows == 0) return InvalidArgument("max_rows 0: a frame needs at least one row");
  std::set<std::string> names;
  for (const MachineProfile& m : request.machines) {
    RETURN_IF_ERROR(CheckMachine(m));
    if (!names.insert(m.name).second) return InvalidArgument("two machines are called ", m.name);
  }
  return CheckLinks(request, names);
}

bool Fits(const PlanRequest& request, uint32_t context, uint32_t users) {
  if (request.given_up()) return false;  // MakePlan says so in the end
  const Problem problem(request, context, users);
  return Feasible(problem, OrderSpace(problem, {}));
}

struct Load {
  uint32_t context = 0;  // 0: not even the smallest fits
  uint32_t users = 0;
};

// The load that is wanted, or the most of it that fits: users are given up first, then context in
// steps of one KV block.
Load LargestLoad(const PlanRequest& request) {
  if (Fits(request, request.context, 1)) {
    uint32_t low = 1, high = request.users;  // low always fits
    while (low < high) {
      const uint32_t middle = low + (high - low + 1) / 2;
      if (Fits(request, request.context, middle)) {
        low = middle;
      } else {
        high = middle - 1;
      }
    }
    return {request.context, low};
  }
  const uint32_t step = stage::kKvBlockTokens;
  uint32_t low = CeilDiv(std::min(request.min_context, request.context), step);
  uint32_t high = (request.context - 1) / step;
  if (low == 0 || low > high || !Fits(request, low * step, 1)) return {};
  while (low < high) {
    const uint32_t middle = low + (high - low + 1) / 2;
    if (Fits(request, middle * step, 1)) {
      low = middle;
    } else {
      high = middle - 1;
    }
  }
  return {low * step, 1};
}

// These are all of them, unless attention is fast: a head alone is not worth a hop.
std::vector<bool> MachinesWithLayers(const Problem& problem) {
  std::vector<bool> out(problem.machines(), false);
  for (const Place& place : problem.places())
    out[place.machine] = out[place.machine] || place.attends;
  return out;
}

PlannedStage MakeStage(const Problem& problem, const Segment& s) {
  const Place& place = problem.places()[s.place];
  const model::StageBytes bytes = problem.Bytes(s.place, s.begin, s.end);
  PlannedStage stage;
  stage.machine = problem.request().machines[place.machine].name;
  stage.device = place.device;
  stage.layers = {s.begin, std::min(s.end, problem.n_layers())};
  stage.embeds = s.begin == 0;
  stage.samples = s.end == problem.units();
  stage.gguf_bytes = problem.GgufBytes(s.begin, s.end);
  stage.weights_bytes = bytes.weights;
  stage.kv_bytes = bytes.kv;
  stage.buffer_bytes = bytes.buffers;
  stage.base_bytes = place.base_bytes;
  stage.limit_bytes = place.limit_bytes;
  stage.slowness = problem.request().machines[place.machine].slowness;
  stage.ms_per_token = static_cast<double>(problem.StageTime(s.place, s.begin, s.end)) * 1e-9;
  return stage;
}

// Neighbours on one machine become one stage.
std::vector<PlannedStage> MergeMachines(std::vector<PlannedStage> stages) {
  std::vector<PlannedStage> out;
  for (PlannedStage& next : stages) {
    if (out.empty() || out.back().machine != next.machine) {
      out.push_back(std::move(next));
      continue;
    }
    PlannedStage& one = out.back();
    absl::StrAppend(&one.device, "+", next.device);
    one.layers.end = next.layers.end;
    one.samples = next.samples;
    one.gguf_bytes += next.gguf_bytes;
    one.weights_bytes += next.weights_bytes;
    one.kv_bytes += next.kv_bytes;
    one.buffer_bytes += next.buffer_bytes;
    one.base_bytes += next.base_bytes;
    one.limit_bytes += next.limit_bytes;
    one.ms_per_token += next.ms_per_token;
  }
  return out;
}

// The same load with a frame for every stage of the cut and one between, as far as the memory that
// the cut leaves free can hold their rows: with fewer, stages stand idle while a prompt is read.
Problem WithFramesForAll(const PlanRequest& request, const Load& load, const Cut& cut) {
  const auto& groups = request.manifest->shape.groups;
  const bool slides = std::any_of(groups.begin(), groups.end(), [](const model::StateGroup& group) {
    return group.kind == model::StateKind::kSliding;
  });
  const uint32_t most = static_cast<uint32_t>(cut.segments.size()) + 1;
  for (uint32_t frames = slides ? most : 0; frames > kFewestFrames; --frames) {
    Problem problem(request, load.context, load.users, frames);
    const bool fits = std::all_of(cut.segments.begin(), cut.segments.end(), [&](const Segment& s) {
      return problem.Fits(s.place, s.begin, s.end);
    });
    if (fits) return problem;
  }
  return Problem(request, load.context, load.users);
}

}  // namespace

std::vector<uint32_t> GroupBlocks(const model::ModelShape& shape, uint32_t context, uint32_t users,
                                  uint32_t max_rows, uint32_t frames) {
  const uint32_t full = CeilDiv(context, stage::kKvBlockTokens) * users;
  std::vector<uint32_t> blocks;
  for (const model::StateGroup& group : shape.groups) {
    uint32_t needed = full;
    if (group.kind == model::StateKind::kSliding) {
      // A window that starts and ends inside a block uses one block more, and so does each user's
      // share of a step.
      const uint32_t window = CeilDiv(group.window, stage::kKvBlockTokens) + 2;
      needed = std::min(full, window * users + frames * CeilDiv(max_rows, stage::kKvBlockTokens));
    }
    blocks.push_back(needed);
  }
  return blocks;
}

double Plan::Objective(double weight) const {
  return Charged(StepMs(weight), std::llround(charge * kOneMachine));
}

absl::StatusOr<Plan> MakePlan(const PlanRequest& request) {
  RETURN_IF_ERROR(CheckRequest(request));
  Plan plan;
  const Load load = LargestLoad(request);
  if (request.given_up()) return absl::CancelledError("the plan was given up");
  if (load.context == 0) {
    ExplainMisfit(request, std::min(request.min_context, request.context), &plan);
    return plan;
  }
  plan.context = load.context;
  plan.users = load.users;
  const Problem least(request, load.context, load.users);

  int64_t rows_beside = std::min(request.users, stage::kMaxFrameRows) - 1;
  std::optional<Cut> cut;
  if (request.require_all) {
    rows_beside = std::max(rows_beside, kRowsAsOneRead);
    cut = BestCut(least, MachinesWithLayers(least), rows_beside);
    if (!cut) plan.why.push_back("no cut gives every machine a stage within its memory");
  }
  if (!cut) cut = BestCut(least, {}, rows_beside);
  if (request.given_up()) return absl::CancelledError("the plan was given up");
  if (!cut) return Internal("planner: a load that fits has no cut");
  const Problem problem = WithFramesForAll(request, load, *cut);
  plan.group_blocks = problem.group_blocks();
  plan.fits = true;
  plan.token_ms = static_cast<double>(cut->sum) * 1e-9;
  plan.slowest_ms = static_cast<double>(cut->slowest) * 1e-9;
  plan.slowest_weight = static_cast<double>(rows_beside) / kRowsAsOneRead;
  plan.charge = static_cast<double>(cut->charge) / kOneMachine;
  for (const Segment& s : cut->segments) plan.stages.push_back(MakeStage(problem, s));
  if (!OrderSpace(problem, {}).exact()) {
    plan.why.push_back(absl::StrCat("with ", request.machines.size(),
                                    " unlike machines their order is fixed, fastest first"));
  }
  ExplainFit(problem, *cut, rows_beside, &plan);
  if (request.one_stage_a_machine) plan.stages = MergeMachines(std::move(plan.stages));
  return plan;
}

}  // namespace lanyard::sharding
