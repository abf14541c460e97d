// The quantised formats of weights as the product kernels see them (layout: matmul_args.h). A
// format F has
//   kUnitBytes, kHeaderBytes (of a super block of a tile; 0 without one), kQuantOffset,
//   kRowBytes (16 or 32 bytes of quants a row), kHighOffset, kHighBytes (a row's further bits),
//   kScales (the floats that a row's scales become), kMinimum,
//   kHalves (the two halves of a block have scales of their own);
//   LoadScales, Scales: a row's scales, raw and as floats: d, then m or the two sub-scales divided
//     by kUnit;
//   Low, High: bytes 4j.. and 16 + 4j.. of a block, from dword j of the row's plane and its high
//     bits: kUnit times the value;
//   ToFloat: the float of a sum that started at kMagic, which is exact, since it stays below 2^22.
#pragma once

#include "engine/ops/cuda/matmul_device.cuh"

namespace lanyard::ops::cuda {

// The bits of 1.5 * 2^23: an integer sum of less than 2^22 that starts here is, read as a float,
// that number plus the sum.
constexpr int32_t kMagic = 0x4b400000;
constexpr float kMagicFloat = 12582912.0f;

struct RawScales {
  uint32_t a, b;
};
struct RowScales {
  float d, e, f;
};

template <int unit_bytes, int quant_offset, int row_bytes>
struct FormatBase {
  static constexpr uint32_t kUnitBytes = unit_bytes;
  static constexpr uint32_t kQuantOffset = quant_offset;
  static constexpr uint32_t kRowBytes = row_bytes;
  static constexpr uint32_t kHeaderBytes = 0;
  static constexpr uint32_t kHighOffset = 0;
  static constexpr uint32_t kHighBytes = 0;
  static constexpr uint32_t kScales = 1;
  static constexpr bool kMinimum = false;
  static constexpr bool kHalves = false;

  LANYARD_DEVICE RawScales LoadScales(const uint8_t* unit, const uint8_t*, uint32_t row) {
    return {Load2(unit + 2 * row), 0};
  }
  LANYARD_DEVICE RowScales Scales(RawScales raw) {
    return {HalfToFloat(static_cast<uint16_t>(raw.a)), 0, 0};
  }
  LANYARD_DEVICE float ToFloat(int32_t sum) {
    return Add(FloatOf(static_cast<uint32_t>(sum)), -kMagicFloat);
  }
};

struct FormatQ4_0 : FormatBase<288, 32, 16> {
  LANYARD_DEVICE uint32_t Low(uint32_t v, uint32_t, uint32_t) { return (v << 4) & 0xf0f0f0f0u; }
  LANYARD_DEVICE uint32_t High(uint32_t v, uint32_t, uint32_t) { return v & 0xf0f0f0f0u; }
  LANYARD_DEVICE float ToFloat(int32_t sum) {
    return Fma(FloatOf(static_cast<uint32_t>(sum)), 1.0f / 16, -kMagicFloat / 16);
  }
};

struct UnsignedNibbles {
  LANYARD_DEVICE uint32_t Low(uint32_t v, uint32_t, uint32_t) { return v & 0x0f0f0f0fu; }
  LANYARD_DEVICE uint32_t High(uint32_t v, uint32_t, uint32_t) { return (v >> 4) & 0x0f0f0f0fu; }
};

struct FormatQ4_1 : FormatBase<320, 64, 16>, UnsignedNibbles {
  static constexpr uint32_t kScales = 2;
  static constexpr bool kMinimum = true;
  LANYARD_DEVICE RawScales LoadScales(const uint8_t* unit, const uint8_t*, uint32_t row) {
    return {Load4(unit + 4 * row), 0};
  }
  LANYARD_DEVICE RowScales Scales(RawScales raw) {
    return {HalfToFloat(static_cast<uint16_t>(raw.a)),
            HalfToFloat(static_cast<uint16_t>(raw.a >> 16)), 0};
  }
};

struct FormatQ5_0 : FormatBase<352, 96, 16> {
  static constexpr uint32_t kHighOffset = 32;
  static constexpr uint32_t kHighBytes = 4;
  LANYARD_DEVICE uint32_t Low(uint32_t v, uint32_t high, uint32_t j) {
    return ((v << 3) & 0x78787878u) | ((high << (7 - j)) & 0x80808080u);
  }
  LANYARD_DEVICE uint32_t High(uint32_t v, uint32_t high, uint32_t j) {
    return ((v >> 1) & 0x78787878u) | ((high << (3 - j)) & 0x80808080u);
  }
  LANYARD_DEVICE float ToFloat(int32_t sum) {
    return Fma(FloatOf(static_cast<uint32_t>(sum)), 1.0f / 8, -kMagicFloat / 8);
  }
};

struct FormatQ8_0 : FormatBase<544, 32, 32> {};

struct FormatQ4_K : FormatBase<288, 32, 16>, UnsignedNibbles {
  static constexpr uint32_t kHeaderBytes = 64;
  static constexpr uint32_t kScales = 2;
  static constexpr bool kMinimum = true;
  LANYARD_DEVICE RawScales LoadScales(const uint8_t* unit, const uint8_t* header, uint32_t row) {
    return {Load2(unit + 2 * row), Load4(header + 4 * row)};
  }
  // Makes a float of a small integer, exactly, without the slow conversion.
  LANYARD_DEVICE float Small(uint32_t byte) {
    return Add(FloatOf(0x4b000000u | byte), -8388608.0f);
  }
  LANYARD_DEVICE RowScales Scales(RawScales raw) {
    const float d = HalfToFloat(static_cast<uint16_t>(raw.b));
    const float dmin = HalfToFloat(static_cast<uint16_t>(raw.b >> 16));
    return {Mul(d, Small(raw.a & 0xffu)), -Mul(dmin, Small(raw.a >> 8)), 0};
  }
};

struct FormatQ6_K : FormatBase<416, 160, 16> {
  static constexpr uint32_t kHeaderBytes = 32;
  static constexpr uint32_t kHighOffset = 32;
  static constexpr uint32_t kHighBytes = 8;
  static constexpr uint32_t kScales = 3;
  static constexpr bool kHalves = true;
  LANYARD_DEVICE RawScales LoadScales(const uint8_t* unit, const uint8_t* header, uint32_t row) {
    return {Load2(unit + 2 * row), Load2(header + 2 * row)};
  }
  // A signed byte divided by kUnit = 4: 2^21 + (byte + 128) / 4 has no bits to lose.
  LANYARD_DEVICE float Quarter(uint32_t byte) {
    return Add(FloatOf(0x4a000000u | (byte ^ 0x80u)), -2097184.0f);
  }
  LANYARD_DEVICE RowScales Scales(RawScales raw) {
    return {HalfToFloat(static_cast<uint16_t>(raw.b)), Quarter(raw.a & 0xffu), Quarter(raw.a >> 8)};
  }
  LANYARD_DEVICE uint32_t Low(uint32_t v, uint32_t high, uint32_t j) {
    return ((v << 2) & 0x3c3c3c3cu) | ((high << (6 - 2 * j)) & 0xc0c0c0c0u);
  }
  LANYARD_DEVICE uint32_t High(uint32_t v, uint32_t high, uint32_t j) {
    return ((v >> 2) & 0x3c3c3c3cu) | ((high << (6 - 2 * j)) & 0xc0c0c0c0u);
  }
  // sub-scale times sum of each half, and their sum: all integers below 2^24, so exact.
  LANYARD_DEVICE float ToFloat(int32_t sum0, int32_t sum1, float sub0, float sub1) {
    const float half0 = Mul(Add(FloatOf(static_cast<uint32_t>(sum0)), -kMagicFloat), sub0);
    return Fma(Add(FloatOf(static_cast<uint32_t>(sum1)), -kMagicFloat), sub1, half0);
  }
};

// Finds the header of a tile for the block at a position: super block i holds every partial sum's
// i-th block.
template <typename F>
LANYARD_DEVICE const uint8_t* HeaderAt(const ProductArgs& a, const uint8_t* tile,
                                       uint32_t position) {
  if constexpr (F::kHeaderBytes == 0) return tile;
  const auto p =
      static_cast<uint32_t>(static_cast<uint64_t>(2 * position) * a.supers_inverse >> 32);
  return tile + (position - p * a.supers) * F::kHeaderBytes;
}

// Adds one block of a row times one of a column to their partial sum.
template <typename F>
LANYARD_DEVICE float AddBlock(float acc, float value, const RowScales& w, float d, float s) {
  acc = Fma(value, Mul(w.d, d), acc);
  if constexpr (F::kMinimum) acc = Fma(w.e, s, acc);
  return acc;
}

}  // namespace lanyard::ops::cuda
