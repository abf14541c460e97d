// The decoder layer that families share, on any device (backend.h). A family's file says which
// norms, activation and rotation it has.
#pragma once

#include <cstdint>
#include <vector>

#include "base/status.h"
#include "engine/backend.h"
#include "engine/ops/activation.h"
#include "engine/weights.h"
#include "model/model_shape.h"

namespace lanyard::engine {

// A decoder layer. A vector is empty when the family has no such norm.
struct Layer {
  Vector attn_norm;
  Linear qkv;
  Vector q_norm;  // per head
  Vector k_norm;
  Linear attn_out;
  Vector post_attn_norm;
  Vector ffn_norm;
  Linear gate_up;
  Linear down;
  Vector post_ffn_norm;

  ops::KvLayer kv;
  uint32_t group = 0;  // index of its state group
  uint32_t window = 0;
  int rope_kind = 0;  // index into Family::ropes()

  InputForms forms() const;
};

// Loads the matrices that every family here has, under their GGUF names.
absl::Status LoadCommonLayer(const model::ModelShape& shape, WeightLoader& loader, uint32_t index,
                             Layer* layer);

struct LayerConstants {
  float q_scale = 1;
  ops::RopePairs pairs = ops::RopePairs::kInterleaved;
  ops::Activation activation = ops::Activation::kSilu;
  bool round_f16 = false;  // the wire's type is f16, to which the layer's end is rounded
};
// h -> h: product, rotation, pages, attention, output product.
absl::Status RunAttention(const model::ModelShape& shape, Backend& on, const Layer& layer,
                          const LayerConstants& c);
// h -> h: down(act(gate) * up).
absl::Status RunFeedForward(const model::ModelShape& shape, Backend& on, const Layer& layer,
                            ops::Activation act);
// x -> x: both of them with the norms around them, then the rounding of the layer's end.
absl::Status RunDecoderLayer(const model::ModelShape& shape, Backend& on, const Layer& layer,
                             const LayerConstants& c);

}  // namespace lanyard::engine
