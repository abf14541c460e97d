// Makes a ModelShape from a GGUF file's metadata, with the keys and defaults as llama.cpp reads
// them (src/llama-model.cpp, load_hparams).
#include <algorithm>
#include <cmath>
#include <limits>

#include "absl/container/flat_hash_set.h"
#include "model/gguf.h"
#include "model/gguf_header.h"
#include "model/model_shape.h"
#include "model/unicode.h"

namespace lanyard::model {
namespace {

// Reads ARCH.* keys. The first error stays, and every later read gives the default.
class Keys {
 public:
  Keys(const GgufFile& file, std::string arch) : file_(file), arch_(std::move(arch)) {}

  std::string Name(std::string_view key) const { return absl::StrCat(arch_, ".", AbslView(key)); }
  bool Has(std::string_view key) const { return file_.Has(Name(key)); }
  const absl::Status& status() const { return status_; }

  uint32_t Required(std::string_view key) { return Narrow(key, file_.Uint(Name(key))); }
  uint32_t Optional(std::string_view key, uint32_t fallback) {
    return Has(key) ? Required(key) : fallback;
  }

  // Reads a number, or an array (one a layer) whose elements are all equal.
  uint32_t PerLayer(std::string_view key) {
    const auto length = file_.ArrayLength(Name(key));
    if (!length.ok()) return Required(key);
    const auto values = file_.Ints(Name(key));
    if (!values.ok()) return Keep(values.status());
    if (values->empty())
      return Keep(InvalidArgument("key ", QuoteName(Name(key)), " is an empty array"));
    for (const int64_t v : *values) {
      if (v != values->front()) {
        return Keep(Unimplemented("key ", QuoteName(Name(key)), " differs from layer to layer (",
                                  values->front(), ", ", v, "), which is not supported"));
      }
    }
    if (values->front() < 0)
      return Keep(InvalidArgument("key ", QuoteName(Name(key)), " is negative"));
    return Narrow(key, static_cast<uint64_t>(values->front()));
  }

  float RequiredFloat(std::string_view key) {
    const auto value = file_.Float(Name(key));
    if (!value.ok()) return static_cast<float>(Keep(value.status()));
    if (!(std::abs(*value) <= std::numeric_limits<float>::max())) {
      return static_cast<float>(
          Keep(InvalidArgument("key ", QuoteName(Name(key)), " is ", *value, ", must be finite")));
    }
    return static_cast<float>(*value);
  }
  float OptionalFloat(std::string_view key, float fallback) {
    return Has(key) ? RequiredFloat(key) : fallback;
  }

  std::string OptionalString(std::string_view key, std::string_view fallback) {
    if (!Has(key)) return std::string(fallback);
    const auto value = file_.String(Name(key));
    if (value.ok()) return std::string(*value);
    Keep(value.status());
    return std::string(fallback);
  }

  uint32_t Keep(const absl::Status& status) {
    if (status_.ok()) {
      status_ =
          status.code() == absl::StatusCode::kNotFound ? InvalidArgument(status.message()) : status;
    }
    return 0;
  }

 private:
  uint32_t Narrow(std::string_view key, const absl::StatusOr<uint64_t>& value) {
    if (!value.ok()) return Keep(value.status());
    if (*value > std::numeric_limits<uint32_t>::max()) {
      return Keep(InvalidArgument("key ", QuoteName(Name(key)), " is ", *value, ", the limit is ",
                                  std::numeric_limits<uint32_t>::max()));
    }
    return static_cast<uint32_t>(*value);
  }

  const GgufFile& file_;
  const std::string arch_;
  absl::Status status_;
};

absl::StatusOr<Family> FamilyOf(const GgufFile& file) {
  const auto arch = file.String("general.architecture");
  if (!arch.ok()) return InvalidArgument(arch.status().message());
  if (const auto family = FamilyNamed(*arch)) return *family;
  std::string supported;
  for (const Family family : kFamilies)
    absl::StrAppend(&supported, supported.empty() ? "" : ", ", FamilyName(family));
  return Unimplemented("architecture '", EscapeText(arch->substr(0, 40)),
                       "' is not supported; supported: ", supported);
}

// What would change the result and is not computed here is refused by name, never ignored.
absl::Status RefuseUnknown(const GgufFile& file, Keys& keys) {
  if (const auto splits = file.Uint("split.count"); splits.ok() && *splits > 1) {
    return Unimplemented("key \"split.count\" is ", *splits,
                         ": one file of a split model; merge them first");
  }
  if (const uint32_t experts = keys.Optional("expert_count", 0); experts != 0) {
    return Unimplemented("key ", QuoteName(keys.Name("expert_count")), " is ", experts,
                         ": mixtures of experts are not supported yet");
  }
  if (const auto causal = file.Bool(keys.Name("attention.causal")); causal.ok() && !*causal) {
    return Unimplemented("key ", QuoteName(keys.Name("attention.causal")),
                         " is false: not a generating model");
  }
  for (const char* key :
       {"attn_logit_softcapping", "final_logit_softcapping", "attention.clamp_kqv"}) {
    if (const float v = keys.OptionalFloat(key, 0); v != 0) {
      return Unimplemented("key ", QuoteName(keys.Name(key)), " is ", v,
                           ", which is not supported");
    }
  }
  if (const float v = keys.OptionalFloat("rope.scaling.attn_factor", 1); v != 1 && v != 0) {
    return Unimplemented("key ", QuoteName(keys.Name("rope.scaling.attn_factor")), " is ", v,
                         ", must be 1");
  }
  return keys.status();
}

void ReadRope(Keys& keys, ModelShape* s) {
  s->n_rot = keys.Optional("rope.dimension_count", s->head_dim);
  s->rope_base = keys.OptionalFloat("rope.freq_base", 10000.0f);
  s->rope_base_local = s->rope_base;
  const std::string type = keys.OptionalString("rope.scaling.type", "linear");
  if (type == "none") return;
  if (type != "linear") {
    keys.Keep(Unimplemented("key ", QuoteName(keys.Name("rope.scaling.type")), " is ",
                            QuoteName(type), "; supported: none, linear"));
    return;
  }
  // The older key is rope.scale_linear; 0 means no scaling in both.
  const float factor =
      keys.OptionalFloat("rope.scaling.factor", keys.OptionalFloat("rope.scale_linear", 0));
  if (factor != 0) s->rope_scale = 1.0f / factor;
}

// Says which layers slide. As in llama.cpp, every 6th layer of gemma3 sees everything, unless the
// file says otherwise.
absl::StatusOr<std::vector<bool>> SlidingLayers(const GgufFile& file, Keys& keys,
                                                uint32_t n_layers) {
  std::vector<bool> sliding(n_layers);
  const std::string key = keys.Name("attention.sliding_window_pattern");
  if (file.ArrayLength(key).ok()) {
    ASSIGN_OR_RETURN(const std::vector<int64_t> pattern, file.Ints(key));
    if (pattern.size() != n_layers) {
      return InvalidArgument("key ", QuoteName(key), " has ", pattern.size(),
                             " elements, must have one a layer, ", n_layers);
    }
    for (uint32_t i = 0; i < n_layers; ++i) sliding[i] = pattern[i] != 0;
    return sliding;
  }
  const uint32_t period = keys.Optional("attention.sliding_window_pattern", 6);
  RETURN_IF_ERROR(keys.status());
  for (uint32_t i = 0; i < n_layers; ++i) sliding[i] = period == 0 || i % period < period - 1;
  return sliding;
}

absl::Status ReadGemma3(const GgufFile& file, Keys& keys, ModelShape* s) {
  // The 27B model scales its queries by the width of the model, not of the head
  // (google/gemma_pytorch, config.py).
  if (s->n_layers == 62) {
    const uint32_t width = s->d_model / s->n_heads;
    s->attention_scale = 1.0f / std::sqrt(static_cast<float>(width));
  }
  const uint32_t window = keys.Optional("attention.sliding_window", 0);
  RETURN_IF_ERROR(keys.status());
  StateGroup full, local;
  local.kind = StateKind::kSliding;
  local.window = window;
  std::vector<bool> sliding(s->n_layers, false);
  if (window > 0) {
    ASSIGN_OR_RETURN(sliding, SlidingLayers(file, keys, s->n_layers));
    s->rope_base_local = keys.OptionalFloat("rope.freq_base_swa", 10000.0f);
  }
  for (uint32_t i = 0; i < s->n_layers; ++i) (sliding[i] ? local : full).layers.push_back(i);
  for (StateGroup* group : {&full, &local}) {
    if (!group->layers.empty()) s->groups.push_back(std::move(*group));
  }
  return keys.status();
}

absl::StatusOr<ModelShape> ReadHyperparameters(const GgufFile& file, Family family) {
  ModelShape s;
  s.family = family;
  Keys keys(file, FamilyName(family));
  RETURN_IF_ERROR(RefuseUnknown(file, keys));
  if (const auto name = file.String("general.name"); name.ok())
    s.name = std::string(name->substr(0, 256));
  s.n_layers = keys.Required("block_count");
  s.d_model = keys.Required("embedding_length");
  s.d_ff = keys.PerLayer("feed_forward_length");
  s.context_length = keys.Required("context_length");
  s.n_heads = keys.PerLayer("attention.head_count");
  s.n_kv_heads =
      keys.Has("attention.head_count_kv") ? keys.PerLayer("attention.head_count_kv") : s.n_heads;
  s.norm_eps = keys.RequiredFloat("attention.layer_norm_rms_epsilon");
  RETURN_IF_ERROR(keys.status());
  // The numbers are bounded before they are divided or used in a loop.
  if (s.n_heads == 0)
    return InvalidArgument("key ", QuoteName(keys.Name("attention.head_count")), " is 0");
  if (s.n_layers == 0 || s.n_layers > 1024) {
    return InvalidArgument("key ", QuoteName(keys.Name("block_count")), " is ", s.n_layers,
                           ", must be 1 to 1024");
  }
  s.head_dim = keys.Optional("attention.key_length", s.d_model / s.n_heads);
  const uint32_t value_length = keys.Optional("attention.value_length", s.d_model / s.n_heads);
  RETURN_IF_ERROR(keys.status());
  if (value_length != s.head_dim) {
    return Unimplemented("key ", QuoteName(keys.Name("attention.value_length")), " is ",
                         value_length, ", must equal attention.key_length, ", s.head_dim);
  }
  if (s.head_dim == 0)
    return InvalidArgument("key ", QuoteName(keys.Name("attention.key_length")), " is 0");
  s.attention_scale = 1.0f / std::sqrt(static_cast<float>(s.head_dim));
  ReadRope(keys, &s);
  RETURN_IF_ERROR(keys.status());
  if (family == Family::kGemma3) {
    RETURN_IF_ERROR(ReadGemma3(file, keys, &s));
    return s;
  }
  StateGroup full;
  for (uint32_t i = 0; i < s.n_layers; ++i) full.layers.push_back(i);
  s.groups.push_back(std::move(full));
  return s;
}

absl::Status CheckLength(const GgufFile& file, std::string_view key, uint32_t n_vocab) {
  if (!file.Has(key)) return absl::OkStatus();
  ASSIGN_OR_RETURN(const uint64_t length, file.ArrayLength(key));
  if (length == n_vocab) return absl::OkStatus();
  return InvalidArgument("key ", QuoteName(key), " has ", length,
                         " elements, token_embd.weight has ", n_vocab, " rows");
}

// The vocabulary against the model: lengths and types. What its ids must be is the tokenizer's to
// judge (model/vocab.h).
absl::Status CheckVocabulary(const GgufFile& file, uint32_t n_vocab) {
  RETURN_IF_ERROR(CheckLength(file, "tokenizer.ggml.tokens", n_vocab));
  RETURN_IF_ERROR(CheckLength(file, "tokenizer.ggml.token_type", n_vocab));
  const bool bpe = file.String("tokenizer.ggml.model").value_or("") == "gpt2";  // reads no scores
  if (!bpe && file.Has("tokenizer.ggml.scores")) {
    RETURN_IF_ERROR(CheckLength(file, "tokenizer.ggml.scores", n_vocab));
    ASSIGN_OR_RETURN(const std::vector<float> scores, file.Floats("tokenizer.ggml.scores"));
    for (size_t i = 0; i < scores.size(); ++i) {
      if (!std::isnan(scores[i])) continue;
      return InvalidArgument("key \"tokenizer.ggml.scores\": element ", i, " is not a number");
    }
  }
  return absl::OkStatus();
}

// Checks that every tensor that the family needs is as it must be, and that there is no other.
absl::Status CheckTensors(const GgufFile& file, ModelShape* s) {
  absl::flat_hash_set<std::string> expected;
  s->float_weights = true;
  for (TensorSpec& spec : ExpectedTensors(*s)) {
    const TensorInfo* info = file.Find(spec.name);
    if (info == nullptr) return InvalidArgument("tensor ", QuoteName(spec.name), " is missing");
    RETURN_IF_ERROR(CheckTensor(spec, *info));
    if (spec.dims.size() > 1 && info->type != TensorType::kF32) s->float_weights = false;
    expected.insert(std::move(spec.name));
  }
  for (const TensorInfo& info : file.tensors()) {
    if (expected.contains(info.name)) continue;
    return Unimplemented(
        "tensor ", QuoteName(info.name), " is not part of a ", FamilyName(s->family),
        " model with these hyperparameters; it would change the result and is not computed");
  }
  return absl::OkStatus();
}

}  // namespace

absl::StatusOr<ModelShape> ShapeFromGguf(const GgufFile& file) {
  ASSIGN_OR_RETURN(const Family family, FamilyOf(file));
  if (file.tensors().empty()) {
    return InvalidArgument("tensor_count is 0: a vocabulary without weights cannot be run");
  }
  ASSIGN_OR_RETURN(ModelShape shape, ReadHyperparameters(file, family));
  const TensorInfo* embed = file.Find("token_embd.weight");
  if (embed == nullptr) return InvalidArgument("tensor \"token_embd.weight\" is missing");
  if (embed->dims.size() != 2 || embed->dims[1] > kGgufMaxArrayElements) {
    return InvalidArgument("tensor \"token_embd.weight\": must have 2 dims and at most ",
                           kGgufMaxArrayElements, " rows");
  }
  shape.n_vocab = static_cast<uint32_t>(embed->dims[1]);
  shape.rope_factors = file.Find("rope_freqs.weight") != nullptr && family == Family::kLlama;
  shape.tied_output = file.Find("output.weight") == nullptr;
  RETURN_IF_ERROR(ValidateShape(shape));
  RETURN_IF_ERROR(CheckVocabulary(file, shape.n_vocab));
  RETURN_IF_ERROR(CheckTensors(file, &shape));
  return shape;
}

}  // namespace lanyard::model
