// What rollout.cc and rollout_improve.cc say and ask of planned stages.
#pragma once

#include <algorithm>
#include <cstdint>
#include <string>
#include <vector>

#include "coordinator/cluster/rollout.h"
#include "coordinator/serve/pipeline.h"

namespace lanyard::coordinator {

inline std::string Describe(const sharding::PlannedStage& stage) {
  return PipelineStage{stage.machine, stage.layers}.Describe();
}

inline bool Uses(const sharding::Plan& plan, const std::string& machine) {
  return std::any_of(plan.stages.begin(), plan.stages.end(),
                     [&](const auto& stage) { return stage.machine == machine; });
}

// Null: the worker at `link` has none of them.
inline AssignedStage* OfLink(std::vector<AssignedStage>* stages, net::LinkId link) {
  const auto found = std::find_if(stages->begin(), stages->end(),
                                  [&](const AssignedStage& stage) { return stage.link == link; });
  return found == stages->end() ? nullptr : &*found;
}

// The bytes of a machine's RAM and cards together.
inline uint64_t BytesOf(const sharding::PlannedStage& stage) {
  return stage.weights_bytes + stage.kv_bytes + stage.buffer_bytes;
}

}  // namespace lanyard::coordinator
