// Decides which device of this machine holds which part of a stage, and what that takes. Layers go
// to the cards in the order given, each as far as its memory goes, and the rest to the processor.
// The head is the last unit.
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
  BackendMemory memory;  // as planned
  StepSizes sizes;       // for the device's buffers
};

// Returns nullptr for a tensor that the model does not have.
using FindTensorFn = std::function<const model::TensorInfo*(const std::string& name)>;

// The result is never empty: a stage that only embeds has the processor's place.
std::vector<Place> PlaceStage(const model::ModelShape& shape, const stage::StageSpec& spec,
                              const FindTensorFn& find,
                              const std::vector<std::shared_ptr<Device>>& devices, int threads);

// Checks that each device computes the layers that it was given, in the stage's numerics id. Cards
// pass on what they cannot compute, so it is the processor that may be left with fast attention,
// which it lacks. FailedPrecondition says which layers were left to it, and why no card took them.
absl::Status CheckPlaces(const std::vector<Place>& places, const StepSizes& sizes,
                         const std::vector<std::shared_ptr<Device>>& devices);

ops::KvElement KvElementOf(stage::KvType type);
// The KV pages of a layer, without their base.
ops::KvLayer KvOf(const model::ModelShape& shape, stage::KvType type);

}  // namespace lanyard::engine
