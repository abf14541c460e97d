#include "model/memory.h"

#include <algorithm>

#include "base/packed_bytes.h"

namespace lanyard::model {

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

uint64_t BufferBytes(const ModelShape& shape, const StageDuty& duty) {
  const uint64_t rows = duty.max_rows;
  const uint64_t d_attn = uint64_t{shape.n_heads} * shape.head_dim;
  const uint64_t d_kv = uint64_t{shape.n_kv_heads} * shape.head_dim;
  uint64_t row_bytes = 4 * uint64_t{shape.d_model} * 3;  // hidden, normalised, the frame that comes or goes
  if (duty.layer_begin < duty.layer_end) {
    row_bytes += 4 * (d_attn * 2 + d_kv * 2 + uint64_t{shape.d_ff} * 2);
  }
  // Activations in int8 blocks with a scale and a sum each: the widest input of a product.
  const uint64_t widest = std::max<uint64_t>({shape.d_model, d_attn, shape.d_ff});
  row_bytes += widest * 4;
  uint64_t bytes = rows * row_bytes;
  if (duty.samples) {
    const uint64_t outputs = duty.max_outputs == 0 ? rows : std::min<uint64_t>(rows, duty.max_outputs);
    bytes += outputs * shape.n_vocab * 4;
  }
  return bytes;
}

StageBytes StageMemoryBytes(const Manifest& manifest, const StageDuty& duty) {
  return {WeightsBytes(manifest, duty), KvBytes(manifest.shape, duty),
          BufferBytes(manifest.shape, duty)};
}

}  // namespace lanyard::model
