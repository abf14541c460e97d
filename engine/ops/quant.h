// The numbers behind a product: GGUF weight blocks are taken apart by their definition, activations
// are quantised to 8 bits. Portable code without intrinsics; docs/numerics.md "Products" says the
// same in words. Layouts: https://github.com/ggml-org/ggml/blob/master/src/ggml-common.h
// (block_q4_0 and its like).
#pragma once

#include <cstdint>

#include "base/tensor_type.h"

namespace lanyard::ops {

inline constexpr int64_t kBlock = 32;  // elements of a block of activations, and of a step along K
inline constexpr int64_t kPartials = 8;      // block b goes to partial sum b mod 8
inline constexpr int64_t kSuperBlock = 256;  // elements of a K-quant's block

// Element i of a block is w[i] * d + m. w already holds all that is an integer in the format: the
// offset (Q4_0: -8 ...) and Q6_K's 8-bit sub-scales; d holds Q4_K's sub-scale, which is exact in
// f32.
struct WeightBlock {
  int32_t w[kBlock];
  float d;
  float m;  // 0 for a format without a minimum
};
constexpr bool IsQuantised(TensorType type) {
  return type != TensorType::kF32 && type != TensorType::kF16 && type != TensorType::kBF16;
}
constexpr bool HasMinimum(TensorType type) {
  return type == TensorType::kQ4_1 || type == TensorType::kQ4_K;
}
// Takes block b (32 elements) out of a row in GGUF layout. `type` is quantised and computable.
void DecodeBlock(TensorType type, const uint8_t* row, int64_t b, WeightBlock* out);
// Takes elements [begin, begin + n) of an F32 or F16 row.
void DecodeFloats(TensorType type, const uint8_t* row, int64_t begin, int64_t n, float* out);

// One block of activations: x[i] is nearly q[i] * d. See QuantiseBlock.
struct ActBlock {
  int8_t q[kBlock];
  float d;
  float s;         // float(sum of q) * d, rounded once
  int32_t sum_lo;  // of q[0..15]
  int32_t sum_hi;  // of q[16..31]
};
// d = amax / 127, q = round-to-nearest-even(x * (127 / amax)), each operation rounded once. An amax
// below kTinyAmax gives d = 0 and q = 0; a NaN or an infinity in the block gives d = NaN and q = 0.
void QuantiseBlock(const float* x, ActBlock* out);
inline constexpr float kTinyAmax = 0x1p-100f;

}  // namespace lanyard::ops
