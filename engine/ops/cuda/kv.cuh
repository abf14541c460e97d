// Key/value pages on the device; the layout is engine/ops/kv_cache.h's.
#pragma once

#include "engine/ops/cuda/attention_args.h"
#include "engine/ops/cuda/common.cuh"

namespace lanyard::ops::cuda {

constexpr uint32_t kKvPositions = 32;
constexpr uint32_t kSpanPages = 8;
constexpr uint32_t kSpanPositions = kSpanPages * kKvPositions;

// ops::KvElement.
constexpr uint32_t kKvF32 = 0;
constexpr uint32_t kKvF16 = 1;
constexpr uint32_t kKvI8 = 2;

LANYARD_DEVICE uint8_t* KeysOf(const DeviceKv& kv, uint32_t page, uint32_t head) {
  return kv.base + (static_cast<uint64_t>(page) * kv.n_kv_heads + head) * 2 * kv.part_bytes;
}
LANYARD_DEVICE uint8_t* ValuesOf(const DeviceKv& kv, uint32_t page, uint32_t head) {
  return KeysOf(kv, page, head) + kv.part_bytes;
}

// Reads element `index` of a part; `scale` is that of its position, for int8.
template <uint32_t kElement>
LANYARD_DEVICE float PartAt(const uint8_t* part, uint32_t index, float scale) {
  if constexpr (kElement == kKvF32) {
    return reinterpret_cast<const float*>(part)[index];
  } else if constexpr (kElement == kKvF16) {
    return HalfToFloat(reinterpret_cast<const uint16_t*>(part)[index]);
  } else {
    return static_cast<float>(reinterpret_cast<const int8_t*>(part)[index]) * scale;
  }
}

// Bytes of an element.
template <uint32_t kElement>
constexpr uint32_t kKvBytes = kElement == kKvF32   ? 4
                              : kElement == kKvF16 ? 2
                                                   : 1;

// Two neighbouring elements of a part as they are stored, so that many can be on their way before
// the first is used.
template <uint32_t kElement>
struct RawPair;
template <>
struct RawPair<kKvF32> {
  Vec2f both;
  LANYARD_MEMBER Vec2f Floats(float) const { return both; }
};
template <>
struct RawPair<kKvF16> {
  uint32_t both;
  LANYARD_MEMBER Vec2f Floats(float) const {
    return {HalfToFloat(static_cast<uint16_t>(both)),
            HalfToFloat(static_cast<uint16_t>(both >> 16))};
  }
};
template <>
struct RawPair<kKvI8> {
  uint16_t both;
  LANYARD_MEMBER Vec2f Floats(float scale) const {
    return {static_cast<float>(static_cast<int8_t>(both)) * scale,
            static_cast<float>(static_cast<int8_t>(both >> 8)) * scale};
  }
};

// Reads elements `index` .. `index + 3`, where index is a multiple of 4; their scales (for int8)
// are those of one position or of four.
template <uint32_t kElement>
LANYARD_DEVICE Vec4f QuadAt(const uint8_t* part, uint32_t index, Vec4f scale) {
  if constexpr (kElement == kKvF32) {
    return *reinterpret_cast<const Vec4f*>(part + index * 4);
  } else if constexpr (kElement == kKvF16) {
    const Vec2i all = *reinterpret_cast<const Vec2i*>(part + index * 2);
    return {
        HalfToFloat(static_cast<uint16_t>(all.x)), HalfToFloat(static_cast<uint16_t>(all.x >> 16)),
        HalfToFloat(static_cast<uint16_t>(all.y)), HalfToFloat(static_cast<uint16_t>(all.y >> 16))};
  } else {
    const int32_t all = *reinterpret_cast<const int32_t*>(part + index);
    return {static_cast<float>(static_cast<int8_t>(all)) * scale.x,
            static_cast<float>(static_cast<int8_t>(all >> 8)) * scale.y,
            static_cast<float>(static_cast<int8_t>(all >> 16)) * scale.z,
            static_cast<float>(static_cast<int8_t>(all >> 24)) * scale.w};
  }
}

// The scales that follow a part of int8; [32], one a position.
LANYARD_DEVICE const float* ScalesOf(const DeviceKv& kv, const uint8_t* part) {
  return reinterpret_cast<const float*>(part + kv.head_dim * kKvPositions);
}

// The first position that a row sees.
LANYARD_DEVICE uint32_t FirstSeen(uint32_t pos, uint32_t window) {
  return window != 0 && pos >= window ? pos - window + 1 : 0;
}

// Consecutive rows of a sequence for one key/value head.
struct Tile {
  AttentionTile rows;
  uint32_t kv_head;
  uint32_t group;  // number of query heads of the key/value head
  uint32_t n;      // number of queries: rows * group
  uint32_t lo;     // the first position that any row sees
  uint32_t hi;     // the last one
};

LANYARD_DEVICE Tile TileOf(const AttendArgs& a, uint32_t index) {
  Tile t;
  t.rows = a.tiles[index];
  t.kv_head = BlockY();
  t.group = a.n_heads / a.kv.n_kv_heads;
  t.n = t.rows.n_rows * t.group;
  t.lo = FirstSeen(t.rows.pos, a.window);
  t.hi = t.rows.pos + t.rows.n_rows - 1;
  return t;
}

// Positions [begin, end) of a page; there are none if begin >= end.
struct PageRange {
  uint32_t begin;
  uint32_t end;
};

// The part of page `block` (of the sequence) that lies in positions lo..hi.
LANYARD_DEVICE PageRange RangeOf(uint32_t block, uint32_t lo, uint32_t hi) {
  const uint32_t start = block * kKvPositions;
  if (start > hi) return {0, 0};
  const uint32_t end = hi - start + 1;
  return {lo > start ? lo - start : 0, end < kKvPositions ? end : kKvPositions};
}

}  // namespace lanyard::ops::cuda
