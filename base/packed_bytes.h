// The bytes that a weight matrix takes once it is re-laid for the kernels. It is one formula for
// the engine that allocates them (engine/ops PackedMatrix::PackedBytes; tests/memory holds the two
// equal) and for the planner, which may not include the engine.
#pragma once

#include <cstdint>

#include "base/tensor_type.h"

namespace lanyard {

// Output rows are interleaved in groups of this many; a last group that is not full is padded.
inline constexpr uint64_t kPackedRows = 16;
// K is walked in blocks of this many; float rows are padded to whole blocks.
inline constexpr uint64_t kPackedBlock = 32;

// For a matrix [n_out][k] of a computable type; 0 for a type that the kernels do not take.
constexpr uint64_t PackedMatrixBytes(TensorType type, uint64_t n_out, uint64_t k) {
  const auto traits = TraitsOf(type);
  if (!traits || !traits->computable) return 0;
  const uint64_t rows = (n_out + kPackedRows - 1) / kPackedRows * kPackedRows;
  if (traits->elements == 1) {
    return rows * ((k + kPackedBlock - 1) / kPackedBlock * kPackedBlock) * traits->bytes;
  }
  // Quantised blocks keep their size, but Q4_K's packed 6-bit sub-scales become bytes: 4 more in
  // 256 elements.
  const uint64_t extra = type == TensorType::kQ4_K ? 4 : 0;
  return rows * (k / traits->elements) * (traits->bytes + extra);
}

// What the allocator takes for `bytes`: whole cache lines, or whole pages where the memory is
// mapped.
constexpr uint64_t AllocatedBytes(uint64_t bytes) {
  const uint64_t unit = bytes < (2u << 20) ? 64 : 4096;
  return (bytes + unit - 1) / unit * unit;
}

}  // namespace lanyard
