// Which device of this machine holds which part of a stage, and what that takes: layers go to the
// cards in the order given, each as far as its memory goes, the rest to the processor. The head is
// the last unit.
#pragma once

#include <cstdint>
#include <functional>
#include <memory>
#include <string>
#include <vector>

#include "engine/device.h"
#include "engine/step.h"
#include "model/model_shape.h"
#include "model/tensor_source.h"
#include "stage/types.h"

namespace lanyard::engine {

// A run of layers, and perhaps the head behind them, on one device.
struct Place {
  Device* device = nullptr;  // null: the processor
  stage::LayerRange layers;  // may be empty
  bool head = false;
  BackendMemory memory;  // planned
  StepSizes sizes;       // of the device's buffers
};

// nullptr for a tensor that the model does not have.
using FindTensorFn = std::function<const model::TensorInfo*(const std::string& name)>;

// Never empty: a stage that only embeds has the processor's place.
std::vector<Place> PlaceStage(const model::ModelShape& shape, const stage::StageSpec& spec,
                              const FindTensorFn& find,
                              const std::vector<std::shared_ptr<Device>>& devices, int threads);

// Whether each device computes the layers that it was given, in the stage's numerics id: cards pass
// on what they cannot, so it is the processor that has none of fast attention. FailedPrecondition:
// what was left to it, and why by no card.
absl::Status CheckPlaces(const std::vector<Place>& places, const StepSizes& sizes,
                         const std::vector<std::shared_ptr<Device>>& devices);

ops::KvElement KvElementOf(stage::KvType type);
// The KV pages of a layer, base aside.
ops::KvLayer KvOf(const model::ModelShape& shape, stage::KvType type);

}  // namespace lanyard::engine
