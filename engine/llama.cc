// Llama: RMSNorm before each block, rotation of neighbouring pairs, SwiGLU. The source is
// llama.cpp's src/models/llama.cpp.
#include <cmath>

#include "engine/family.h"

namespace lanyard::engine {
namespace {

class Llama : public Family {
 public:
  Llama(const model::ModelShape& shape, const std::vector<float>& factors) : shape_(shape) {
    ropes_.push_back({ops::RopeFrequencies(shape.rope_base, shape.rope_scale,
                                           static_cast<int>(shape.n_rot), factors),
                      ops::RopePairs::kInterleaved});
  }

  absl::Status LoadLayer(WeightLoader& loader, uint32_t index, Layer* layer) const override {
    return LoadCommonLayer(shape_, loader, index, layer);
  }

  absl::Status RunLayer(Backend& on, const Layer& layer, bool round_f16) const override {
    return RunDecoderLayer(
        shape_, on, layer,
        {shape_.attention_scale, ops::RopePairs::kInterleaved, ops::Activation::kSilu, round_f16});
  }

 private:
  const model::ModelShape shape_;
};

}  // namespace

absl::StatusOr<std::unique_ptr<Family>> MakeLlama(const model::ModelShape& shape,
                                                  WeightLoader& loader) {
  std::vector<float> factors;
  if (shape.rope_factors) {
    ASSIGN_OR_RETURN(factors, loader.LoadFloats("rope_freqs.weight", shape.n_rot / 2));
    for (const float f : factors) {
      if (!std::isfinite(f) || f <= 0)
        return InvalidArgument("tensor rope_freqs.weight: factor ", f, " is not positive");
    }
  }
  return std::unique_ptr<Family>(std::make_unique<Llama>(shape, factors));
}

}  // namespace lanyard::engine
