// Row operations between products: a block is a row. The 16 partials of a sum of squares are chains
// that one warp walks from shared memory (both halves of it the same 16); all else is spread over
// the block's threads.
#include "base/half.h"
#include "engine/ops/cuda/common.cuh"
#include "engine/ops/cuda/math.cuh"
#include "engine/ops/cuda/rows_args.h"

namespace lanyard::ops::cuda {
namespace {

constexpr uint32_t kThreads = 256;

struct RowShared {
  float max[kThreads / kWarp];
  float scale;
};

// 1 / rms of a row that the block's threads have written before; every thread gets it.
LANYARD_DEVICE float BlockInverseRms(const float* x, uint32_t n, float eps, RowShared* shared) {
  Barrier();
  if (WarpOfBlock() == 0) {
    const float scale = InverseRms(x, n, eps);
    if (Lane() == 0) shared->scale = scale;
  }
  Barrier();
  return shared->scale;
}

// The exponent of a row; `max` is the largest magnitude within each thread's elements.
LANYARD_DEVICE int32_t BlockExponent(float max, RowShared* shared) {
  max = MaxOfBlock<kThreads>(max, shared->max);
  uint32_t bits = BitsOf(max);
  if (bits == 0) return 0;
  bits += 0xfffu + (bits >> 13 & 1u);
  const int32_t exponent = static_cast<int32_t>(bits >> 23) - 127 - 14;
  return exponent < kHalfRowExponentMin   ? kHalfRowExponentMin
         : exponent > kHalfRowExponentMax ? kHalfRowExponentMax
                                          : exponent;
}

LANYARD_DEVICE float Power(int32_t e) { return FloatOf(static_cast<uint32_t>(e + 127) << 23); }

// `held` is the row as it becomes: it lies in shared memory, or in x itself when it is too long for
// that. delta_held is the same for delta.
LANYARD_DEVICE void ResidualRow(const ResidualArgs& a, float* x, float* held, bool staged,
                                RowShared* shared) {
  const uint32_t n = a.n;
  const float* delta = a.delta == nullptr ? nullptr : a.delta + static_cast<uint64_t>(BlockX()) * n;
  float* out = a.out + static_cast<uint64_t>(BlockX()) * n;
  float delta_scale = 1;
  const float* source = delta;
  if (delta != nullptr && a.delta_norm != nullptr) {
    if (staged) {
      for (uint32_t i = ThreadX(); i < n; i += kThreads) held[i] = delta[i];
      source = held;
    }
    delta_scale = BlockInverseRms(source, n, a.eps, shared);
  }
  float max = 0;
  for (uint32_t i = ThreadX(); i < n; i += kThreads) {
    float v = x[i];
    if (delta != nullptr) {
      float d = source[i];
      if (a.delta_norm != nullptr) d = d * delta_scale * a.delta_norm[i];
      v = v + d;
    }
    const float magnitude = Magnitude(v);
    max = magnitude > max ? magnitude : max;
    held[i] = v;
    if (!a.round_f16 && staged && delta != nullptr) x[i] = v;
  }
  if (a.round_f16) {
    const int32_t e = BlockExponent(max, shared);
    const float down = Power(-e);
    const float up = Power(e);
    for (uint32_t i = ThreadX(); i < n; i += kThreads) {
      const float v = HalfToFloat(FloatToHalf(held[i] * down)) * up;
      held[i] = v;
      if (staged) x[i] = v;
    }
  }
  if (a.norm != nullptr) {
    const float scale = BlockInverseRms(held, n, a.eps, shared);
    for (uint32_t i = ThreadX(); i < n; i += kThreads) out[i] = held[i] * scale * a.norm[i];
  }
}

LANYARD_DEVICE float* RowOf(const ResidualArgs& a) {
  return a.x + static_cast<uint64_t>(a.row_of == nullptr ? BlockX() : a.row_of[BlockX()]) * a.n;
}

}  // namespace

LANYARD_KERNEL __launch_bounds__(kThreads) lanyard_residual(ResidualArgs a) {
  __shared__ RowShared shared;
  if (BlockX() >= *a.n_rows) return;
  ResidualRow(a, RowOf(a), reinterpret_cast<float*>(dynamic_shared), true, &shared);
}

// For a row that does not fit in shared memory.
LANYARD_KERNEL __launch_bounds__(kThreads) lanyard_residual_long(ResidualArgs a) {
  __shared__ RowShared shared;
  if (BlockX() >= *a.n_rows) return;
  float* x = RowOf(a);
  ResidualRow(a, x, x, false, &shared);
}

LANYARD_KERNEL __launch_bounds__(kThreads) lanyard_encode_half_rows(HalfRowsArgs a) {
  __shared__ RowShared shared;
  const uint32_t rows = *a.n_rows;
  const uint32_t r = BlockX();
  if (r >= rows) return;
  const float* x = a.x + static_cast<uint64_t>(r) * a.n;
  float max = 0;
  for (uint32_t i = ThreadX(); i < a.n; i += kThreads) {
    const float magnitude = Magnitude(x[i]);
    max = magnitude > max ? magnitude : max;
  }
  const int32_t e = BlockExponent(max, &shared);
  if (ThreadX() == 0) a.data[r] = static_cast<uint8_t>(e);
  const float down = Power(-e);
  uint8_t* halves = a.data + rows + static_cast<uint64_t>(r) * a.n * 2;
  const bool aligned = rows % 2 == 0;
  for (uint32_t i = ThreadX(); i < a.n; i += kThreads) {
    const uint16_t half = FloatToHalf(x[i] * down);
    if (aligned) {
      reinterpret_cast<uint16_t*>(halves)[i] = half;
    } else {
      halves[2 * i] = static_cast<uint8_t>(half);
      halves[2 * i + 1] = static_cast<uint8_t>(half >> 8);
    }
  }
}

LANYARD_KERNEL __launch_bounds__(kThreads) lanyard_decode_half_rows(HalfRowsArgs a) {
  const uint32_t rows = *a.n_rows;
  const uint32_t r = BlockX();
  if (r >= rows) return;
  const int32_t e = static_cast<int8_t>(a.data[r]);
  if (e < kHalfRowExponentMin || e > kHalfRowExponentMax) {
    if (ThreadX() == 0) AtomicOr(a.not_finite, 1);
    return;
  }
  const float up = Power(e);
  const uint8_t* halves = a.data + rows + static_cast<uint64_t>(r) * a.n * 2;
  const bool aligned = rows % 2 == 0;
  float* x = a.x + static_cast<uint64_t>(r) * a.n;
  bool finite = true;
  for (uint32_t i = ThreadX(); i < a.n; i += kThreads) {
    const uint16_t half = aligned ? reinterpret_cast<const uint16_t*>(halves)[i]
                                  : static_cast<uint16_t>(halves[2 * i] | halves[2 * i + 1] << 8);
    const float v = HalfToFloat(half) * up;
    x[i] = v;
    finite = finite && IsFinite(v);
  }
  if (!finite) AtomicOr(a.not_finite, 1);
}

LANYARD_KERNEL __launch_bounds__(kThreads) lanyard_all_finite(ElementsArgs a) {
  if (BlockX() >= *a.n_rows) return;
  const float* x = a.x + static_cast<uint64_t>(BlockX()) * a.n;
  bool finite = true;
  for (uint32_t i = ThreadX(); i < a.n; i += kThreads) finite = finite && IsFinite(x[i]);
  if (!finite) AtomicOr(a.not_finite, 1);
}

LANYARD_KERNEL __launch_bounds__(kThreads) lanyard_scale(ElementsArgs a) {
  if (BlockX() >= *a.n_rows) return;
  float* x = a.x + static_cast<uint64_t>(BlockX()) * a.n;
  for (uint32_t i = ThreadX(); i < a.n; i += kThreads) x[i] = x[i] * a.scale;
}

}  // namespace lanyard::ops::cuda
