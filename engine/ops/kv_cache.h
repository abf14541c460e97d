// The keys and values of one layer, in pages of 32 positions. A page holds, head after head, the
// keys and then the values of that head: keys [head_dim][32] (a lane is a position), values
// [32][head_dim] (a lane is an element), both in the element type; in int8 each part is followed by
// 32 f32 scales, one a position.
#pragma once

#include <cstdint>

namespace lanyard::ops {

inline constexpr int kKvPositions = 32;

enum class KvElement : uint8_t { kF32, kF16, kI8 };

struct KvLayer {
  uint8_t* base = nullptr;
  KvElement element = KvElement::kF16;
  int n_kv_heads = 0;
  int head_dim = 0;

  // The bytes of the keys (or the values) of one head in a page.
  int64_t part_bytes() const {
    const int64_t elements = int64_t{kKvPositions} * head_dim;
    switch (element) {
      case KvElement::kF32:
        return elements * 4;
      case KvElement::kF16:
        return elements * 2;
      case KvElement::kI8:
        return elements + kKvPositions * 4;
    }
    return 0;
  }
  int64_t page_bytes() const { return part_bytes() * 2 * n_kv_heads; }
  uint8_t* Keys(uint32_t page, int head) const {
    return base + int64_t{page} * page_bytes() + part_bytes() * 2 * head;
  }
  uint8_t* Values(uint32_t page, int head) const { return Keys(page, head) + part_bytes(); }
};

// Where a row's key and value go.
struct KvSlot {
  uint32_t page = 0;
  uint32_t slot = 0;  // position mod 32
};

}  // namespace lanyard::ops
