// The functions of engine/ops/math.h on the device, with the same bits; docs/numerics.md
// "Functions".
#pragma once

#include "engine/ops/cuda/common.cuh"

namespace lanyard::ops::cuda {

constexpr float kInfinity = __builtin_huge_valf();
constexpr float kExpMagic = 12582912.0f;  // 1.5 * 2^23: adding it rounds to an integer

LANYARD_DEVICE float Exp(float x) {
  constexpr float kMin = -87.0f;
  constexpr float kMax = 88.0f;
  float c = x > kMin ? x : kMin;
  c = c < kMax ? c : kMax;
  const float t = Fma(c, 1.44269504088896341f, kExpMagic);
  const float n = t - kExpMagic;
  float r = Fma(n, -0.693359375f, c);
  r = Fma(n, 2.12194440e-4f, r);
  float p = 1.9875691500e-4f;
  p = Fma(p, r, 1.3981999507e-3f);
  p = Fma(p, r, 8.3334519073e-3f);
  p = Fma(p, r, 4.1665795894e-2f);
  p = Fma(p, r, 1.6666665459e-1f);
  p = Fma(p, r, 5.0000001201e-1f);
  p = Fma(p, r * r, r);
  p = p + 1.0f;
  float y = FloatOf(BitsOf(p) + (BitsOf(t) << 23));
  if (x < kMin) y = 0.0f;
  if (x > kMax) y = kInfinity;
  if (x != x) y = x;
  return y;
}

LANYARD_DEVICE float Silu(float x) { return Div(x, 1.0f + Exp(-x)); }

LANYARD_DEVICE float Gelu(float x) {
  const float inner = x * Fma(x * x, 0.044715f, 1.0f);
  return Div(x, 1.0f + Exp(inner * -1.5957691216057308f));
}

// x must be above 0 and normal.
LANYARD_DEVICE double LogDouble(double x) {
  const uint64_t bits = BitsOf(x);
  int32_t exponent = static_cast<int32_t>((bits >> 52) & 0x7ff) - 1023;
  double m = DoubleOf((bits & 0xfffffffffffffull) | 0x3ff0000000000000ull);
  if (m > 1.4142135623730951) {
    m = m * 0.5;
    ++exponent;
  }
  const double s = (m - 1.0) / (m + 1.0);
  const double z = s * s;
  double p = 0.0;
  LANYARD_UNROLL
  for (int k = 12; k >= 0; --k) p = p * z + 1.0 / (2 * k + 1);
  const double log_m = 2.0 * s * p;
  return exponent * 6.93147180369123816490e-01 + (exponent * 1.90821492927058770002e-10 + log_m);
}

// --- Sums and maxima of a warp, of a block

// The 16 partials of docs/numerics.md "Rows": lanes l and l + 16 hold the same partial l; then i
// and i+8, i+4, i+2, i+1 are added.
LANYARD_DEVICE float SumLanes16(float partial) {
  LANYARD_UNROLL
  for (uint32_t step = 8; step >= 1; step /= 2) partial = partial + ShuffleXor(partial, step);
  return partial;
}

// Adds the 32 values of a warp: j and j+16, then +8, +4, +2, +1.
LANYARD_DEVICE float SumLanes32(float value) {
  LANYARD_UNROLL
  for (uint32_t step = 16; step >= 1; step /= 2) value = value + ShuffleXor(value, step);
  return value;
}

// Returns the largest; a NaN is passed over, as by `a > max ? a : max` of the references.
LANYARD_DEVICE float MaxOfLanes(float max) {
  LANYARD_UNROLL
  for (uint32_t step = 16; step >= 1; step /= 2) {
    const float other = ShuffleXor(max, step);
    max = other > max ? other : max;
  }
  return max;
}

// Computes the sum of squares of x[0..n) with element i in partial i mod 16, by a whole warp, then
// 1 / sqrt(mean + eps).
LANYARD_DEVICE float InverseRms(const float* x, uint32_t n, float eps) {
  float partial = 0;
  LANYARD_UNROLL_BY(8)
  for (uint32_t i = Lane() % 16; i < n; i += 16) {
    const float v = x[i];
    partial = Fma(v, v, partial);
  }
  const float mean = Div(SumLanes16(partial), static_cast<float>(n));
  return Div(1.0f, Sqrt(mean + eps));
}

// Returns the largest of a block of kThreads threads; `of_warps` is shared memory of kThreads / 32
// floats, which is free again after the next barrier.
template <uint32_t kThreads>
LANYARD_DEVICE float MaxOfBlock(float max, float* of_warps) {
  max = MaxOfLanes(max);
  if (Lane() == 0) of_warps[WarpOfBlock()] = max;
  Barrier();
  max = of_warps[0];
  LANYARD_UNROLL
  for (uint32_t w = 1; w < kThreads / kWarp; ++w) max = of_warps[w] > max ? of_warps[w] : max;
  return max;
}

}  // namespace lanyard::ops::cuda
