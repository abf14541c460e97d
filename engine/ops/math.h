// Functions of one number with the same bits on every processor: they use no libm (it differs from
// CPU to CPU), and every rounding is written. docs/numerics.md "Functions" has the ranges and
// errors. The f32 ones have vector twins in cpu/lanes_*.h.
#pragma once

#include <cmath>
#include <cstdint>
#include <cstring>

namespace lanyard::ops {

[[gnu::always_inline]] inline uint32_t BitsOf(float x) {
  uint32_t bits;
  std::memcpy(&bits, &x, sizeof(bits));
  return bits;
}
[[gnu::always_inline]] inline float FloatOf(uint32_t bits) {
  float x;
  std::memcpy(&x, &bits, sizeof(x));
  return x;
}

// An fma with one rounding: the instruction where there is one, else the C library's exact
// emulation.
[[gnu::always_inline]] inline float Fma(float a, float b, float c) { return std::fma(a, b, c); }

inline constexpr float kExpMin = -87.0f;  // below: 0
inline constexpr float kExpMax = 88.0f;   // above: infinity
inline constexpr float kExpLog2E = 1.44269504088896341f;
inline constexpr float kExpMagic = 12582912.0f;  // 1.5 * 2^23: adding it rounds to an integer
inline constexpr float kExpLn2Hi = 0.693359375f;
inline constexpr float kExpLn2Lo = -2.12194440e-4f;
inline constexpr float kExpC[6] = {1.9875691500e-4f, 1.3981999507e-3f, 8.3334519073e-3f,
                                   4.1665795894e-2f, 1.6666665459e-1f, 5.0000001201e-1f};

// e^x within 2 units in the last place on [-87, 88]; 0 below, infinity above, NaN for NaN.
[[gnu::always_inline]] inline float Exp(float x) {
  float c = x > kExpMin ? x : kExpMin;
  c = c < kExpMax ? c : kExpMax;
  const float t = Fma(c, kExpLog2E, kExpMagic);
  const float n = t - kExpMagic;
  float r = Fma(n, -kExpLn2Hi, c);
  r = Fma(n, -kExpLn2Lo, r);
  float p = kExpC[0];
  for (int i = 1; i < 6; ++i) p = Fma(p, r, kExpC[i]);
  p = Fma(p, r * r, r);
  p = p + 1.0f;
  float y = FloatOf(BitsOf(p) + (BitsOf(t) << 23));
  if (x < kExpMin) y = 0.0f;
  if (x > kExpMax) y = HUGE_VALF;
  if (x != x) y = x;
  return y;
}

// x * sigmoid(x).
[[gnu::always_inline]] inline float Silu(float x) { return x / (1.0f + Exp(-x)); }

inline constexpr float kGeluA = 0.044715f;
inline constexpr float kGeluB = -1.5957691216057308f;  // -2 * sqrt(2 / pi)
// This is 0.5 x (1 + tanh(sqrt(2/pi) (x + 0.044715 x^3))), written as x * sigmoid(2 y): (1 + tanh
// y) / 2 = 1 / (1 + e^-2y).
[[gnu::always_inline]] inline float Gelu(float x) {
  const float inner = x * Fma(x * x, kGeluA, 1.0f);
  return x / (1.0f + Exp(inner * kGeluB));
}

// Functions of doubles, for tables and for sums made once a row; the relative error is below 1e-14
// where the result is finite.
double ExpDouble(double x);  // 0 below -708, infinity above 709
double LogDouble(double x);  // x > 0 and normal
// |x| must be below 2^30.
void SinCosDouble(double x, double* sin, double* cos);

}  // namespace lanyard::ops
