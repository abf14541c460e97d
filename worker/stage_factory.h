// How a worker makes a stage: the product uses the engine's, tests and the simulator a fake.
#pragma once

#include <functional>
#include <memory>
#include <vector>

#include "engine/local_stage.h"

namespace lanyard::worker {

struct StageFactory {
  std::function<absl::StatusOr<std::unique_ptr<engine::LocalStage>>(
      const model::ModelShape& shape, const stage::StageSpec& spec,
      const model::TensorSource& source, const engine::StageOptions& options,
      const std::function<void(uint64_t, uint64_t)>& progress)>
      create;
  std::function<engine::StageMemory(const model::ModelShape& shape, const stage::StageSpec& spec,
                                    const std::vector<model::TensorInfo>& tensors,
                                    const engine::StageOptions& options)>
      plan_memory;
};

StageFactory EngineStages();

}  // namespace lanyard::worker
