#include "engine/ops/quant.h"

#include <algorithm>
#include <cmath>
#include <limits>

#include "base/bytes.h"
#include "base/half.h"
#include "engine/ops/matmul.h"

namespace lanyard::ops {
namespace {

float LoadF16(const uint8_t* p) { return HalfToFloat(LoadUnaligned<uint16_t>(p)); }

// A block_q4_K has d, dmin, 12 bytes with eight 6-bit scales and minima, and 128 bytes of nibbles;
// 64 elements share 32 bytes.
void DecodeQ4K(const uint8_t* super, int64_t sub, WeightBlock* out) {
  const uint8_t* s = super + 4;
  uint8_t scale, minimum;
  if (sub < 4) {
    scale = s[sub] & 63;
    minimum = s[sub + 4] & 63;
  } else {
    scale = static_cast<uint8_t>((s[sub + 4] & 0xf) | ((s[sub - 4] >> 6) << 4));
    minimum = static_cast<uint8_t>((s[sub + 4] >> 4) | ((s[sub] >> 6) << 4));
  }
  const uint8_t* qs = super + 16 + 32 * (sub / 2);
  const int shift = sub % 2 ? 4 : 0;
  for (int64_t i = 0; i < kBlock; ++i) out->w[i] = (qs[i] >> shift) & 0xf;
  out->d = LoadF16(super) * static_cast<float>(scale);
  out->m = -(LoadF16(super + 2) * static_cast<float>(minimum));
}

// A block_q6_K has 128 bytes of low nibbles, 64 of high bit pairs, 16 signed scales (one for 16
// elements), and d. A half of 128 elements is 32 columns of four: element 32 * j + i has its nibble
// in ql[i + 32 * (j % 2)] and its pair in qh[i].
void DecodeQ6K(const uint8_t* super, int64_t sub, WeightBlock* out) {
  const int64_t half = sub / 4;
  const int64_t j = sub % 4;
  const uint8_t* ql = super + 64 * half + 32 * (j % 2);
  const uint8_t* qh = super + 128 + 32 * half;
  const int8_t* scales = reinterpret_cast<const int8_t*>(super + 192) + 2 * sub;
  for (int64_t i = 0; i < kBlock; ++i) {
    const int low = (ql[i] >> (j / 2 * 4)) & 0xf;
    const int high = (qh[i] >> (2 * j)) & 3;
    out->w[i] = scales[i / 16] * ((low | (high << 4)) - 32);
  }
  out->d = LoadF16(super + 208);
  out->m = 0;
}

}  // namespace

void DecodeBlock(TensorType type, const uint8_t* row, int64_t b, WeightBlock* out) {
  out->d = 0;
  out->m = 0;
  switch (type) {
    case TensorType::kQ4_0:
    case TensorType::kQ4_1: {
      const bool with_min = type == TensorType::kQ4_1;
      const uint8_t* p = row + b * (with_min ? 20 : 18);
      out->d = LoadF16(p);
      if (with_min) out->m = LoadF16(p + 2);
      const uint8_t* qs = p + (with_min ? 4 : 2);
      const int offset = with_min ? 0 : 8;
      for (int64_t i = 0; i < 16; ++i) {
        out->w[i] = (qs[i] & 0xf) - offset;
        out->w[i + 16] = (qs[i] >> 4) - offset;
      }
      return;
    }
    case TensorType::kQ5_0: {
      const uint8_t* p = row + b * 22;
      out->d = LoadF16(p);
      const uint32_t high = LoadUnaligned<uint32_t>(p + 2);
      for (int64_t i = 0; i < kBlock; ++i) {
        const int low = (p[6 + i % 16] >> (i < 16 ? 0 : 4)) & 0xf;
        out->w[i] = (low | static_cast<int>(((high >> i) & 1) << 4)) - 16;
      }
      return;
    }
    case TensorType::kQ8_0: {
      const uint8_t* p = row + b * 34;
      out->d = LoadF16(p);
      for (int64_t i = 0; i < kBlock; ++i) out->w[i] = static_cast<int8_t>(p[2 + i]);
      return;
    }
    case TensorType::kQ4_K:
      return DecodeQ4K(row + b / 8 * 144, b % 8, out);
    case TensorType::kQ6_K:
      return DecodeQ6K(row + b / 8 * 210, b % 8, out);
    default:
      break;
  }
  std::fill(out->w, out->w + kBlock, 0);
}

void DecodeFloats(TensorType type, const uint8_t* row, int64_t begin, int64_t n, float* out) {
  if (type == TensorType::kF32) {
    std::memcpy(out, row + begin * 4, static_cast<size_t>(n) * 4);
    return;
  }
  for (int64_t i = 0; i < n; ++i) out[i] = LoadF16(row + (begin + i) * 2);
}

void QuantiseBlock(const float* x, ActBlock* out) {
  // As integers, magnitudes order like the floats they are, and a NaN is above infinity.
  uint32_t amax_bits = 0;
  for (int64_t i = 0; i < kBlock; ++i) {
    amax_bits = std::max(amax_bits, LoadUnaligned<uint32_t>(x + i) & 0x7fffffffu);
  }
  const float amax = LoadUnaligned<float>(&amax_bits);
  const bool finite = amax_bits < 0x7f800000u;
  out->sum_lo = 0;
  out->sum_hi = 0;
  if (!finite || amax < kTinyAmax) {
    std::fill(out->q, out->q + kBlock, int8_t{0});
    out->d = finite ? 0.0f : std::numeric_limits<float>::quiet_NaN();
    out->s = out->d;
    return;
  }
  out->d = amax / 127.0f;
  const float inverse = 127.0f / amax;
  for (int64_t i = 0; i < kBlock; ++i) {
    // 1.5 * 2^23: the sum has no bits below 1, so the addition rounds to nearest even.
    const float magic = 12582912.0f;
    const float product = x[i] * inverse;
    const float rounded = (product + magic) - magic;
    out->q[i] = static_cast<int8_t>(rounded);
    (i < 16 ? out->sum_lo : out->sum_hi) += out->q[i];
  }
  out->s = static_cast<float>(out->sum_lo + out->sum_hi) * out->d;
}

void DequantizeRow(TensorType type, const uint8_t* row, int64_t k, float* out) {
  if (!IsQuantised(type)) {
    DecodeFloats(type, row, 0, k, out);
    return;
  }
  WeightBlock block;
  for (int64_t b = 0; b < k / kBlock; ++b) {
    DecodeBlock(type, row, b, &block);
    for (int64_t i = 0; i < kBlock; ++i) {
      out[b * kBlock + i] = static_cast<float>(block.w[i]) * block.d + block.m;
    }
  }
}

}  // namespace lanyard::ops
