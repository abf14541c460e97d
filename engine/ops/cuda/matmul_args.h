// What the host and the kernels of products share: arguments and the layouts of memory. Read by the
// compilers of kernels and of the host; pointers are addresses of the device.
//
// Weights. 16 output rows make a tile; n_out is padded with zero rows. A tile: a header (K-quants),
// then the units of its blocks of 32 along K in the order in which they are dealt: partial 0's
// blocks ascending (0, 8, 16, ...), then partial 1's, ... A unit holds one block of each of the 16
// rows; every field starts at a multiple of 32 bytes:
//
//   Q4_0  d f16[16]; q[16][16]                            288 bytes, as GGUF
//   Q4_1  (d, m) f16[16][2]; q[16][16]                    320, as GGUF
//   Q5_0  d f16[16]; high u32[16]; q[16][16]              352, as GGUF
//   Q8_0  d f16[16]; q[2][16][16]                         544, as GGUF
//   Q4_K  (scale, minimum) u8[16][2]; q[16][16]           288, with a header 148/144 of GGUF
//   Q6_K  scale i8[16][2]; high u32[16][2]; q[16][16]     416, with a header as GGUF
//   F32   q[8][16][16]: four elements of a row            2048, as GGUF with K rounded up to 32
//   F16   q[4][16][16]: eight elements of a row           1024
//   header of Q4_K: (d, dmin) f16[super block][16][2]; of Q6_K: d f16[super block][16]
//
// q of the 4-bit planes: byte i of a row is element i in the low half, element 16 + i in the high
// half, as GGUF. Formats with an offset are stored as two's complement (the top bit flipped), so
// that a byte of the value times 16 (Q4_0), 8 (Q5_0) or 4 (Q6_K) is put together by masks alone.
// Q5_0's high: bit j of byte i is the (flipped) top bit of element 4j + i. Q6_K's high[h]: bits 2j
// and 2j + 1 of byte i are bits 4 and 5 of element 16h + 4j + i.
//
// Rows of activations come in groups of `columns` (1, 2, 4 or 8: the number of rows rounded up;
// more rows: 8), the last one padded with zeros. Positions are blocks in dealt order, as in the
// weights:
//
//   quantised: q i8[group][position][2 halves][column][16]
//              d f32[group][position][column], and s in the same form
//   float:     f32[group][position][8][column][4]
//
// In the float form element 4j + i of the block lies at [j][column][i], and K is padded with zeros.
#pragma once

#include <cstdint>

namespace lanyard::ops::cuda {

inline constexpr uint32_t kTileOutputs = 16;
inline constexpr uint32_t kDealtPartials = 8;
inline constexpr uint32_t kBlockElements = 32;
inline constexpr uint32_t kMaxColumns = 8;

// Converts activations to blocks, or to padded floats. One of 8 threads takes a block: grid * block
// / 8 >= groups * columns * n_blocks.
struct AssignRowsArgs {
  const float* x;
  int64_t stride;  // floats
  uint32_t rows;
  uint32_t k;
  uint32_t n_blocks;
  uint32_t columns;
  uint32_t groups;
  uint8_t* q;  // or the floats
  float* d;    // quantised only
  float* s;
};

struct ProductArgs {
  const uint8_t* tiles;
  uint64_t tile_bytes;
  uint32_t header_bytes;  // for one tile
  uint32_t n_tiles;
  uint32_t n_out;
  uint32_t n_blocks;
  uint32_t supers;  // super blocks of a row, for K-quants
  uint32_t
      supers_inverse;  // 2^31 / supers, rounded up: divides positions below 2^31 / supers exactly
  uint32_t rows;
  uint32_t groups;
  const uint8_t* q;
  const float* d;
  const float* s;
  float* out;
  int64_t out_stride;  // floats
};

}  // namespace lanyard::ops::cuda
