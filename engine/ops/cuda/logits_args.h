// The arguments of the kernels over logits (logits.cu). Pointers are device addresses; n_rows and
// max_rows are as in rows_args.h.
#pragma once

#include <cstdint>

namespace lanyard::ops::cuda {

// The LogitStats of engine/ops/logits.h, for one row.
struct RowStats {
  double sum = 0;
  double lse = 0;
  float max = 0;
  int32_t argmax = 0;
  uint32_t ok = 0;  // 0: a logit is NaN or infinite, and the rest means nothing
  uint32_t reserved = 0;
};

struct LogitsArgs {
  const float* logits = nullptr;     // [n_rows][n]
  float* chunk_max = nullptr;        // [n_rows][LogitChunks(n)]
  uint32_t* chunk_argmax = nullptr;  // the same shape; scratch
  float* chunk_sums = nullptr;       // the same shape; e^((x - max) * scale) of each chunk
  RowStats* stats = nullptr;         // [n_rows]
  const float* scales = nullptr;     // [n_rows], for ChunkSums; null: 1
  const uint32_t* n_rows = nullptr;
  uint32_t max_rows = 0;
  uint32_t n = 0;
};

}  // namespace lanyard::ops::cuda
