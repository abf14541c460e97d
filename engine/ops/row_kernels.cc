// The scalar reference of the row operations: the definition that every other version equals bit
// for bit.
#include "engine/ops/row_kernels.h"

#include <cmath>
#include <cstring>

#include "base/half.h"
#include "engine/ops/math.h"

namespace lanyard::ops {
namespace {

constexpr int kLanes = 16;

// Lanes i and i+8 are added, then i+4, i+2, i+1.
float SumLanes(float lanes[kLanes]) {
  for (int step = kLanes / 2; step >= 1; step /= 2) {
    for (int i = 0; i < step; ++i) lanes[i] = lanes[i] + lanes[i + step];
  }
  return lanes[0];
}

// Returns 1 / sqrt(mean of squares + eps).
float InverseRms(const float* x, int64_t n, float eps) {
  float lanes[kLanes] = {};
  for (int64_t i = 0; i < n; ++i) lanes[i % kLanes] = Fma(x[i], x[i], lanes[i % kLanes]);
  const float mean = SumLanes(lanes) / static_cast<float>(n);
  return 1.0f / std::sqrt(mean + eps);
}

float MaxMagnitude(const float* x, int64_t n) {
  float amax = 0;
  for (int64_t i = 0; i < n; ++i) {
    const float a = std::fabs(x[i]);
    amax = a > amax ? a : amax;
  }
  return amax;
}

void RoundRow(float* x, int64_t n) {
  const int e = HalfRowExponent(MaxMagnitude(x, n));
  const float down = PowerOfTwo(-e);
  const float up = PowerOfTwo(e);
  for (int64_t i = 0; i < n; ++i) x[i] = HalfToFloat(FloatToHalf(x[i] * down)) * up;
}

void ResidualScalar(const ResidualRows& args, int64_t begin, int64_t end) {
  const int64_t n = args.n;
  for (int64_t r = begin; r < end; ++r) {
    float* x = args.x + r * n;
    if (args.delta != nullptr) {
      const float* delta = args.delta + r * n;
      if (args.delta_norm != nullptr) {
        const float scale = InverseRms(delta, n, args.eps);
        for (int64_t i = 0; i < n; ++i) x[i] = x[i] + delta[i] * scale * args.delta_norm[i];
      } else {
        for (int64_t i = 0; i < n; ++i) x[i] = x[i] + delta[i];
      }
    }
    if (args.round_f16) RoundRow(x, n);
    if (args.norm != nullptr) {
      const float scale = InverseRms(x, n, args.eps);
      float* out = args.out + r * n;
      for (int64_t i = 0; i < n; ++i) out[i] = x[i] * scale * args.norm[i];
    }
  }
}

int EncodeHalfScalar(const float* x, int64_t n, uint16_t* out) {
  const int e = HalfRowExponent(MaxMagnitude(x, n));
  const float down = PowerOfTwo(-e);
  for (int64_t i = 0; i < n; ++i) {
    const uint16_t half = FloatToHalf(x[i] * down);
    std::memcpy(reinterpret_cast<uint8_t*>(out) + 2 * i, &half, 2);
  }
  return e;
}

bool DecodeHalfScalar(const uint16_t* in, int exponent, int64_t n, float* x) {
  // An exponent outside of what EncodeHalf makes would need two multiplications to be exact, so it
  // is refused as not finite.
  if (exponent < kHalfRowExponentMin || exponent > kHalfRowExponentMax) return false;
  const float up = PowerOfTwo(exponent);
  bool finite = true;
  for (int64_t i = 0; i < n; ++i) {
    uint16_t half;
    std::memcpy(&half, reinterpret_cast<const uint8_t*>(in) + 2 * i, 2);
    x[i] = HalfToFloat(half) * up;
    finite = finite && std::isfinite(x[i]);
  }
  return finite;
}

bool AllFiniteScalar(const float* x, int64_t n) {
  bool finite = true;
  for (int64_t i = 0; i < n; ++i) finite = finite && std::isfinite(x[i]);
  return finite;
}

void ScaleScalar(float* x, int64_t n, float scale) {
  for (int64_t i = 0; i < n; ++i) x[i] = x[i] * scale;
}

void SiluMulScalar(float* gate, const float* up, int64_t n) {
  for (int64_t i = 0; i < n; ++i) gate[i] = Silu(gate[i]) * up[i];
}

void GeluMulScalar(float* gate, const float* up, int64_t n) {
  for (int64_t i = 0; i < n; ++i) gate[i] = Gelu(gate[i]) * up[i];
}

float MaxScalar(const float* x, int64_t n) {
  float max = -HUGE_VALF;
  for (int64_t i = 0; i < n; ++i) max = x[i] > max ? x[i] : max;
  return max;
}

float ExpSumScalar(const float* x, int64_t n, float max, float scale) {
  float lanes[kLanes] = {};
  for (int64_t i = 0; i < n; ++i) {
    lanes[i % kLanes] = lanes[i % kLanes] + Exp((x[i] - max) * scale);
  }
  return SumLanes(lanes);
}

}  // namespace

const RowKernels kRowKernelsScalar = {
    ResidualScalar, EncodeHalfScalar, DecodeHalfScalar, AllFiniteScalar, ScaleScalar,
    SiluMulScalar,  GeluMulScalar,    MaxScalar,        ExpSumScalar,
};

}  // namespace lanyard::ops
