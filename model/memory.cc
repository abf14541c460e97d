#include "model/memory.h"

#include <algorithm>
#include <iterator>
#include <string>
#include <utility>

#include "base/packed_bytes.h"

namespace lanyard::model {
namespace {

// The engine's own figures (engine/step.h, engine/sampler.h, engine/ops), which this room may not
// include; tests/memory compares.
constexpr uint64_t kHeadRows = 16;            // rows whose logits lie in memory together
constexpr uint64_t kCandidateBytes = 8;       // the sampler's, of one token of the vocabulary
constexpr uint64_t kLogitChunk = 4096;        // tokens that are summed up together
constexpr uint64_t kAttentionTileBytes = 12;  // of one row
constexpr uint64_t kGroupRowBytes = 44;       // of one row and state group: where its pages are
constexpr uint64_t kPositionBytes = 4;
constexpr uint64_t kQuantBlockBytes = 60;  // a row's block of 32 inputs as int8, scale and sums
constexpr uint64_t kFloatBlockBytes = 128;
constexpr uint64_t kTileQueries = 64;

void AddInputs(const Part& part, bool* quantised, bool* floats) {
  for (const TensorInfo& t : part.tensors) {
    if (t.dims.size() < 2) continue;
    const auto traits = TraitsOf(t.type);
    *(traits && traits->elements > 1 ? quantised : floats) = true;
  }
}

// Rows enter quantised products in one form and float ones in another; a stage may have both. Which
// layers it will have is not known here, so those of all layers count.
uint64_t InputBlockBytes(const Manifest& manifest, const StageDuty& duty) {
  bool quantised = false, floats = false;
  const std::string head = manifest.shape.tied_output ? "embed" : "output";
  for (const Part& part : manifest.parts) {
    const bool of_layers =
        part.name != "embed" && part.name != "output" && duty.layer_begin < duty.layer_end;
    if (of_layers || (duty.samples && part.name == head)) AddInputs(part, &quantised, &floats);
  }
  return (quantised ? kQuantBlockBytes : 0) + (floats ? kFloatBlockBytes : 0);
}

// For one thread: two converted parts of a KV page and, for each query of a tile, output,
// probabilities and sums.
uint64_t AttentionScratchBytes(const ModelShape& shape) {
  const uint64_t group = shape.n_heads / std::max(1u, shape.n_kv_heads);
  const uint64_t queries =
      std::max<uint64_t>(1, kTileQueries / std::max<uint64_t>(1, group)) * group;
  const uint64_t padded = (uint64_t{shape.head_dim} + 15) / 16 * 16;
  return 4 * (2 * 32 * padded + queries * (padded + 32) + (queries + 15) / 16 * 16 * 6 + 16);
}

uint64_t RowBytes(const ModelShape& shape, bool has_layers, uint64_t input_block_bytes) {
  const uint64_t d_attn = uint64_t{shape.n_heads} * shape.head_dim;
  const uint64_t d_qkv = d_attn + 2 * uint64_t{shape.n_kv_heads} * shape.head_dim;
  // The residual stream and a block's input or output, and where the row's pages are.
  uint64_t bytes = 2 * 4 * uint64_t{shape.d_model} + kPositionBytes;
  bytes += shape.groups.size() * kGroupRowBytes;
  uint64_t widest = shape.d_model;  // input of a product
  if (has_layers) {
    bytes += 4 * std::max<uint64_t>(d_qkv + d_attn, 2 * uint64_t{shape.d_ff});
    bytes += 4 * 2 * uint64_t{RopeKinds(shape)} * shape.n_rot;
    bytes += kAttentionTileBytes;
    widest = std::max<uint64_t>({widest, d_attn, shape.d_ff});
  }
  return bytes + (widest + 31) / 32 * input_block_bytes;
}

// Logits of a group of rows, what is said of them in short, and the sampler.
uint64_t HeadBytes(const ModelShape& shape, uint64_t max_rows) {
  const uint64_t rows = std::min(max_rows, kHeadRows);
  const uint64_t chunks = (shape.n_vocab + kLogitChunk - 1) / kLogitChunk;
  return (rows * 4 + kCandidateBytes) * shape.n_vocab + (rows + 1) * chunks * 4;
}

// Whether b follows a as rows of one matrix, where they have one type.
bool AreNeighbours(const TensorInfo& a, const TensorInfo& b) {
  constexpr std::pair<std::string_view, std::string_view> kNeighbours[] = {
      {".attn_q.weight", ".attn_k.weight"},
      {".attn_k.weight", ".attn_v.weight"},
      {".ffn_gate.weight", ".ffn_up.weight"}};
  if (a.type != b.type || a.dims.size() != 2 || b.dims.size() != 2 || a.dims[0] != b.dims[0])
    return false;
  return std::any_of(std::begin(kNeighbours), std::end(kNeighbours), [&](const auto& pair) {
    return a.name.ends_with(pair.first) && b.name.ends_with(pair.second);
  });
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

std::vector<TensorInfo> AsHeld(const std::vector<TensorInfo>& tensors) {
  std::vector<TensorInfo> out;
  for (size_t i = 0; i < tensors.size(); ++i) {
    if (i > 0 && AreNeighbours(tensors[i - 1], tensors[i])) {
      out.back().dims[1] += tensors[i].dims[1];
      out.back().bytes += tensors[i].bytes;
    } else {
      out.push_back(tensors[i]);
    }
  }
  return out;
}

uint64_t HeldBytes(const std::vector<TensorInfo>& tensors) {
  uint64_t bytes = 0;
  for (const TensorInfo& tensor : AsHeld(tensors)) bytes += HeldTensorBytes(tensor);
  return bytes;
}

uint64_t WeightsBytes(const Manifest& manifest, const StageDuty& duty) {
  uint64_t bytes = 0;
  for (const std::string& name :
       PartsOfStage(manifest, duty.layer_begin, duty.layer_end, duty.embeds, duty.samples)) {
    const Part* part = manifest.Find(name);
    if (part == nullptr) continue;
    const bool read_on_demand = name == "embed" && !(duty.samples && manifest.shape.tied_output);
    if (!read_on_demand) bytes += HeldBytes(part->tensors);
  }
  return bytes;
}

uint64_t SharedWeightsBytes(const Manifest& manifest, const StageDuty& a, const StageDuty& b) {
  StageDuty both;
  both.layer_begin = std::max(a.layer_begin, b.layer_begin);
  both.layer_end = std::max(both.layer_begin, std::min(a.layer_end, b.layer_end));
  both.samples = a.samples && b.samples;
  uint64_t bytes = WeightsBytes(manifest, both);
  // Every stage computes with its own copy of the part that goes with all layers.
  const Part* common = manifest.Find("common");
  if (common != nullptr && both.layer_begin < both.layer_end) bytes -= HeldBytes(common->tensors);
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
  uint64_t bytes = duty.max_rows * RowBytes(shape, has_layers, InputBlockBytes(manifest, duty));
  if (has_layers) bytes += duty.threads * AttentionScratchBytes(shape);
  if (duty.samples) bytes += HeadBytes(shape, duty.max_rows);
  if (const Part* embed = manifest.Find("embed"); duty.embeds && embed != nullptr)
    bytes += embed->bytes / std::max(1u, shape.n_vocab);  // one row as the file has it
  const uint64_t frames = (duty.embeds ? 0 : 1) + (duty.samples ? 0 : 1);
  return bytes + frames * duty.max_rows * duty.wire_row_bytes + WaitingBytes(duty);
}

uint64_t WaitingBytes(const StageDuty& duty) {
  constexpr uint64_t kFramesWaiting = 2;
  const uint64_t sides = (duty.embeds ? 0 : 1) + (duty.samples ? 0 : 1);
  return sides * kFramesWaiting * duty.max_rows * duty.wire_row_bytes;
}

StageBytes StageMemoryBytes(const Manifest& manifest, const StageDuty& duty) {
  return {WeightsBytes(manifest, duty), KvBytes(manifest.shape, duty), BufferBytes(manifest, duty)};
}

}  // namespace lanyard::model
