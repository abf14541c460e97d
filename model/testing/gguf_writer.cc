#include "model/testing/gguf_writer.h"

#include <algorithm>

#include "absl/strings/str_cat.h"
#include "base/status.h"
#include "gtest/gtest.h"

namespace lanyard::model::testing {
namespace {

constexpr uint32_t Number(GgufValueType type) { return static_cast<uint32_t>(type); }

uint64_t DataBytes(TensorType type, const std::vector<uint64_t>& dims) {
  const auto traits = TraitsOf(type);
  uint64_t elements = 1;
  for (const uint64_t d : dims) elements *= d;
  return traits ? elements / traits->elements * traits->bytes : 0;
}

// The keys and tensors that both families have.
GgufWriter TinyWriter(const std::string& arch, uint32_t layers, uint32_t n_kv_heads) {
  GgufWriter w;
  w.Str("general.architecture", arch).Str("general.name", "Tiny");
  w.U32(arch + ".block_count", layers)
      .U32(arch + ".context_length", 128)
      .U32(arch + ".embedding_length", 64);
  w.U32(arch + ".feed_forward_length", 96).U32(arch + ".attention.head_count", 4);
  w.U32(arch + ".attention.head_count_kv", n_kv_heads)
      .F32(arch + ".attention.layer_norm_rms_epsilon", 1e-5f);
  std::vector<std::string> tokens;
  for (int i = 0; i < 40; ++i) tokens.push_back(absl::StrCat("t", i));
  w.Str("tokenizer.ggml.model", "llama").Strings("tokenizer.ggml.tokens", tokens);
  w.Floats("tokenizer.ggml.scores", std::vector<float>(40, 0.0f));
  w.Ints("tokenizer.ggml.token_type", std::vector<int32_t>(40, 1));
  w.U32("tokenizer.ggml.bos_token_id", 1).U32("tokenizer.ggml.eos_token_id", 2);
  w.Tensor("token_embd.weight", TensorType::kF32, {64, 40});
  w.Tensor("output_norm.weight", TensorType::kF32, {64});
  for (uint32_t l = 0; l < layers; ++l) {
    const auto add = [&](const char* name, const std::vector<uint64_t>& dims) {
      w.Tensor(absl::StrCat("blk.", l, ".", name, ".weight"), TensorType::kF32, dims);
    };
    add("attn_norm", {64});
    add("attn_q", {64, 64});
    add("attn_k", {64, 16 * n_kv_heads});
    add("attn_v", {64, 16 * n_kv_heads});
    add("attn_output", {64, 64});
    add("ffn_norm", {64});
    add("ffn_gate", {64, 96});
    add("ffn_up", {64, 96});
    add("ffn_down", {96, 64});
    if (arch != "gemma3") continue;
    add("attn_q_norm", {16});
    add("attn_k_norm", {16});
    add("post_attention_norm", {64});
    add("post_ffw_norm", {64});
  }
  return w;
}

}  // namespace

GgufWriter& GgufWriter::Value(std::string_view key, uint32_t type, const Bytes& bytes) {
  for (Entry& entry : entries_) {
    if (entry.key != key) continue;
    entry.type = type;
    entry.bytes = bytes.data();
    return *this;
  }
  entries_.push_back({std::string(key), type, bytes.data()});
  return *this;
}

GgufWriter& GgufWriter::U32(std::string_view key, uint32_t v) {
  return Value(key, Number(GgufValueType::kUint32), Bytes().U32(v));
}
GgufWriter& GgufWriter::I32(std::string_view key, int32_t v) {
  return Value(key, Number(GgufValueType::kInt32), Bytes().U32(static_cast<uint32_t>(v)));
}
GgufWriter& GgufWriter::U64(std::string_view key, uint64_t v) {
  return Value(key, Number(GgufValueType::kUint64), Bytes().U64(v));
}
GgufWriter& GgufWriter::F32(std::string_view key, float v) {
  return Value(key, Number(GgufValueType::kFloat32), Bytes().F32(v));
}
GgufWriter& GgufWriter::Bool(std::string_view key, bool v) {
  return Value(key, Number(GgufValueType::kBool), Bytes().U8(v));
}
GgufWriter& GgufWriter::Str(std::string_view key, std::string_view v) {
  return Value(key, Number(GgufValueType::kString), Bytes().Str(v));
}

GgufWriter& GgufWriter::Strings(std::string_view key, const std::vector<std::string>& v) {
  Bytes bytes;
  bytes.U32(Number(GgufValueType::kString)).U64(v.size());
  for (const std::string& s : v) bytes.Str(s);
  return Value(key, Number(GgufValueType::kArray), bytes);
}

GgufWriter& GgufWriter::Floats(std::string_view key, const std::vector<float>& v) {
  Bytes bytes;
  bytes.U32(Number(GgufValueType::kFloat32)).U64(v.size()).Raw(v.data(), v.size() * sizeof(float));
  return Value(key, Number(GgufValueType::kArray), bytes);
}

GgufWriter& GgufWriter::Ints(std::string_view key, const std::vector<int32_t>& v) {
  Bytes bytes;
  bytes.U32(Number(GgufValueType::kInt32)).U64(v.size()).Raw(v.data(), v.size() * sizeof(int32_t));
  return Value(key, Number(GgufValueType::kArray), bytes);
}

GgufWriter& GgufWriter::Duplicate(std::string_view key) {
  const auto it =
      std::find_if(entries_.begin(), entries_.end(), [&](const Entry& e) { return e.key == key; });
  EXPECT_NE(it, entries_.end()) << key;
  if (it != entries_.end()) entries_.push_back(Entry(*it));
  return *this;
}

GgufWriter& GgufWriter::Remove(std::string_view key) {
  EXPECT_EQ(std::erase_if(entries_, [&](const Entry& e) { return e.key == key; }), 1u) << key;
  return *this;
}

GgufWriter& GgufWriter::Tensor(std::string_view name, TensorType type,
                               const std::vector<uint64_t>& dims) {
  tensors_.push_back(
      {std::string(name), static_cast<uint32_t>(type), dims, DataBytes(type, dims), std::nullopt});
  return *this;
}

GgufWriter& GgufWriter::RemoveTensor(std::string_view name) {
  EXPECT_EQ(std::erase_if(tensors_, [&](const WriterTensor& t) { return t.name == name; }), 1u)
      << name;
  return *this;
}

WriterTensor& GgufWriter::Edit(std::string_view name) {
  for (WriterTensor& tensor : tensors_) {
    if (tensor.name == name) return tensor;
  }
  ADD_FAILURE() << "no tensor " << name;
  return tensors_.front();
}

std::vector<uint8_t> GgufWriter::BuildHeader() const {
  Bytes out;
  out.Text("GGUF")
      .U32(version)
      .U64(tensor_count.value_or(tensors_.size()))
      .U64(kv_count.value_or(entries_.size()));
  for (const Entry& entry : entries_) out.Str(entry.key).U32(entry.type).Append(entry.bytes);
  uint64_t offset = 0;
  for (const WriterTensor& tensor : tensors_) {
    out.Str(tensor.name).U32(static_cast<uint32_t>(tensor.dims.size()));
    for (const uint64_t d : tensor.dims) out.U64(d);
    out.U32(tensor.type).U64(tensor.offset.value_or(offset));
    offset += (tensor.bytes + alignment - 1) / alignment * alignment;
  }
  return out.data();
}

std::vector<uint8_t> GgufWriter::Build() const {
  Bytes out;
  out.Append(BuildHeader());
  if (tensors_.empty()) return out.data();
  const auto pad = [&] { out.Zeros((alignment - out.data().size() % alignment) % alignment); };
  pad();
  for (const WriterTensor& tensor : tensors_) {
    tensor.data.empty() ? out.Zeros(tensor.bytes) : out.Append(tensor.data);
    pad();
  }
  return out.data();
}

GgufWriter TinyLlama() {
  GgufWriter w = TinyWriter("llama", 2, 2);
  w.U32("llama.rope.dimension_count", 16).F32("llama.rope.freq_base", 10000.0f);
  w.Tensor("output.weight", TensorType::kF32, {64, 40});
  return w;
}

GgufWriter TinyGemma3() {
  GgufWriter w = TinyWriter("gemma3", 7, 1);
  w.U32("gemma3.attention.key_length", 16).U32("gemma3.attention.value_length", 16);
  w.U32("gemma3.attention.sliding_window", 16).F32("gemma3.rope.freq_base", 1e6f);
  return w;
}

}  // namespace lanyard::model::testing
