// The sizes of re-laid weights, for matmul*.cc here and their tests. matmul_args.h has the layout
// itself.
#pragma once

#include <cstdint>

#include "base/tensor_type.h"
#include "engine/ops/cuda/matmul_args.h"
#include "engine/ops/quant.h"

namespace lanyard::ops::cuda {

// With these limits offsets inside a tile fit 32 bits, supers_inverse is exact, and a grid's first
// dimension holds the tiles.
inline constexpr int64_t kMaxK = int64_t{1} << 20;
inline constexpr int64_t kMaxOutputs = int64_t{1} << 30;

inline int64_t BlockCount(int64_t k) { return (k + kBlock - 1) / kBlock; }

uint64_t UnitBytes(TensorType type);  // 0: there are no kernels
uint64_t HeaderBytes(TensorType type, int64_t k);
uint64_t TileBytes(TensorType type, int64_t k);

// One row of a unit.
struct PackedBlock {
  int64_t r;
  uint8_t* unit;
};
// `rows` (1 to 16) rows in GGUF layout.
struct TileSource {
  const uint8_t* data;
  uint64_t row_bytes;
  int64_t rows;
};
// Writes into a zeroed tile.
void PackTile(TensorType type, const TileSource& source, int64_t k, uint8_t* tile);

}  // namespace lanyard::ops::cuda
