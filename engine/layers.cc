#include "engine/layers.h"

#include "engine/ops/residual.h"

namespace lanyard::engine {
namespace {

const float* OrNull(const std::vector<float>& v) { return v.empty() ? nullptr : v.data(); }

}  // namespace

uint64_t Layer::weight_bytes() const {
  uint64_t bytes = qkv.bytes() + attn_out.bytes() + gate_up.bytes() + down.bytes();
  for (const auto* v : {&attn_norm, &q_norm, &k_norm, &post_attn_norm, &ffn_norm, &post_ffn_norm}) {
    bytes += v->size() * sizeof(float);
  }
  return bytes;
}

absl::Status LoadCommonLayer(const model::ModelShape& shape, WeightLoader& loader, uint32_t index, Layer* layer) {
  const std::string prefix = absl::StrCat("blk.", index, ".");
  const auto name = [&](const char* tensor) { return absl::StrCat(prefix, tensor, ".weight"); };
  const int64_t d = shape.d_model;
  const int64_t d_attn = int64_t{shape.n_heads} * shape.head_dim;
  const int64_t d_kv = int64_t{shape.n_kv_heads} * shape.head_dim;
  const int64_t d_ff = shape.d_ff;
  ASSIGN_OR_RETURN(layer->attn_norm, loader.LoadVector(name("attn_norm"), d));
  ASSIGN_OR_RETURN(layer->qkv, loader.LoadLinear(
      {{name("attn_q"), d_attn}, {name("attn_k"), d_kv}, {name("attn_v"), d_kv}}, d));
  ASSIGN_OR_RETURN(layer->attn_out, loader.LoadLinear({{name("attn_output"), d}}, d_attn));
  ASSIGN_OR_RETURN(layer->ffn_norm, loader.LoadVector(name("ffn_norm"), d));
  ASSIGN_OR_RETURN(layer->gate_up, loader.LoadLinear({{name("ffn_gate"), d_ff}, {name("ffn_up"), d_ff}}, d));
  ASSIGN_OR_RETURN(layer->down, loader.LoadLinear({{name("ffn_down"), d}}, d_ff));
  return absl::OkStatus();
}

void RunAttention(const model::ModelShape& shape, Step& step, const Layer& layer, const LayerConstants& c) {
  const int64_t d_attn = int64_t{shape.n_heads} * shape.head_dim;
  const int64_t d_qkv = layer.qkv.n_out();
  layer.qkv.Apply(step.isa, *step.pool, step.inputs, {step.h(), step.rows, 0, step.qkv(), d_qkv});

  ops::QkvRows rotate;
  rotate.qkv = step.qkv();
  rotate.stride = d_qkv;
  rotate.rows = step.rows;
  rotate.n_heads = static_cast<int>(shape.n_heads);
  rotate.q_norm = OrNull(layer.q_norm);
  rotate.k_norm = OrNull(layer.k_norm);
  rotate.eps = shape.norm_eps;
  rotate.n_rot = static_cast<int>(shape.n_rot);
  rotate.pairs = c.pairs;
  rotate.cos = step.cos(layer.rope_kind);
  rotate.sin = step.sin(layer.rope_kind);
  rotate.q_scale = c.q_scale;
  rotate.kv = layer.kv;
  rotate.slots = step.slots(layer.group);
  ops::RotateAndStore(step.isa, *step.pool, rotate);

  ops::AttentionArgs attend;
  attend.kv = layer.kv;
  attend.n_heads = static_cast<int>(shape.n_heads);
  attend.window = layer.window;
  attend.q = step.qkv();
  attend.q_stride = d_qkv;
  attend.out = step.attn();
  attend.out_stride = d_attn;
  attend.runs = step.runs(layer.group).data();
  attend.n_runs = static_cast<int64_t>(step.runs(layer.group).size());
  ops::Attend(step.isa, *step.pool, attend, step.attention);

  layer.attn_out.Apply(step.isa, *step.pool, step.inputs,
                       {step.attn(), step.rows, 0, step.h(), int64_t{shape.d_model}});
}

void RunFeedForward(const model::ModelShape& shape, Step& step, const Layer& layer, ops::Activation act) {
  const int64_t d_ff = shape.d_ff;
  layer.gate_up.Apply(step.isa, *step.pool, step.inputs, {step.h(), step.rows, 0, step.gate_up(), 2 * d_ff});
  ops::GateMul(step.isa, *step.pool, {act, step.gate_up(), step.rows, d_ff});
  layer.down.Apply(step.isa, *step.pool, step.inputs,
                   {step.gate_up(), step.rows, 2 * d_ff, step.h(), int64_t{shape.d_model}});
}

void RunDecoderLayer(const model::ModelShape& shape, Step& step, const Layer& layer, const LayerConstants& c) {
  ops::ResidualRows r;
  r.x = step.x();
  r.out = step.h();
  r.rows = step.rows;
  r.n = shape.d_model;
  r.eps = shape.norm_eps;

  r.norm = layer.attn_norm.data();
  ops::Residual(step.isa, *step.pool, r);
  RunAttention(shape, step, layer, c);

  r.delta = step.h();
  r.delta_norm = OrNull(layer.post_attn_norm);
  r.norm = layer.ffn_norm.data();
  ops::Residual(step.isa, *step.pool, r);
  RunFeedForward(shape, step, layer, c.activation);

  r.delta_norm = OrNull(layer.post_ffn_norm);
  r.norm = nullptr;
  r.round_f16 = c.round_f16;
  ops::Residual(step.isa, *step.pool, r);
}

}  // namespace lanyard::engine
