// A warp's share of a product by int8 tensor cores: 32 outputs times 8 or more columns, one block
// of 32 along K.
//
// Lane (g, t) = (lane / 4, lane % 4) holds outputs g, g + 8, g + 16, g + 24 of the warp's 32 and,
// of every 8 columns, 2t and 2t + 1. The accumulators of an mma start at kMagic, so that a sum
// turns into a float by one fast instruction.
#pragma once

#include "engine/ops/cuda/matmul_formats.cuh"

#if LANYARD_PTX_LEVEL >= 75
namespace lanyard::ops::cuda {

constexpr uint32_t kWarpOutputs = 32;

// Makes a 16 x 32 fragment from the lane's dwords of its two rows.
template <typename F>
LANYARD_DEVICE void UnpackFragment(const uint32_t raw[2], const uint32_t high[2][2], uint32_t t,
                                   uint32_t a[4]) {
  LANYARD_UNROLL for (int i = 0; i < 2; ++i) {
    a[i] = F::Low(raw[i], high[i][0], t);
    a[i + 2] = F::High(raw[i], high[i][F::kHighBytes == 8 ? 1 : 0], t);
  }
}

// Multiplies one block of 16 outputs by 8 columns: b is the columns' fragment, w belongs to the two
// rows, d and s to the two columns.
template <typename F>
LANYARD_DEVICE void MultiplyBlock(const uint32_t a[4], const uint32_t b[2], const RowScales w[2],
                                  const float d[2], const float s[2], float acc[4]) {
  int32_t sums[4];
  if constexpr (F::kHalves) {
    int32_t sums1[4];
    Mma16(sums, a[0], a[1], b[0], kMagic);
    Mma16(sums1, a[2], a[3], b[1], kMagic);
    LANYARD_UNROLL for (int e = 0; e < 4; ++e) {
      const float value = F::ToFloat(sums[e], sums1[e], w[e / 2].e, w[e / 2].f);
      acc[e] = AddBlock<F>(acc[e], value, w[e / 2], d[e % 2], s[e % 2]);
    }
  } else {
    Mma32(sums, a, b[0], b[1], kMagic);
    LANYARD_UNROLL for (int e = 0; e < 4; ++e) {
      acc[e] = AddBlock<F>(acc[e], F::ToFloat(sums[e]), w[e / 2], d[e % 2], s[e % 2]);
    }
  }
}

}  // namespace lanyard::ops::cuda
#endif
