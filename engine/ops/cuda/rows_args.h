// The arguments of the row kernels (rows.cu). Pointers are device addresses.
//
// A word of device memory, `n_rows`, says how many rows a step has; `max_rows` only sizes the grid,
// and a block without a row ends at once. So a captured graph made for max_rows is replayed for
// every step of at most this many rows.
#pragma once

#include <cstdint>

namespace lanyard::ops::cuda {

// The ResidualRows of engine/ops/residual.h. In addition row r can be row row_of[r] of x (of x
// only), for the rows that want logits.
struct ResidualArgs {
  float* x = nullptr;                 // [.][n]
  const float* delta = nullptr;       // [n_rows][n]
  const float* delta_norm = nullptr;  // [n]
  const float* norm = nullptr;        // [n]
  float* out = nullptr;               // [n_rows][n]; may be `delta`
  const uint32_t* row_of = nullptr;   // [n_rows], distinct, or null
  const uint32_t* n_rows = nullptr;
  uint32_t max_rows = 0;
  uint32_t n = 0;
  uint32_t round_f16 = 0;
  float eps = 0;
};

// Rows to and from the wire: data is exponents[n_rows], halves[n_rows][n], and 2-byte aligned.
struct HalfRowsArgs {
  float* x = nullptr;  // [n_rows][n]
  uint8_t* data = nullptr;
  // decode: bit 0 is set where a value is not finite or an exponent is out of range.
  uint32_t* not_finite = nullptr;
  const uint32_t* n_rows = nullptr;
  uint32_t max_rows = 0;
  uint32_t n = 0;
};

struct ElementsArgs {
  float* x = nullptr;              // [n_rows][n]
  uint32_t* not_finite = nullptr;  // for AllFinite: bit 0
  const uint32_t* n_rows = nullptr;
  uint32_t max_rows = 0;
  uint32_t n = 0;
  float scale = 1;  // for Scale
};

}  // namespace lanyard::ops::cuda
