// Arguments of the kernels that write and read the key/value pages (rope.cu, attention_decode.cu,
// attention_prefill.cu, attention_fast.cu). Pointers are device addresses.
//
// Pages have the layout of engine/ops/kv_cache.h, so a page can move between a card's memory and
// the CPU's. Everything that depends on the frame lies in device memory: slots, rotations, tiles
// and their counts, the page table. Launch parameters only hold addresses and maxima, so that a
// captured graph made for the maxima is replayed for every frame that fits.
#pragma once

#include <cstdint>

namespace lanyard::ops::cuda {

// The KvLayer of engine/ops/kv_cache.h, on a device.
struct DeviceKv {
  uint8_t* base = nullptr;
  uint32_t element = 0;  // ops::KvElement
  uint32_t n_kv_heads = 0;
  uint32_t head_dim = 0;
  uint32_t part_bytes = 0;  // KvLayer::part_bytes()
};

struct DeviceSlot {  // ops::KvSlot
  uint32_t page = 0;
  uint32_t slot = 0;
};

// The QkvRows of engine/ops/rope.h.
struct RotateArgs {
  float* qkv = nullptr;           // [n_rows][stride]; queries are changed in place, keys are not
  const float* q_norm = nullptr;  // [head_dim] or null
  const float* k_norm = nullptr;
  const float* cos = nullptr;  // [n_rows][n_rot]
  const float* sin = nullptr;
  const DeviceSlot* slots = nullptr;  // [n_rows]
  const uint32_t* n_rows = nullptr;
  DeviceKv kv;
  uint64_t stride = 0;
  uint32_t max_rows = 0;
  uint32_t n_heads = 0;
  uint32_t halves = 0;  // ops::RopePairs::kHalves
  uint32_t n_rot = 0;
  float eps = 0;
  float q_scale = 1;
};

// Consecutive rows of one sequence that are computed together. The pages of its logical blocks
// first, first + 1, ... are page_table[pages], page_table[pages + 1], ...
struct AttentionTile {
  uint32_t row = 0;  // index of the first row, in the frame
  uint32_t n_rows = 0;
  uint32_t pos = 0;  // position of the first row
  uint32_t pages = 0;
  uint32_t first = 0;
};

struct AttendArgs {
  DeviceKv kv;
  const float* q = nullptr;  // row r: q + r * q_stride, heads one after another, rotated and scaled
  float* out = nullptr;      // like q
  const AttentionTile* tiles = nullptr;
  const uint32_t* n_tiles = nullptr;
  const uint32_t* page_table = nullptr;
  float* partials = nullptr;  // for AttendDecode: PartialFloats() of them
  uint64_t q_stride = 0;
  uint64_t out_stride = 0;
  uint32_t n_heads = 0;  // a multiple of kv.n_kv_heads
  uint32_t window = 0;   // row p sees positions > p - window; 0: all positions up to p
  uint32_t max_tiles = 0;
  // For AttendDecode: MaxSpans() of the longest position that a frame may have.
  uint32_t max_spans = 0;
};

// The dynamic shared memory of the fast form: queries, keys and values of a page, probabilities,
// scores, and 34 words.
constexpr uint32_t FastAttentionSharedBytes(uint32_t head_dim) {
  const uint32_t bytes = 2 * 32 * (head_dim + 8) * 2 + head_dim * 40 * 2 + 32 * 40 * 2 +
                         32 * 36 * 4 + 8 * 32 * 4 + 2 * 4;
  return (bytes + 15) / 16 * 16;
}

}  // namespace lanyard::ops::cuda
