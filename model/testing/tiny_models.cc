#include "model/testing/tiny_models.h"

#include <cmath>
#include <cstdlib>
#include <cstring>

#include "absl/strings/str_cat.h"
#include "absl/strings/str_replace.h"
#include "model/unicode.h"

namespace lanyard::model::testing {
namespace {

constexpr uint32_t kTokens = 288;
constexpr uint32_t kBos = 263, kEos = 264;

using Tensors = std::vector<TinyTensor>;
using Keys = std::vector<std::pair<std::string, KeyValue>>;

template <typename List>
List Join(std::initializer_list<List> lists) {
  List out;
  for (const List& list : lists) out.insert(out.end(), list.begin(), list.end());
  return out;
}

// What every family has.
Keys Sizes(uint32_t d_model, uint32_t d_ff, uint32_t heads, uint32_t kv_heads) {
  return {{"context_length", 512u},
          {"embedding_length", d_model},
          {"feed_forward_length", d_ff},
          {"attention.head_count", heads},
          {"attention.head_count_kv", kv_heads},
          {"vocab_size", kTokens}};
}

Tensors Embedding(uint64_t d_model) {
  return {{"token_embd.weight", {d_model, kTokens}}, {"output_norm.weight", {d_model}}};
}
Tensors Output(uint64_t d_model) { return {{"output.weight", {d_model, kTokens}}}; }
Tensors Attention(uint64_t d_model, uint64_t q, uint64_t kv) {
  return {{"blk.*.attn_norm.weight", {d_model}},
          {"blk.*.attn_q.weight", {d_model, q}},
          {"blk.*.attn_k.weight", {d_model, kv}},
          {"blk.*.attn_v.weight", {d_model, kv}},
          {"blk.*.attn_output.weight", {q, d_model}}};
}
Tensors GatedFfn(uint64_t d_model, uint64_t d_ff) {
  return {{"blk.*.ffn_norm.weight", {d_model}},
          {"blk.*.ffn_gate.weight", {d_model, d_ff}},
          {"blk.*.ffn_up.weight", {d_model, d_ff}},
          {"blk.*.ffn_down.weight", {d_ff, d_model}}};
}

TinyModel Llama() {
  return {.name = "llama",
          .arch = "llama",
          .layers = 3,
          .keys = Join({Sizes(64, 160, 4, 2),
                        {{"attention.layer_norm_rms_epsilon", 1e-5f},
                         {"rope.freq_base", 10000.0f},
                         {"rope.dimension_count", 16u}}}),
          .tensors = Join({Embedding(64), Attention(64, 64, 32), GatedFfn(64, 160), Output(64)})};
}

TinyModel LlamaTiedRopeFactors() {
  return {.name = "llama-tied-rope-factors",
          .arch = "llama",
          .layers = 3,
          .keys = Join({Sizes(64, 160, 8, 2),
                        {{"attention.layer_norm_rms_epsilon", 1e-5f},
                         {"rope.freq_base", 500000.0f},
                         {"rope.dimension_count", 8u}}}),
          .tensors = Join({Embedding(64),
                           {{"rope_freqs.weight", {4}, {1, 1.5f, 4, 8}}},
                           Attention(64, 64, 16),
                           GatedFfn(64, 160)})};
}

TinyModel Gemma3() {
  return {.name = "gemma3",
          .arch = "gemma3",
          .tolerance = 5e-3,  // llama.cpp takes GELU from a table of f16
          .layers = 7,
          .edge = 0.2f,  // llama.cpp, as the paper, multiplies embeddings by sqrt(d_model)
          .keys = Join({Sizes(64, 160, 4, 1),
                        {{"attention.layer_norm_rms_epsilon", 1e-6f},
                         {"attention.key_length", 32u},
                         {"attention.value_length", 32u},
                         {"attention.sliding_window", 16u},
                         {"rope.freq_base", 1e6f},
                         {"rope.scaling.type", std::string("linear")},
                         {"rope.scaling.factor", 8.0f}}}),
          .tensors = Join({Embedding(64),
                           Attention(64, 128, 32),
                           {{"blk.*.attn_q_norm.weight", {32}},
                            {"blk.*.attn_k_norm.weight", {32}},
                            {"blk.*.post_attention_norm.weight", {64}},
                            {"blk.*.post_ffw_norm.weight", {64}}},
                           GatedFfn(64, 160)})};
}

// Byte by byte, with a few merges, so that ids of short texts are short words.
void AddTokenizer(GgufWriter& w) {
  std::vector<std::string> tokens;
  std::vector<int32_t> types;
  for (const std::string& byte : ByteAlphabet()) tokens.push_back(byte);
  const std::vector<std::string> merges = {"t h", "h e", "i n", "e r", "a n", "Ġ th", "Ġth e"};
  for (const std::string& merge : merges) tokens.push_back(absl::StrReplaceAll(merge, {{" ", ""}}));
  types.assign(tokens.size(), 1);
  for (const char* special : {"<|bos|>", "<|eos|>"}) {
    tokens.push_back(special);
    types.push_back(3);
  }
  while (tokens.size() < kTokens) {
    tokens.push_back(absl::StrCat("<|unused_", tokens.size(), "|>"));
    types.push_back(5);
  }
  w.Str("tokenizer.ggml.model", "gpt2").Str("tokenizer.ggml.pre", "gpt-2");
  w.Strings("tokenizer.ggml.tokens", tokens).Ints("tokenizer.ggml.token_type", types);
  w.Strings("tokenizer.ggml.merges", merges);
  w.U32("tokenizer.ggml.bos_token_id", kBos).U32("tokenizer.ggml.eos_token_id", kEos);
  w.Bool("tokenizer.ggml.add_bos_token", true);
}

void AddKey(GgufWriter& w, const std::string& key, const KeyValue& value) {
  if (const auto* u = std::get_if<uint32_t>(&value)) w.U32(key, *u);
  if (const auto* f = std::get_if<float>(&value)) w.F32(key, *f);
  if (const auto* b = std::get_if<bool>(&value)) w.Bool(key, *b);
  if (const auto* s = std::get_if<std::string>(&value)) w.Str(key, *s);
  if (const auto* list = std::get_if<std::vector<int32_t>>(&value)) w.Ints(key, *list);
}

// Integers alone, so that no library's idea of a distribution matters (splitmix64, public domain).
class Stream {
 public:
  explicit Stream(std::string_view name) {
    for (const char c : name) state_ = (state_ ^ static_cast<uint8_t>(c)) * 0x100000001b3;
  }
  // -1 up to 1, a multiple of 2^-23.
  float Next() {
    uint64_t z = state_ += 0x9e3779b97f4a7c15;
    z = (z ^ z >> 30) * 0xbf58476d1ce4e5b9;
    z = (z ^ z >> 27) * 0x94d049bb133111eb;
    z ^= z >> 31;
    return static_cast<float>(static_cast<int32_t>(z >> 40) - (1 << 23)) / (1 << 23);
  }

 private:
  uint64_t state_ = 0xcbf29ce484222325;
};

// Of an even spread. Layers weigh more than the embedding that they are added to (2/sqrt(n_in)
// against `edge`), so that a wrong layer shows in every logit; norms are around 1. One
// multiplication a weight: IEEE says what it gives.
std::vector<float> Weights(const TinyModel& model, const std::string& name,
                           const std::vector<uint64_t>& dims) {
  const bool norm = dims.size() == 1;
  const bool edge = name == "token_embd.weight" || name == "output.weight";
  const float deviation = norm   ? 0.1f
                          : edge ? model.edge
                                 : 2 / std::sqrt(static_cast<float>(dims[0]));
  const float reach = deviation * std::sqrt(3.0f);
  uint64_t n = 1;
  for (const uint64_t d : dims) n *= d;
  std::vector<float> out(n);
  Stream stream(absl::StrCat(model.name, "/", name));
  for (float& x : out) {
    x = stream.Next() * reach;
    if (norm) x += 1;
  }
  return out;
}

}  // namespace

const std::vector<TinyModel>& TinyModels() {
  static const auto* const models =
      new std::vector<TinyModel>{Llama(), LlamaTiedRopeFactors(), Gemma3()};
  return *models;
}

const TinyModel& FindTinyModel(std::string_view name) {
  for (const TinyModel& model : TinyModels()) {
    if (model.name == name) return model;
  }
  std::abort();
}

GgufWriter TinyModelWriter(const TinyModel& model) {
  GgufWriter w;
  w.Str("general.architecture", model.arch).Str("general.name", "tiny-" + model.name);
  w.U32(model.arch + ".block_count", model.layers);
  for (const auto& [key, value] : model.keys) AddKey(w, absl::StrCat(model.arch, ".", key), value);
  AddTokenizer(w);
  const auto add = [&](const std::string& name, const TinyTensor& tensor) {
    w.Tensor(name, TensorType::kF32, tensor.dims);
    const std::vector<float> values =
        tensor.values.empty() ? Weights(model, name, tensor.dims) : tensor.values;
    std::vector<uint8_t>& data = w.tensors().back().data;
    data.resize(values.size() * sizeof(float));
    std::memcpy(data.data(), values.data(), data.size());
  };
  for (const TinyTensor& tensor : model.tensors) {
    if (!tensor.name.starts_with("blk.*.")) add(tensor.name, tensor);
  }
  for (uint32_t layer = 0; layer < model.layers; ++layer) {
    for (const TinyTensor& tensor : model.tensors) {
      if (!tensor.name.starts_with("blk.*.")) continue;
      add(absl::StrCat("blk.", layer, tensor.name.substr(5)), tensor);
    }
  }
  return w;
}

}  // namespace lanyard::model::testing
