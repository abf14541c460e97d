// Bytes that a weight matrix takes once it is re-laid for the kernels. One formula for the engine that allocates them
// (engine/ops PackedMatrix) and for the planner that may not include it (model/memory.h).
#pragma once

#include <cstdint>

#include "base/tensor_type.h"

namespace lanyard {

// Output rows are interleaved in groups of this many; a last group that is not full is padded.
inline constexpr uint64_t kPackedRows = 16;

// A matrix [n_out][k] of a computable type; 0 for a type that Lanyard does not know. Blocks keep the size that they have
// in the file, so only the padding of the last group of rows comes on top.
constexpr uint64_t PackedMatrixBytes(TensorType type, uint64_t n_out, uint64_t k) {
  const auto traits = TraitsOf(type);
  if (!traits) return 0;
  const uint64_t rows = (n_out + kPackedRows - 1) / kPackedRows * kPackedRows;
  const uint64_t blocks = (k + traits->elements - 1) / traits->elements;
  return rows * blocks * traits->bytes;
}

}  // namespace lanyard
