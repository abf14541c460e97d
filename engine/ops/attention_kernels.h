// The kernels of attention and of the key/value pages for one instruction set.
#pragma once

#include <cstdint>

#include "engine/ops/attention.h"
#include "engine/ops/rope.h"

namespace lanyard::ops {

// Rows of one run and some heads that share a key/value head.
struct AttentionTile {
  KvLayer kv;
  int kv_head = 0;
  const uint32_t* pages = nullptr;
  uint32_t first = 0;
  uint32_t pos = 0;  // position of the first row
  int n_rows = 0;    // positions
  int n_heads = 0;
  uint32_t window = 0;
  const float* q = nullptr;  // (row, head): q + row * q_stride + head * head_dim
  int64_t q_stride = 0;
  float* out = nullptr;
  int64_t out_stride = 0;
  float* scratch = nullptr;  // TileScratchFloats(n_rows * n_heads, head_dim), 64-byte aligned
};

// The first position that a row sees.
[[gnu::always_inline]] inline uint32_t FirstSeen(uint32_t pos, uint32_t window) {
  return window != 0 && pos >= window ? pos - window + 1 : 0;
}

// The scratch holds two converted parts of a page and, for each query, the output, the
// probabilities of a page and six numbers.
[[gnu::always_inline]] inline int64_t TileScratchFloats(int64_t queries, int64_t head_dim) {
  const int64_t padded = (head_dim + 15) / 16 * 16;
  return 2 * kKvPositions * padded + queries * (padded + kKvPositions) +
         (queries + 15) / 16 * 16 * 6;
}

// Positions [begin, end) of a page.
struct PageRange {
  int begin = 0;
  int end = 0;
  bool operator==(const PageRange&) const = default;
};

// Where a key or value row goes: element i goes to part[i * step + offset], and the scale of int8
// to scales[slot].
struct PartRow {
  KvElement element = KvElement::kF32;
  uint8_t* part = nullptr;
  int n = 0;
  int64_t step = 1;
  int64_t offset = 0;
  int slot = 0;
};

struct AttentionKernels {
  void (*tile)(const AttentionTile& tile);
  // Rows [begin, end).
  void (*rotate_and_store)(const QkvRows& args, int64_t begin, int64_t end);
};

const AttentionKernels& AttentionKernelsFor(Isa isa);

extern const AttentionKernels kAttentionKernelsScalar;
extern const AttentionKernels kAttentionKernelsAvx2;
extern const AttentionKernels kAttentionKernelsAvx512;

}  // namespace lanyard::ops
