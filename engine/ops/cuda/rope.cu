// Norm, rotation and scale of heads, and keys and values into their pages: a warp takes a head of a
// row (grid.y is the row), whose elements it keeps in shared memory.
#include "engine/ops/cuda/attention_args.h"
#include "engine/ops/cuda/common.cuh"
#include "engine/ops/cuda/kv.cuh"
#include "engine/ops/cuda/math.cuh"

namespace lanyard::ops::cuda {
namespace {

constexpr uint32_t kHeads = 4;

// Loads a head, with its norm if it has one; ends with the warp's barrier.
LANYARD_DEVICE void LoadHead(const float* from, const float* norm, const RotateArgs& a,
                             float* head) {
  const uint32_t n = a.kv.head_dim;
  for (uint32_t i = Lane(); i < n; i += kWarp) head[i] = from[i];
  WarpBarrier();
  if (norm == nullptr) return;
  const float scale = InverseRms(head, n, a.eps);
  WarpBarrier();
  for (uint32_t i = Lane(); i < n; i += kWarp) head[i] = head[i] * scale * norm[i];
  WarpBarrier();
}

// Each lane rotates whole pairs.
LANYARD_DEVICE void RotateHead(const RotateArgs& a, float* head) {
  const uint32_t half = a.n_rot / 2;
  const float* cos = a.cos + static_cast<uint64_t>(BlockY()) * a.n_rot;
  const float* sin = a.sin + static_cast<uint64_t>(BlockY()) * a.n_rot;
  for (uint32_t i = Lane(); i < half; i += kWarp) {
    const uint32_t first = a.halves ? i : 2 * i;
    const uint32_t second = a.halves ? i + half : 2 * i + 1;
    const float x = head[first];
    const float y = head[second];
    head[first] = Fma(x, cos[first], y * sin[first]);
    head[second] = Fma(y, cos[second], x * sin[second]);
  }
  WarpBarrier();
}

// Element i of the head goes to part[i * step + offset].
LANYARD_DEVICE void StorePart(const RotateArgs& a, uint8_t* part, const float* head, uint32_t step,
                              uint32_t offset) {
  const uint32_t n = a.kv.head_dim;
  if (a.kv.element == kKvF32) {
    for (uint32_t i = Lane(); i < n; i += kWarp)
      reinterpret_cast<float*>(part)[i * step + offset] = head[i];
    return;
  }
  if (a.kv.element == kKvF16) {
    for (uint32_t i = Lane(); i < n; i += kWarp) {
      reinterpret_cast<uint16_t*>(part)[i * step + offset] = FloatToHalf(head[i]);
    }
    return;
  }
  float max = 0;
  for (uint32_t i = Lane(); i < n; i += kWarp) {
    const float magnitude = Magnitude(head[i]);
    max = magnitude > max ? magnitude : max;
  }
  max = MaxOfLanes(max);
  const float inverse = max > 0 ? Div(127.0f, max) : 0.0f;
  for (uint32_t i = Lane(); i < n; i += kWarp) {
    const float product = head[i] * inverse;
    // A NaN's payload differs between processors, so it is stored as 0, beside a scale that makes
    // it NaN or as good as lost.
    const float rounded = product == product ? product + kExpMagic : kExpMagic;
    part[i * step + offset] = static_cast<uint8_t>(BitsOf(rounded) - BitsOf(kExpMagic));
  }
  if (Lane() == 0) {
    reinterpret_cast<float*>(part + n * kKvPositions)[a.slots[BlockY()].slot] = Div(max, 127.0f);
  }
}

}  // namespace

LANYARD_KERNEL __launch_bounds__(kHeads* kWarp) lanyard_rotate_and_store(RotateArgs a) {
  const uint32_t index = BlockX() * kHeads + WarpOfBlock();  // queries, then keys, then values
  const uint32_t n_kv = a.kv.n_kv_heads;
  if (BlockY() >= *a.n_rows || index >= a.n_heads + 2 * n_kv) return;
  const uint32_t n = a.kv.head_dim;
  float* head = reinterpret_cast<float*>(dynamic_shared) + WarpOfBlock() * n;
  float* row = a.qkv + BlockY() * a.stride + static_cast<uint64_t>(index) * n;
  if (index < a.n_heads) {
    LoadHead(row, a.q_norm, a, head);
    RotateHead(a, head);
    for (uint32_t i = Lane(); i < n; i += kWarp) row[i] = head[i] * a.q_scale;
    return;
  }
  const DeviceSlot slot = a.slots[BlockY()];
  const bool is_key = index < a.n_heads + n_kv;
  const uint32_t kv_head = index - a.n_heads - (is_key ? 0 : n_kv);
  LoadHead(row, is_key ? a.k_norm : nullptr, a, head);
  if (is_key) {
    RotateHead(a, head);
    StorePart(a, KeysOf(a.kv, slot.page, kv_head), head, kKvPositions, slot.slot);
  } else {
    StorePart(a, ValuesOf(a.kv, slot.page, kv_head), head, 1, slot.slot * n);
  }
}

}  // namespace lanyard::ops::cuda
