// The decoder layer that families share; a family's file says which norms, activation and rotation it has.
#pragma once

#include <cstdint>
#include <vector>

#include "base/status.h"
#include "engine/ops/activation.h"
#include "engine/step.h"
#include "engine/weights.h"
#include "model/model_shape.h"

namespace lanyard::engine {

// A decoder layer. Empty vectors: the family has no such norm.
struct Layer {
  std::vector<float> attn_norm;
  Linear qkv;
  std::vector<float> q_norm;          // per head
  std::vector<float> k_norm;
  Linear attn_out;
  std::vector<float> post_attn_norm;
  std::vector<float> ffn_norm;
  Linear gate_up;
  Linear down;
  std::vector<float> post_ffn_norm;

  ops::KvLayer kv;
  uint32_t group = 0;                 // state group
  uint32_t window = 0;
  int rope_kind = 0;                  // index into Family::ropes()

  uint64_t weight_bytes() const;
};

// The matrices that every family here has, under their GGUF names.
absl::Status LoadCommonLayer(const model::ModelShape& shape, WeightLoader& loader, uint32_t index, Layer* layer);

struct LayerConstants {
  float q_scale = 1;
  ops::RopePairs pairs = ops::RopePairs::kInterleaved;
  ops::Activation activation = ops::Activation::kSilu;
  bool round_f16 = false;             // the wire's type at the layer's end
};
// step.h() -> step.h(): products, rotation, pages, attention, output product.
void RunAttention(const model::ModelShape& shape, Step& step, const Layer& layer, const LayerConstants& c);
// step.h() -> step.h(): down(act(gate) * up).
void RunFeedForward(const model::ModelShape& shape, Step& step, const Layer& layer, ops::Activation act);
// step.x() -> step.x(): both with the norms around them, then the rounding of the layer's end.
void RunDecoderLayer(const model::ModelShape& shape, Step& step, const Layer& layer, const LayerConstants& c);

}  // namespace lanyard::engine
