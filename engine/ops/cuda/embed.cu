// Rows of an embedding matrix: grid.y is a row, and a thread takes an element. docs/numerics.md
// "Products" has the formats, and quant.cc is the reference.
#include "base/tensor_type.h"
#include "engine/ops/cuda/common.cuh"
#include "engine/ops/cuda/embed_args.h"

namespace lanyard::ops::cuda {
namespace {

// An element is w * d + m.
struct Element {
  int32_t w;
  float d;
  float m;
};

LANYARD_DEVICE uint16_t U16(const uint8_t* p) { return *reinterpret_cast<const uint16_t*>(p); }
LANYARD_DEVICE float Half(const uint8_t* p) { return HalfToFloat(U16(p)); }
LANYARD_DEVICE int32_t Nibble(const uint8_t* qs, uint32_t i) {
  return (qs[i % 16] >> (i < 16 ? 0 : 4)) & 0xf;
}

LANYARD_DEVICE Element OfQ4K(const uint8_t* super, uint32_t sub, uint32_t i) {
  const uint8_t* s = super + 4;
  uint32_t scale, minimum;
  if (sub < 4) {
    scale = s[sub] & 63u;
    minimum = s[sub + 4] & 63u;
  } else {
    scale = (s[sub + 4] & 0xfu) | (s[sub - 4] >> 6 << 4);
    minimum = (s[sub + 4] >> 4) | (s[sub] >> 6 << 4);
  }
  const uint8_t q = super[16 + 32 * (sub / 2) + i];
  return {(q >> (sub % 2 * 4)) & 0xf, Half(super) * static_cast<float>(scale),
          -(Half(super + 2) * static_cast<float>(minimum))};
}

LANYARD_DEVICE Element OfQ6K(const uint8_t* super, uint32_t sub, uint32_t i) {
  const uint32_t half = sub / 4;
  const uint32_t j = sub % 4;
  const int32_t low = (super[64 * half + 32 * (j % 2) + i] >> (j / 2 * 4)) & 0xf;
  const int32_t high = (super[128 + 32 * half + i] >> (2 * j)) & 3;
  const int32_t scale = static_cast<int8_t>(super[192 + 2 * sub + i / 16]);
  return {scale * ((low | high << 4) - 32), Half(super + 208), 0.0f};
}

LANYARD_DEVICE Element ElementOf(TensorType type, const uint8_t* row, uint32_t index) {
  const uint32_t b = index / 32;
  const uint32_t i = index % 32;
  switch (type) {
    case TensorType::kQ4_0: {
      const uint8_t* p = row + b * 18;
      return {Nibble(p + 2, i) - 8, Half(p), 0.0f};
    }
    case TensorType::kQ4_1: {
      const uint8_t* p = row + b * 20;
      return {Nibble(p + 4, i), Half(p), Half(p + 2)};
    }
    case TensorType::kQ5_0: {
      const uint8_t* p = row + b * 22;
      const uint32_t high = U16(p + 2) | static_cast<uint32_t>(U16(p + 4)) << 16;
      return {(Nibble(p + 6, i) | static_cast<int32_t>((high >> i & 1u) << 4)) - 16, Half(p), 0.0f};
    }
    case TensorType::kQ8_0: {
      const uint8_t* p = row + b * 34;
      return {static_cast<int8_t>(p[2 + i]), Half(p), 0.0f};
    }
    case TensorType::kQ4_K:
      return OfQ4K(row + b / 8 * 144, b % 8, i);
    case TensorType::kQ6_K:
      return OfQ6K(row + b / 8 * 210, b % 8, i);
    default:
      break;
  }
  return {0, 0.0f, 0.0f};
}

}  // namespace

LANYARD_KERNEL __launch_bounds__(256) lanyard_embed_rows(EmbedArgs a) {
  const uint32_t r = BlockY();
  const uint32_t i = BlockX() * 256 + ThreadX();
  if (r >= *a.n_rows || i >= a.n) return;
  const uint8_t* row =
      a.table + (a.ids == nullptr ? r : static_cast<uint64_t>(a.ids[r])) * a.row_bytes;
  const TensorType type = static_cast<TensorType>(a.type);
  float v;
  if (type == TensorType::kF32) {
    v = reinterpret_cast<const float*>(row)[i];
  } else if (type == TensorType::kF16) {
    v = Half(row + 2 * static_cast<uint64_t>(i));
  } else {
    const Element e = ElementOf(type, row, i);
    v = static_cast<float>(e.w) * e.d + e.m;
  }
  if (a.scale != 1.0f) v = v * a.scale;
  a.x[static_cast<uint64_t>(r) * a.n + i] = v;
}

}  // namespace lanyard::ops::cuda
