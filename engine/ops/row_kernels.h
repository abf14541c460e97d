// The kernels of the row operations for one instruction set. ops/*.cc check, split the rows and
// call these.
#pragma once

#include <cstdint>

#include "engine/ops/residual.h"

namespace lanyard::ops {

struct RowKernels {
  // Rows [begin, end).
  void (*residual)(const ResidualRows& args, int64_t begin, int64_t end);
  int (*encode_half)(const float* x, int64_t n, uint16_t* out);  // returns the exponent
  bool (*decode_half)(const uint16_t* in, int exponent, int64_t n, float* x);  // false: not finite
  bool (*all_finite)(const float* x, int64_t n);
  void (*scale)(float* x, int64_t n, float scale);
  // gate[i] = act(gate[i]) * up[i]
  void (*silu_mul)(float* gate, const float* up, int64_t n);
  void (*gelu_mul)(float* gate, const float* up, int64_t n);
  // For n logits: the largest, and the sum of e^(x - max) as docs/numerics.md "Logits" orders it (n
  // <= kLogitChunk).
  float (*max)(const float* x, int64_t n);
  float (*exp_sum)(const float* x, int64_t n, float max, float scale);
};

const RowKernels& RowKernelsFor(Isa isa);

extern const RowKernels kRowKernelsScalar;
extern const RowKernels kRowKernelsAvx2;
extern const RowKernels kRowKernelsAvx512;

}  // namespace lanyard::ops
