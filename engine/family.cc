#include "engine/family.h"

namespace lanyard::engine {

absl::StatusOr<std::unique_ptr<Family>> MakeFamily(const model::ModelShape& shape,
                                                   WeightLoader& loader, bool has_layers) {
  model::ModelShape s = shape;
  if (!has_layers) s.rope_factors = false;  // a stage without layers does not have the tensor
  switch (shape.family) {
    case model::Family::kLlama:
      return MakeLlama(s, loader);
    case model::Family::kGemma3:
      return MakeGemma3(s, loader);
  }
  return Unimplemented("family ", model::FamilyName(shape.family), " has no layers here");
}

}  // namespace lanyard::engine
