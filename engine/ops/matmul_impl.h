// What matmul.cc, matmul_pack.cc and the per-ISA kernels share. No other file may use it.
//
// Packed weights. 16 output rows make a tile; tiles follow each other. A tile: a header (K-quants:
// d, then Q4_K's dmin, as f16[super block][16 rows]), then its blocks of 32 along K in the order in
// which they are dealt (partial 0's blocks ascending, then partial 1's, ...). Inside a block,
// "group" j is elements 4j..4j+3 of each of the 16 rows, four bytes a row:
//
//   Q4_0  d f16[16], nibbles[4][64]
//   Q4_1  d f16[16], m f16[16], nibbles[4][64]
//   Q5_0  d f16[16], high[64], nibbles[4][64]
//   Q8_0  d f16[16], bytes[8][64]
//   Q4_K  scale u8[16], min u8[16], nibbles[4][64]
//   Q6_K  scale i8[2][16], high[2][64], nibbles[4][64]
//   F32, F16: element-major, [32][16]; K is padded with zeros to a multiple of 32
//
// nibbles[j]: group j in the low halves, group j + 4 in the high halves. bytes: the value + 128.
// Q5_0's high: bit j of byte i of a row's four is bit 4 of element 4j + i. Q6_K's high[h]: bits 2t
// and 2t + 1 of byte i are bits 4 and 5 of element 4 (4h + t) + i. n_out is padded with zero rows
// to a multiple of 16. kScalar keeps the GGUF layout instead (in as many bytes).
//
// Activations for the kernels: columns (rows of the batch) in groups of at most max_columns; a
// group of C columns holds for each block, in dealt order, a record:
//
//   quantised: q s8[C][32], d f32[C], s f32[C],
//              then i32[C] each: -8 sum, -16 sum, -128 sum, -32 sum_lo, -32 sum_hi
//   float:     f32[32][C]
#pragma once

#include <cstdint>

#include "base/tensor_type.h"

namespace lanyard::ops {

inline constexpr int64_t kTileRows = 16;
inline constexpr int64_t kQuantRecordBytes = 60;  // for a column and block
inline constexpr int64_t kFloatRecordBytes = 128;

struct ProductArgs {
  const uint8_t* tiles;  // from tile_begin on
  int64_t tile_begin, tile_end;
  int64_t tile_bytes;
  int64_t n_blocks;  // blocks of 32 along K
  int64_t n_out;
  const uint8_t* act;  // one group of columns
  float* out;          // of the group's first column
  int64_t out_stride;
};
using ProductFn = void (*)(const ProductArgs&);

struct KernelTable {
  int max_columns;
  // The kernel for a group of `columns` in [1, max_columns].
  ProductFn (*product)(TensorType type, int columns);
  // Fills one column of a group (`record` is the group's start) from k floats.
  void (*quantise)(const float* x, int64_t k, int columns, int column, uint8_t* record);
};
const KernelTable& Avx2Kernels();
const KernelTable& Avx512Kernels();

// KernelTable::product of an ISA: Products::Of<type>(columns). Products lies in an unnamed
// namespace, so that no instance compiled for one ISA is linked into another's code.
template <typename Products>
ProductFn FindProduct(TensorType type, int columns) {
  switch (type) {
    case TensorType::kF32:
      return Products::template Of<TensorType::kF32>(columns);
    case TensorType::kF16:
      return Products::template Of<TensorType::kF16>(columns);
    case TensorType::kQ4_0:
      return Products::template Of<TensorType::kQ4_0>(columns);
    case TensorType::kQ4_1:
      return Products::template Of<TensorType::kQ4_1>(columns);
    case TensorType::kQ5_0:
      return Products::template Of<TensorType::kQ5_0>(columns);
    case TensorType::kQ8_0:
      return Products::template Of<TensorType::kQ8_0>(columns);
    case TensorType::kQ4_K:
      return Products::template Of<TensorType::kQ4_K>(columns);
    case TensorType::kQ6_K:
      return Products::template Of<TensorType::kQ6_K>(columns);
    default:
      return nullptr;
  }
}

// The number of blocks that are dealt to partial p.
inline int64_t DealtCount(int64_t n_blocks, int64_t p) { return (n_blocks - p + 7) / 8; }

}  // namespace lanyard::ops
