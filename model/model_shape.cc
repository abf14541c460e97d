#include "model/model_shape.h"

#include <algorithm>
#include <cmath>

#include "model/gguf_header.h"

namespace lanyard::model {
namespace {

std::string Layer(uint32_t layer, std::string_view suffix) {
  return absl::StrCat("blk.", layer, ".", AbslView(suffix), ".weight");
}

absl::Status CheckRange(std::string_view field, uint64_t value, uint64_t low, uint64_t high) {
  if (value >= low && value <= high) return absl::OkStatus();
  return InvalidArgument(AbslView(field), " is ", value, ", must be ", low, " to ", high);
}

absl::Status CheckPositive(std::string_view field, float value, float high) {
  if (std::isfinite(value) && value > 0 && value <= high) return absl::OkStatus();
  return InvalidArgument(AbslView(field), " is ", value, ", must be above 0 and at most ", high);
}

absl::Status CheckHeads(const ModelShape& s) {
  RETURN_IF_ERROR(CheckRange("n_heads", s.n_heads, 1, 1024));
  RETURN_IF_ERROR(CheckRange("n_kv_heads", s.n_kv_heads, 1, s.n_heads));
  if (s.n_heads % s.n_kv_heads != 0) {
    return InvalidArgument("n_heads is ", s.n_heads, ", must be a multiple of n_kv_heads, ",
                           s.n_kv_heads);
  }
  RETURN_IF_ERROR(CheckRange("head_dim", s.head_dim, 2, 1024));
  if (s.head_dim % 2 != 0) return InvalidArgument("head_dim is ", s.head_dim, ", must be even");
  RETURN_IF_ERROR(CheckRange("n_rot", s.n_rot, 2, s.head_dim));
  if (s.n_rot % 2 != 0) return InvalidArgument("n_rot is ", s.n_rot, ", must be even");
  return absl::OkStatus();
}

absl::Status CheckGroups(const ModelShape& s) {
  std::vector<bool> seen(s.n_layers, false);
  uint64_t total = 0;
  for (const StateGroup& group : s.groups) {
    if (group.layers.empty()) return InvalidArgument("groups: a state group has no layers");
    if (group.kind == StateKind::kSliding) {
      RETURN_IF_ERROR(CheckRange("window", group.window, 1, uint64_t{1} << 24));
    } else if (group.kind != StateKind::kFull || group.window != 0) {
      return InvalidArgument("groups: kind ", static_cast<int>(group.kind), " with window ",
                             group.window, " is not a state group");
    }
    for (size_t i = 0; i < group.layers.size(); ++i) {
      const uint32_t layer = group.layers[i];
      if (layer >= s.n_layers || seen[layer] || (i > 0 && layer < group.layers[i - 1])) {
        return InvalidArgument("groups: layer ", layer,
                               " is out of range, out of order or in two groups");
      }
      seen[layer] = true;
      ++total;
    }
  }
  if (total != s.n_layers) {
    return InvalidArgument("groups: ", total, " of ", s.n_layers, " layers are in a state group");
  }
  return absl::OkStatus();
}

void Append(std::vector<TensorSpec>* out, std::vector<TensorSpec> more) {
  for (TensorSpec& spec : more) out->push_back(std::move(spec));
}

std::string DimsText(const std::vector<uint64_t>& dims) {
  std::string out = "[";
  for (size_t i = 0; i < dims.size(); ++i) absl::StrAppend(&out, i > 0 ? ", " : "", dims[i]);
  return out + "]";
}

}  // namespace

std::string FamilyName(Family family) {
  switch (family) {
    case Family::kLlama:
      return "llama";
    case Family::kGemma3:
      return "gemma3";
  }
  return "?";
}

std::optional<Family> FamilyNamed(std::string_view name) {
  for (const Family family : kFamilies) {
    if (name == FamilyName(family)) return family;
  }
  return std::nullopt;
}

absl::Status ValidateShape(const ModelShape& s) {
  if (std::find(std::begin(kFamilies), std::end(kFamilies), s.family) == std::end(kFamilies)) {
    return InvalidArgument("family is ", static_cast<int>(s.family),
                           ", not a family of this version");
  }
  RETURN_IF_ERROR(CheckRange("n_layers", s.n_layers, 1, 1024));
  RETURN_IF_ERROR(CheckRange("d_model", s.d_model, 1, 65536));
  RETURN_IF_ERROR(CheckRange("d_ff", s.d_ff, 1, 1 << 20));
  RETURN_IF_ERROR(CheckRange("n_vocab", s.n_vocab, 1, kGgufMaxArrayElements));
  RETURN_IF_ERROR(CheckRange("context_length", s.context_length, 1, 1 << 28));
  RETURN_IF_ERROR(CheckHeads(s));
  RETURN_IF_ERROR(CheckPositive("norm_eps", s.norm_eps, 1.0f));
  RETURN_IF_ERROR(CheckPositive("attention_scale", s.attention_scale, 1e6f));
  RETURN_IF_ERROR(CheckPositive("rope_base", s.rope_base, 1e12f));
  RETURN_IF_ERROR(CheckPositive("rope_base_local", s.rope_base_local, 1e12f));
  RETURN_IF_ERROR(CheckPositive("rope_scale", s.rope_scale, 1e6f));
  if (s.rope_factors && s.family != Family::kLlama) {
    return InvalidArgument("rope_factors: family ", FamilyName(s.family), " has none");
  }
  return CheckGroups(s);
}

uint32_t RopeKinds(const ModelShape& shape) {
  switch (shape.family) {  // without a default: a new family has to say
    case Family::kLlama:
      return 1;
    case Family::kGemma3:
      return 2;  // of full and of sliding layers
  }
  return 0;  // not reached with a validated shape
}

uint32_t GroupOfLayer(const ModelShape& shape, uint32_t layer) {
  for (uint32_t g = 0; g < shape.groups.size(); ++g) {
    const auto& layers = shape.groups[g].layers;
    if (std::binary_search(layers.begin(), layers.end(), layer)) return g;
  }
  return 0;  // a validated shape does not come here
}

std::vector<TensorSpec> EmbedTensors(const ModelShape& s) {
  return {{"token_embd.weight", {s.d_model, s.n_vocab}}};
}

std::vector<TensorSpec> CommonTensors(const ModelShape& s) {
  if (!s.rope_factors) return {};
  return {{"rope_freqs.weight", {s.n_rot / 2}}};
}

std::vector<TensorSpec> NormTensors(const ModelShape& s) {
  return {{"output_norm.weight", {s.d_model}}};
}

std::vector<TensorSpec> OutputTensors(const ModelShape& s) {
  if (s.tied_output) return {};
  return {{"output.weight", {s.d_model, s.n_vocab}}};
}

std::vector<TensorSpec> LayerTensors(const ModelShape& s, uint32_t l) {
  const uint64_t q = uint64_t{s.n_heads} * s.head_dim;
  const uint64_t kv = uint64_t{s.n_kv_heads} * s.head_dim;
  std::vector<TensorSpec> out = {
      {Layer(l, "attn_norm"), {s.d_model}},        {Layer(l, "attn_q"), {s.d_model, q}},
      {Layer(l, "attn_k"), {s.d_model, kv}},       {Layer(l, "attn_v"), {s.d_model, kv}},
      {Layer(l, "attn_output"), {q, s.d_model}},   {Layer(l, "ffn_norm"), {s.d_model}},
      {Layer(l, "ffn_gate"), {s.d_model, s.d_ff}}, {Layer(l, "ffn_up"), {s.d_model, s.d_ff}},
      {Layer(l, "ffn_down"), {s.d_ff, s.d_model}},
  };
  if (s.family == Family::kGemma3) {
    Append(&out, {{Layer(l, "attn_q_norm"), {s.head_dim}},
                  {Layer(l, "attn_k_norm"), {s.head_dim}},
                  {Layer(l, "post_attention_norm"), {s.d_model}},
                  {Layer(l, "post_ffw_norm"), {s.d_model}}});
  }
  return out;
}

std::vector<TensorSpec> ExpectedTensors(const ModelShape& shape) {
  std::vector<TensorSpec> out = EmbedTensors(shape);
  Append(&out, CommonTensors(shape));
  for (uint32_t layer = 0; layer < shape.n_layers; ++layer)
    Append(&out, LayerTensors(shape, layer));
  Append(&out, NormTensors(shape));
  Append(&out, OutputTensors(shape));
  return out;
}

absl::Status CheckTensor(const TensorSpec& spec, const TensorInfo& info) {
  if (info.dims != spec.dims) {
    return InvalidArgument("tensor ", QuoteName(spec.name), ": dims are ", DimsText(info.dims),
                           ", must be ", DimsText(spec.dims));
  }
  const auto traits = TraitsOf(info.type);
  if (!traits) {
    return InvalidArgument("tensor ", QuoteName(spec.name), ": type is ",
                           static_cast<uint32_t>(info.type), ", not a tensor type");
  }
  if (spec.dims.size() == 1 && info.type != TensorType::kF32) {
    return Unimplemented("tensor ", QuoteName(spec.name), ": type is ", AbslView(traits->name),
                         ", must be F32");
  }
  if (!traits->computable) {
    return Unimplemented("tensor ", QuoteName(spec.name), ": type ", AbslView(traits->name),
                         " is not computed; supported: F32 F16 Q4_0 Q4_1 Q5_0 Q8_0 Q4_K Q6_K");
  }
  if (spec.dims[0] % traits->elements != 0) {
    return InvalidArgument("tensor ", QuoteName(spec.name), ": dims[0] is ", spec.dims[0],
                           ", must be a multiple of ", traits->elements, " (",
                           AbslView(traits->name), " block)");
  }
  return absl::OkStatus();
}

}  // namespace lanyard::model
