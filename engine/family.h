// What a model family adds to the shared layers: names of tensors, norms, activation, rotation. One
// file a family (llama.cc, gemma3.cc); docs/checklists has what a new one takes.
#pragma once

#include <memory>
#include <string>
#include <vector>

#include "base/status.h"
#include "engine/layers.h"
#include "engine/step.h"
#include "engine/weights.h"
#include "model/model_shape.h"

namespace lanyard::engine {

class Family {
 public:
  virtual ~Family() = default;
  virtual absl::Status LoadLayer(WeightLoader& loader, uint32_t index, Layer* layer) const = 0;
  // x -> x on the device that holds the layer, rounded to the wire's type at the end.
  virtual absl::Status RunLayer(Backend& on, const Layer& layer, bool round_f16) const = 0;
  // Embedding rows are multiplied by it.
  virtual float embedding_scale() const { return 1.0f; }
  const std::vector<RopeKind>& ropes() const { return ropes_; }

 protected:
  std::vector<RopeKind> ropes_;
};

// Reads rope_freqs.weight where the shape says so.
absl::StatusOr<std::unique_ptr<Family>> MakeLlama(const model::ModelShape& shape,
                                                  WeightLoader& loader);
absl::StatusOr<std::unique_ptr<Family>> MakeGemma3(const model::ModelShape& shape,
                                                   WeightLoader& loader);
absl::StatusOr<std::unique_ptr<Family>> MakeFamily(const model::ModelShape& shape,
                                                   WeightLoader& loader, bool has_layers);

}  // namespace lanyard::engine
