#include "engine/layers.h"

namespace lanyard::engine {

InputForms Layer::forms() const {
  InputForms out;
  for (const Linear* linear : {&qkv, &attn_out, &gate_up, &down}) out.Add(*linear);
  return out;
}

absl::Status LoadCommonLayer(const model::ModelShape& shape, WeightLoader& loader, uint32_t index,
                             Layer* layer) {
  const std::string prefix = absl::StrCat("blk.", index, ".");
  const auto name = [&](const char* tensor) { return absl::StrCat(prefix, tensor, ".weight"); };
  const int64_t d = shape.d_model;
  const int64_t d_attn = int64_t{shape.n_heads} * shape.head_dim;
  const int64_t d_kv = int64_t{shape.n_kv_heads} * shape.head_dim;
  const int64_t d_ff = shape.d_ff;
  ASSIGN_OR_RETURN(layer->attn_norm, loader.LoadVector(name("attn_norm"), d));
  ASSIGN_OR_RETURN(
      layer->qkv,
      loader.LoadLinear({{name("attn_q"), d_attn}, {name("attn_k"), d_kv}, {name("attn_v"), d_kv}},
                        d));
  ASSIGN_OR_RETURN(layer->attn_out, loader.LoadLinear({{name("attn_output"), d}}, d_attn));
  ASSIGN_OR_RETURN(layer->ffn_norm, loader.LoadVector(name("ffn_norm"), d));
  ASSIGN_OR_RETURN(layer->gate_up,
                   loader.LoadLinear({{name("ffn_gate"), d_ff}, {name("ffn_up"), d_ff}}, d));
  ASSIGN_OR_RETURN(layer->down, loader.LoadLinear({{name("ffn_down"), d}}, d_ff));
  return absl::OkStatus();
}

absl::Status RunAttention(const model::ModelShape& shape, Backend& on, const Layer& layer,
                          const LayerConstants& c) {
  const Buffers& at = on.buffers();
  const int64_t d_attn = int64_t{shape.n_heads} * shape.head_dim;
  const int64_t d_qkv = layer.qkv.n_out();
  RETURN_IF_ERROR(on.Product(layer.qkv, {at.h, on.rows(), 0, at.qkv, d_qkv}));

  ops::QkvRows rotate;
  rotate.qkv = at.qkv;
  rotate.stride = d_qkv;
  rotate.rows = on.rows();
  rotate.n_heads = static_cast<int>(shape.n_heads);
  rotate.q_norm = layer.q_norm.data;
  rotate.k_norm = layer.k_norm.data;
  rotate.eps = shape.norm_eps;
  rotate.n_rot = static_cast<int>(shape.n_rot);
  rotate.pairs = c.pairs;
  rotate.q_scale = c.q_scale;
  rotate.kv = layer.kv;
  RETURN_IF_ERROR(on.RotateAndStore(rotate, layer.rope_kind, layer.group));

  ops::AttentionArgs attend;
  attend.kv = layer.kv;
  attend.n_heads = static_cast<int>(shape.n_heads);
  attend.window = layer.window;
  attend.q = at.qkv;
  attend.q_stride = d_qkv;
  attend.out = at.attn;
  attend.out_stride = d_attn;
  RETURN_IF_ERROR(on.Attend(attend, layer.group));

  return on.Product(layer.attn_out, {at.attn, on.rows(), 0, at.h, int64_t{shape.d_model}});
}

absl::Status RunFeedForward(const model::ModelShape& shape, Backend& on, const Layer& layer,
                            ops::Activation act) {
  const Buffers& at = on.buffers();
  const int64_t d_ff = shape.d_ff;
  RETURN_IF_ERROR(on.Product(layer.gate_up, {at.h, on.rows(), 0, at.gate_up, 2 * d_ff}));
  RETURN_IF_ERROR(on.GateMul({act, at.gate_up, on.rows(), d_ff}));
  return on.Product(layer.down, {at.gate_up, on.rows(), 2 * d_ff, at.h, int64_t{shape.d_model}});
}

absl::Status RunDecoderLayer(const model::ModelShape& shape, Backend& on, const Layer& layer,
                             const LayerConstants& c) {
  ops::ResidualRows r;
  r.x = on.buffers().x;
  r.out = on.buffers().h;
  r.rows = on.rows();
  r.n = shape.d_model;
  r.eps = shape.norm_eps;

  r.norm = layer.attn_norm.data;
  RETURN_IF_ERROR(on.Residual(r));
  RETURN_IF_ERROR(RunAttention(shape, on, layer, c));

  r.delta = on.buffers().h;
  r.delta_norm = layer.post_attn_norm.data;
  r.norm = layer.ffn_norm.data;
  RETURN_IF_ERROR(on.Residual(r));
  RETURN_IF_ERROR(RunFeedForward(shape, on, layer, c.activation));

  r.delta_norm = layer.post_ffn_norm.data;
  r.norm = nullptr;
  r.round_f16 = c.round_f16;
  return on.Residual(r);
}

}  // namespace lanyard::engine
