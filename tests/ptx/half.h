// binary16 by bits, for every rounding. cvt and the f16 instructions are made of it; it is not on a
// hot path.
#pragma once

#include <bit>
#include <cmath>
#include <cstdint>
#include <cstring>

namespace lanyard::ptx {

enum class Rounding : uint8_t { kNearest, kZero, kDown, kUp };

constexpr uint16_t kHalfNan = 0x7fff;
constexpr uint32_t kFloatNan = 0x7fffffff;  // the result of arithmetic for any NaN
constexpr uint64_t kDoubleNan = 0xfff8000000000000u;

static inline float BitsToFloat(uint32_t bits) { return std::bit_cast<float>(bits); }

// The result is exact. A NaN becomes kFloatNan.
static inline float HalfToFloat(uint16_t h) {
  const uint32_t sign = uint32_t{h & 0x8000u} << 16, exponent = h >> 10 & 31u,
                 mantissa = h & 0x3ffu;
  if (exponent == 31) return std::bit_cast<float>(mantissa != 0 ? kFloatNan : sign | 0x7f800000u);
  if (exponent == 0) {
    const float magnitude = static_cast<float>(mantissa) * 0x1p-24f;
    return std::bit_cast<float>(std::bit_cast<uint32_t>(magnitude) | sign);
  }
  return std::bit_cast<float>(sign | (exponent + 112) << 23 | mantissa << 13);
}

// Rounds a double's value once to a binary format with `precision` bits (with the hidden one) and
// smallest exponent `emin` (of the unit-in-first-place), giving the value as a double; overflow
// goes to infinity or the largest finite value as the rounding says.
static inline double RoundTo(double x, int precision, int emin, int emax, Rounding rounding) {
  if (x == 0 || !std::isfinite(x)) return x;
  const int exponent = std::ilogb(x) < emin ? emin : std::ilogb(x);
  const double unit = std::ldexp(1.0, exponent - precision + 1);
  const double scaled = x / unit;  // exact: a power of two
  double whole = std::trunc(scaled);
  const double rest = scaled - whole;  // exact, with x's sign
  const double step = std::signbit(x) ? -1.0 : 1.0;
  bool away = false;
  switch (rounding) {
    case Rounding::kNearest:
      away = std::fabs(rest) > 0.5 || (std::fabs(rest) == 0.5 && std::fmod(whole, 2.0) != 0);
      break;
    case Rounding::kZero:
      break;
    case Rounding::kDown:
      away = rest < 0;
      break;
    case Rounding::kUp:
      away = rest > 0;
      break;
  }
  if (away) whole += step;
  const double result = whole * unit;
  const double largest = std::ldexp(2.0 - std::ldexp(1.0, 1 - precision), emax);
  if (std::fabs(result) <= largest) return std::copysign(result, x);
  const bool stays = rounding == Rounding::kZero || (rounding == Rounding::kDown && x > 0) ||
                     (rounding == Rounding::kUp && x < 0);
  return std::copysign(stays ? largest : INFINITY, x);
}

static inline uint16_t DoubleToHalf(double x, Rounding rounding) {
  if (std::isnan(x)) return kHalfNan;
  const double r = RoundTo(x, 11, -14, 15, rounding);
  const uint16_t sign = std::signbit(x) ? 0x8000 : 0;
  const double magnitude = std::fabs(r);
  if (std::isinf(magnitude)) return static_cast<uint16_t>(sign | 0x7c00);
  if (magnitude < 0x1p-14)
    return static_cast<uint16_t>(sign | static_cast<uint16_t>(magnitude * 0x1p24));
  const int exponent = std::ilogb(magnitude);
  const auto mantissa = static_cast<uint16_t>(std::ldexp(magnitude, 10 - exponent));  // 1024..2047
  return static_cast<uint16_t>(sign | ((exponent + 15) << 10) | (mantissa & 0x3ff));
}

static inline float DoubleToFloat(double x, Rounding rounding) {
  if (std::isnan(x)) return std::bit_cast<float>(kFloatNan);
  return static_cast<float>(RoundTo(x, 24, -126, 127, rounding));  // exact by now
}

}  // namespace lanyard::ptx
