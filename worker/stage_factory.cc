#include "worker/stage_factory.h"

namespace lanyard::worker {

StageFactory EngineStages() { return {engine::LocalStage::Create, engine::PlanMemory}; }

}  // namespace lanyard::worker
