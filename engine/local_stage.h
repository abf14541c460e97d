// Runs one stage of a model on this machine's devices: embed if first, its layers, head and sampler
// if last.
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

struct StageOptions {
  int threads = 1;
  ops::Isa isa = ops::BestIsa();
  // Cards that layers go to before the processor, in this order (placement.h).
  std::vector<std::shared_ptr<Device>> devices = {};
};

// Bytes that a stage holds, as planned and as allocated.
struct StageMemory {
  // Of the process (RAM).
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
  std::vector<OnDevice> devices = {};  // of cards; empty: all of it is the processor's
};

// What Create would allocate, from the tensor table alone. `tensors` gives the TensorInfo of every
// tensor of the stage.
StageMemory PlanMemory(const model::ModelShape& shape, const stage::StageSpec& spec,
                       const std::vector<model::TensorInfo>& tensors, const StageOptions& options);

// The numerics that fit a model when nothing else is asked: f32 KV and wire for float models, f16
// for quantised ones.
stage::NumericsId DefaultNumerics(const model::ModelShape& shape);

// What stage::ValidateFrame needs to know of a model.
stage::FrameModel FrameModelOf(const model::ModelShape& shape);

struct StageOutput {
  stage::Hidden hidden;                 // when not the last stage
  std::vector<stage::TokenOut> tokens;  // when the last stage, in the order of the requests
};

class LocalStage {
 public:
  // Reads and re-lays the stage's weights. `source` must outlive the stage when it embeds (rows are
  // read on demand). ResourceExhausted when memory is refused, Unavailable when a device is lost,
  // FailedPrecondition when layers were left to a device that does not compute the spec's numerics.
  // `progress(done, total)` in GGUF bytes, may be null.
  static absl::StatusOr<std::unique_ptr<LocalStage>> Create(
      const model::ModelShape& shape, const stage::StageSpec& spec,
      const model::TensorSource& source, const StageOptions& options,
      const std::function<void(uint64_t, uint64_t)>& progress = nullptr);
  virtual ~LocalStage() = default;

  // Runs a frame that passed stage::ValidateFrame. One caller at a time. Looks at `stop` between
  // layers (Cancelled). Result rows do not depend on what else is in the frame. NaN or infinite
  // hidden values from outside give InvalidArgument. Unavailable: a device is lost and this stage
  // with it; every later call says so.
  virtual absl::StatusOr<StageOutput> Run(const stage::StepFrame& frame, std::stop_token stop) = 0;

  virtual const StageMemory& memory() const = 0;
  // Thread-safe; true for ever once a device was lost, or gave its memory to others: to be loaded
  // anew.
  virtual bool lost() const { return false; }
};

}  // namespace lanyard::engine
