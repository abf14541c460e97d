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

// Element `index` of a part; `scale` is that of its position, for int8.
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

// The scales that follow a part of int8; [32], one a position.
LANYARD_DEVICE const float* ScalesOf(const DeviceKv& kv, const uint8_t* part) {
  return reinterpret_cast<const float*>(part + kv.head_dim * kKvPositions);
}

// First position that a row sees.
LANYARD_DEVICE uint32_t FirstSeen(uint32_t pos, uint32_t window) {
  return window != 0 && pos >= window ? pos - window + 1 : 0;
}

}  // namespace lanyard::ops::cuda
