// Runs one stage of a model on this machine's devices: the embedding if it is first, its layers,
// and head and sampler if it is last.
#pragma once

#include <cstdint>
#include <functional>
#include <memory>
#include <stop_token>
#include <vector>

#include "base/status.h"
#include "engine/device.h"
#include "engine/ops/isa.h"
#include "model/model_shape.h"
#include "model/tensor_source.h"
#include "stage/types.h"
#include "stage/validate.h"

namespace lanyard::engine {

class WeightShelf;

struct StageOptions {
  int threads = 1;
  ops::Isa isa = ops::BestIsa();
  // The cards that layers go to before the processor, in this order (placement.h).
  std::vector<std::shared_ptr<Device>> devices = {};
  // Where weights of the processor's layers are looked for before they are read, and put. It may be
  // null; LocalStage::Create alone uses it.
  WeightShelf* shelf = nullptr;
};

// The bytes that a stage holds, as planned and as allocated.
struct StageMemory {
  // These are the process's (RAM).
  uint64_t weights = 0;
  uint64_t kv = 0;
  uint64_t buffers = 0;
  uint64_t total() const { return weights + kv + buffers; }

  struct OnDevice {
    std::string name;  // "cuda:0"
    BackendMemory memory;
    stage::LayerRange layers;
    bool head = false;
  };
  std::vector<OnDevice> devices = {};  // for each card; empty: the processor holds all of it
};

// Returns what Create would allocate, from the tensor table alone. `tensors` gives the TensorInfo
// of every tensor of the stage.
StageMemory PlanMemory(const model::ModelShape& shape, const stage::StageSpec& spec,
                       const std::vector<model::TensorInfo>& tensors, const StageOptions& options);

// The numerics of a model when nothing else is asked for: f32 KV and wire for float models, f16 for
// quantised ones.
stage::NumericsId DefaultNumerics(const model::ModelShape& shape);

// What stage::ValidateFrame needs to know of a model.
stage::FrameModel FrameModelOf(const model::ModelShape& shape);

struct StageOutput {
  stage::Hidden hidden;                 // when it is not the last stage
  std::vector<stage::TokenOut> tokens;  // when it is the last stage, in the order of the requests
};

class LocalStage {
 public:
  // Reads and re-lays the stage's weights. `source` must outlive the stage when it embeds (rows are
  // read on demand). ResourceExhausted when memory is refused, Unavailable when a device is lost,
  // FailedPrecondition when layers were left to a device that does not compute the spec's numerics.
  // `progress(done, total)` counts GGUF bytes; it may be null.
  static absl::StatusOr<std::unique_ptr<LocalStage>> Create(
      const model::ModelShape& shape, const stage::StageSpec& spec,
      const model::TensorSource& source, const StageOptions& options,
      const std::function<void(uint64_t, uint64_t)>& progress = nullptr);
  virtual ~LocalStage() = default;

  // Runs a frame that passed stage::ValidateFrame. One caller at a time. It looks at `stop` between
  // layers (Cancelled). Result rows do not depend on what else is in the frame. An output whose
  // logits are not finite has its own error (TokenOut::status). Unavailable means that a device is
  // lost, and this stage with it; every later call says so.
  virtual absl::StatusOr<StageOutput> Run(const stage::StepFrame& frame, std::stop_token stop) = 0;

  virtual const StageMemory& memory() const = 0;
  // Thread-safe. True from the moment on when a device was lost, or gave its memory to others; the
  // stage must then be loaded anew.
  virtual bool lost() const { return false; }
};

}  // namespace lanyard::engine
