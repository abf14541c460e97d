// What a stage holds in memory, from the tensor table alone: weights as re-laid, KV pages, and the
// buffers of a step. They are exact upper bounds: the engine allocates no more (tests/memory
// compares), so a plan that is made of them keeps its limits.
#pragma once

#include <cstdint>
#include <string_view>
#include <vector>

#include "model/manifest.h"
#include "model/model_shape.h"
#include "model/tensor_source.h"

namespace lanyard::model {

// The duties of a stage as far as memory goes. The caller, which knows stage::StageSpec, fills it
// in.
struct StageDuty {
  uint32_t layer_begin = 0;  // [begin, end); begin and end are equal for a stage of the head only
  uint32_t layer_end = 0;
  bool embeds = false;
  bool samples = false;
  std::vector<uint32_t> group_blocks;  // KV blocks of each state group of the model
  uint32_t kv_block_tokens = 32;
  // For one position of one KV head, keys or values alone (see KvHeadBytes).
  uint64_t kv_head_bytes = 0;
  uint32_t max_rows = 0;        // rows of a frame
  uint64_t wire_row_bytes = 0;  // one row's hidden state on the wire
  uint32_t threads = 1;
};

struct StageBytes {
  uint64_t weights = 0;
  uint64_t kv = 0;
  uint64_t buffers = 0;
  uint64_t total() const { return weights + kv + buffers; }
};

// Bytes of one position of one KV head with head_dim elements. q8 takes one byte for each element
// and an f32 scale for the head's row.
uint64_t KvHeadBytes(std::string_view kv_type,
                     uint32_t head_dim);  // "f32" "f16" "q8"; 0 for another name

// One tensor as it is held: a matrix re-laid, a vector (norms, factors) as f32.
uint64_t HeldTensorBytes(const TensorInfo& tensor);

// Tensors in the order of their part as the engine holds them: q, k and v as one matrix where they
// have one type, and gate and up, so that they are padded once.
std::vector<TensorInfo> AsHeld(const std::vector<TensorInfo>& tensors);

// Of tensors in the order of their part. The part "embed" counts as the matrix it is; whether a
// stage holds it at all is decided in WeightsBytes.
uint64_t HeldBytes(const std::vector<TensorInfo>& tensors);

// The weights of a stage. Embedding rows are read on demand: "embed" takes memory only where it is
// the tied head.
uint64_t WeightsBytes(const Manifest& manifest, const StageDuty& duty);
// What two stages of a processor have in common of them, and hold once (engine/weight_shelf.h).
uint64_t SharedWeightsBytes(const Manifest& manifest, const StageDuty& a, const StageDuty& b);
uint64_t KvBytes(const ModelShape& shape, const StageDuty& duty);
// The KV of one layer when its group has `blocks` blocks.
uint64_t LayerKvBytes(const ModelShape& shape, uint32_t blocks, const StageDuty& duty);
// The buffers of a step in the engine, and of the frames that wait on either side of it. The figure
// is monotone: more duties or rows never take less.
uint64_t BufferBytes(const Manifest& manifest, const StageDuty& duty);
// The part of it that is not the engine's: frames being decoded or encoded, and those that wait in
// the worker's queues.
uint64_t WaitingBytes(const StageDuty& duty);

StageBytes StageMemoryBytes(const Manifest& manifest, const StageDuty& duty);

}  // namespace lanyard::model
