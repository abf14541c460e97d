// IEEE binary16, and rows of it that share a power of two. This form crosses the wire between
// stages, and every layer's end is rounded to it (docs/numerics.md "Hidden states").
#pragma once

#include <cstdint>
#include <cstring>

namespace lanyard {

// The result is exact.
[[gnu::always_inline]] inline float HalfToFloat(uint16_t h) {
  const uint32_t sign = uint32_t{h & 0x8000u} << 16;
  const uint32_t exponent = (h >> 10) & 0x1fu;
  const uint32_t mantissa = h & 0x3ffu;
  float out;
  if (exponent == 0) {
    out = static_cast<float>(mantissa) * 0x1p-24f;
    uint32_t bits;
    std::memcpy(&bits, &out, sizeof(bits));
    bits |= sign;
    std::memcpy(&out, &bits, sizeof(out));
    return out;
  }
  const uint32_t bits =
      sign | (exponent == 31 ? 0x7f800000u : (exponent + 112) << 23) | mantissa << 13;
  std::memcpy(&out, &bits, sizeof(out));
  return out;
}

// Rounds to nearest even. Overflow gives infinity; NaN stays NaN (quiet).
[[gnu::always_inline]] inline uint16_t FloatToHalf(float x) {
  uint32_t bits;
  std::memcpy(&bits, &x, sizeof(bits));
  const uint32_t sign = bits >> 16 & 0x8000u;
  bits &= 0x7fffffffu;
  if (bits > 0x7f800000u) return static_cast<uint16_t>(sign | 0x7e00u | (bits >> 13 & 0x1ffu));
  if (bits >= 0x47800000u) return static_cast<uint16_t>(sign | 0x7c00u);  // 65536 and more
  if (bits < 0x38800000u) {  // below 2^-14: a multiple of 2^-24, rounded by the f32 addition
    float magnitude;
    std::memcpy(&magnitude, &bits, sizeof(magnitude));
    magnitude += 0.5f;  // the unit of the last place of [0.5, 1) is 2^-24
    std::memcpy(&bits, &magnitude, sizeof(bits));
    return static_cast<uint16_t>(sign | (bits - 0x3f000000u));
  }
  bits += 0xfffu + (bits >> 13 & 1u);  // may carry into the exponent, up to infinity
  return static_cast<uint16_t>(sign | ((bits - 0x38000000u) >> 13));
}

inline constexpr int kHalfRowExponentMin = -110;
inline constexpr int kHalfRowExponentMax = 113;

// The power of two that a row with this largest magnitude is divided by before it is rounded to
// half: amax, itself rounded to half's 11 significant bits, comes to lie in [2^14, 2^15). It is a
// function of the rounded amax, so that rounding a row twice changes nothing.
[[gnu::always_inline]] inline int HalfRowExponent(float amax) {
  uint32_t bits;
  std::memcpy(&bits, &amax, sizeof(bits));
  if (bits == 0) return 0;
  bits += 0xfffu + (bits >> 13 & 1u);
  const int exponent = static_cast<int>(bits >> 23) - 127 - 14;
  if (exponent < kHalfRowExponentMin) return kHalfRowExponentMin;
  if (exponent > kHalfRowExponentMax) return kHalfRowExponentMax;
  return exponent;
}

// 2^e for -126 <= e <= 127.
[[gnu::always_inline]] inline float PowerOfTwo(int e) {
  const uint32_t bits = static_cast<uint32_t>(e + 127) << 23;
  float out;
  std::memcpy(&out, &bits, sizeof(out));
  return out;
}

}  // namespace lanyard
