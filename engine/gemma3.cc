// Gemma 3: norms before and after each block and on every head of q and k, GELU, a window on most
// layers, which have a rotation of their own. The source is llama.cpp's src/models/gemma3.cpp. GGUF
// norm weights already hold the + 1.
#include <cmath>

#include "engine/family.h"

namespace lanyard::engine {
namespace {

class Gemma3 : public Family {
 public:
  explicit Gemma3(const model::ModelShape& shape) : shape_(shape) {
    const int n_rot = static_cast<int>(shape.n_rot);
    ropes_.push_back({ops::RopeFrequencies(shape.rope_base, shape.rope_scale, n_rot, {}),
                      ops::RopePairs::kHalves});
    ropes_.push_back(
        {ops::RopeFrequencies(shape.rope_base_local, 1.0, n_rot, {}), ops::RopePairs::kHalves});
  }

  absl::Status LoadLayer(WeightLoader& loader, uint32_t index, Layer* layer) const override {
    RETURN_IF_ERROR(LoadCommonLayer(shape_, loader, index, layer));
    const std::string prefix = absl::StrCat("blk.", index, ".");
    ASSIGN_OR_RETURN(layer->q_norm,
                     loader.LoadVector(prefix + "attn_q_norm.weight", shape_.head_dim));
    ASSIGN_OR_RETURN(layer->k_norm,
                     loader.LoadVector(prefix + "attn_k_norm.weight", shape_.head_dim));
    ASSIGN_OR_RETURN(layer->post_attn_norm,
                     loader.LoadVector(prefix + "post_attention_norm.weight", shape_.d_model));
    ASSIGN_OR_RETURN(layer->post_ffn_norm,
                     loader.LoadVector(prefix + "post_ffw_norm.weight", shape_.d_model));
    const model::StateGroup& group = shape_.groups[model::GroupOfLayer(shape_, index)];
    layer->rope_kind = group.kind == model::StateKind::kSliding ? 1 : 0;
    return absl::OkStatus();
  }

  absl::Status RunLayer(Backend& on, const Layer& layer, bool round_f16) const override {
    return RunDecoderLayer(
        shape_, on, layer,
        {shape_.attention_scale, ops::RopePairs::kHalves, ops::Activation::kGeluTanh, round_f16});
  }

  float embedding_scale() const override { return std::sqrt(static_cast<float>(shape_.d_model)); }

 private:
  const model::ModelShape shape_;
};

}  // namespace

absl::StatusOr<std::unique_ptr<Family>> MakeGemma3(const model::ModelShape& shape, WeightLoader&) {
  return std::unique_ptr<Family>(std::make_unique<Gemma3>(shape));
}

}  // namespace lanyard::engine
