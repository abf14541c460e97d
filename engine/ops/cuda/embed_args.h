// The arguments of the embedding kernel (embed.cu). Pointers are device addresses; n_rows and
// max_rows are as in rows_args.h.
#pragma once

#include <cstdint>

namespace lanyard::ops::cuda {

struct EmbedArgs {
  // Rows in GGUF layout, one after another, 4-byte aligned (2 for quantised types).
  const uint8_t* table = nullptr;
  const int32_t* ids = nullptr;  // [n_rows]: row r is row ids[r] of the table; null: it is row r
  float* x = nullptr;            // [n_rows][n]
  const uint32_t* n_rows = nullptr;
  uint64_t row_bytes = 0;
  uint32_t max_rows = 0;
  uint32_t n = 0;     // a multiple of the type's block
  uint32_t type = 0;  // TensorType
  float scale = 1;    // the rows are multiplied by it afterwards, unless it is 1
};

}  // namespace lanyard::ops::cuda
