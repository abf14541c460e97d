#include "model/memory.h"

#include <algorithm>

#include "base/packed_bytes.h"

namespace lanyard::model {
namespace {

// These are the engine's own figures (engine/step.h, engine/ops), which this room may not include;
// tests/memory compares them.
constexpr uint64_t kHeadRows = 16;  // rows whose logits lie in memory together
// For one token of the vocabulary: candidates and their sums.
constexpr uint64_t kSamplerBytes = 12;
constexpr uint64_t kRopeKinds = 2;
constexpr uint64_t kAttentionTileBytes = 12;  // for one row
constexpr uint64_t kQuantBlockBytes = 60;  // for a row's block of 32 inputs as int8, scale and sums
constexpr uint64_t kFloatBlockBytes = 128;
constexpr uint64_t kTileQueries = 64;
// The frames of hidden states on one side of a stage: those being decoded or encoded, and those
// that wait for the other side.
constexpr uint64_t kFramesHeld = 3;

// Rows enter quantised products in one form and float ones in another; a model may have both.
uint64_t InputBlockBytes(const Manifest& manifest) {
  bool quantised = false, floats = false;
  for (const Part& part : manifest.parts) {
    for (const TensorInfo& t : part.tensors) {
      if (t.dims.size() < 2) continue;
      const auto traits = TraitsOf(t.type);
      (traits && traits->elements > 1 ? quantised : floats) = true;
    }
  }
  return (quantised ? kQuantBlockBytes : 0) + (floats ? kFloatBlockBytes : 0);
}

// For one thread: two converted parts of a KV page and, for each query of a tile, output,
// probabilities and sums.
uint64_t AttentionScratchBytes(const ModelShape& shape) {
  const uint64_t group = shape.n_heads / std::max(1u, shape.n_kv_heads);
  const uint64_t queries = std::max<uint64_t>(kTileQueries, group);
  const uint64_t padded = (uint64_t{shape.head_dim} + 15) / 16 * 16;
  return 4 * (2 * 32 * padded + queries * (padded + 32) + (queries + 15) / 16 * 16 * 6 + 16);
}

}  // namespace

uint64_t KvHeadBytes(std::string_view kv_type, uint32_t head_dim) {
  if (kv_type == "f32") return uint64_t{head_dim} * 4;
  if (kv_type == "f16") return uint64_t{head_dim} * 2;
  if (kv_type == "q8") return uint64_t{head_dim} + 4;
  return 0;
}

uint64_t HeldTensorBytes(const TensorInfo& tensor) {
  if (tensor.dims.empty()) return 0;
  if (tensor.dims.size() == 1) return tensor.dims[0] * 4;
  uint64_t rows = 1;
  for (size_t i = 1; i < tensor.dims.size(); ++i) rows *= tensor.dims[i];
  return AllocatedBytes(PackedMatrixBytes(tensor.type, rows, tensor.dims[0]));
}

uint64_t HeldPartBytes(const Part& part) {
  uint64_t bytes = 0;
  for (const TensorInfo& t : part.tensors) bytes += HeldTensorBytes(t);
  return bytes;
}

uint64_t WeightsBytes(const Manifest& manifest, const StageDuty& duty) {
  uint64_t bytes = 0;
  for (const std::string& name :
       PartsOfStage(manifest, duty.layer_begin, duty.layer_end, duty.embeds, duty.samples)) {
    const Part* part = manifest.Find(name);
    if (part == nullptr) continue;
    const bool read_on_demand = name == "embed" && !(duty.samples && manifest.shape.tied_output);
    if (!read_on_demand) bytes += HeldPartBytes(*part);
  }
  return bytes;
}

uint64_t LayerKvBytes(const ModelShape& shape, uint32_t blocks, const StageDuty& duty) {
  return uint64_t{blocks} * duty.kv_block_tokens * 2 * shape.n_kv_heads * duty.kv_head_bytes;
}

uint64_t KvBytes(const ModelShape& shape, const StageDuty& duty) {
  uint64_t bytes = 0;
  for (uint32_t layer = duty.layer_begin; layer < duty.layer_end; ++layer) {
    const uint32_t group = GroupOfLayer(shape, layer);
    if (group < duty.group_blocks.size()) {
      bytes += LayerKvBytes(shape, duty.group_blocks[group], duty);
    }
  }
  return bytes;
}

uint64_t BufferBytes(const Manifest& manifest, const StageDuty& duty) {
  const ModelShape& shape = manifest.shape;
  const bool has_layers = duty.layer_begin < duty.layer_end;
  const uint64_t d_attn = uint64_t{shape.n_heads} * shape.head_dim;
  const uint64_t d_qkv = d_attn + 2 * uint64_t{shape.n_kv_heads} * shape.head_dim;
  // The residual stream and a block's input or output.
  uint64_t row_bytes = 2 * 4 * uint64_t{shape.d_model};
  uint64_t widest = shape.d_model;  // input of a product
  if (has_layers) {
    row_bytes += 4 * std::max<uint64_t>(d_qkv + d_attn, 2 * uint64_t{shape.d_ff});
    row_bytes += 4 * 2 * kRopeKinds * uint64_t{shape.n_rot};
    row_bytes += kAttentionTileBytes;
    widest = std::max<uint64_t>({widest, d_attn, shape.d_ff});
  }
  row_bytes += (widest + 31) / 32 * InputBlockBytes(manifest);
  uint64_t bytes = duty.max_rows * row_bytes;
  if (has_layers) bytes += duty.threads * AttentionScratchBytes(shape);
  if (duty.samples) {
    bytes += (std::min<uint64_t>(duty.max_rows, kHeadRows) * 4 + kSamplerBytes) * shape.n_vocab;
  }
  const uint64_t frame = duty.max_rows * duty.wire_row_bytes;
  if (!duty.embeds) bytes += kFramesHeld * frame;
  if (!duty.samples) bytes += kFramesHeld * frame;
  return bytes;
}

StageBytes StageMemoryBytes(const Manifest& manifest, const StageDuty& duty) {
  return {WeightsBytes(manifest, duty), KvBytes(manifest.shape, duty), BufferBytes(manifest, duty)};
}

}  // namespace lanyard::model
