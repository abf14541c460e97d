// What a model family adds to the shared layers: names of tensors, norms, activation, rotation.
// There is one file for each family (llama.cc, gemma3.cc); docs/checklists/family.md lists what a
// new one needs.
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
  // Computes x -> x on the device that holds the layer; the result is rounded to the wire's type.
  virtual absl::Status RunLayer(Backend& on, const Layer& layer, bool round_f16) const = 0;
  // Embedding rows are multiplied by it.
  virtual float embedding_scale() const { return 1.0f; }
  const std::vector<RopeKind>& ropes() const { return ropes_; }

 protected:
  std::vector<RopeKind> ropes_;
};

// It reads rope_freqs.weight where the shape says so.
absl::StatusOr<std::unique_ptr<Family>> MakeLlama(const model::ModelShape& shape,
                                                  WeightLoader& loader);
absl::StatusOr<std::unique_ptr<Family>> MakeGemma3(const model::ModelShape& shape,
                                                   WeightLoader& loader);
absl::StatusOr<std::unique_ptr<Family>> MakeFamily(const model::ModelShape& shape,
                                                   WeightLoader& loader, bool has_layers);

}  // namespace lanyard::engine
