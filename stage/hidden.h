// Converts hidden states to bytes and back. The engine has faster twins of these
// (engine/ops/residual.h); the bits are the same.
#pragma once

#include <cstdint>
#include <vector>

#include "base/status.h"
#include "stage/types.h"

namespace lanyard::stage {

// `x` is rows x cols, row-major. It is rounded to the type, which is exact for kF32 and for rows
// that were rounded before.
Hidden EncodeHidden(WireType type, const float* x, uint32_t rows, uint32_t cols);

// InvalidArgument when the size does not fit rows and cols, or when a value is NaN or infinite
// (named by row and column).
absl::StatusOr<std::vector<float>> DecodeHidden(const Hidden& hidden);

// Does to a row what the wire does: decode(encode(row)).
void RoundHiddenRow(WireType type, float* x, uint32_t cols);

}  // namespace lanyard::stage
