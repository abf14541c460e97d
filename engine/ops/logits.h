// Sums over a row of logits, in chunks of 4096 that threads can share. docs/numerics.md "Logits"
// defines them.
#pragma once

#include <cstdint>
#include <span>
#include <vector>

#include "engine/ops/isa.h"
#include "engine/ops/thread_pool.h"

namespace lanyard::ops {

inline constexpr int64_t kLogitChunk = 4096;
constexpr int64_t LogitChunks(int64_t n) { return (n + kLogitChunk - 1) / kLogitChunk; }

struct LogitStats {
  float max = 0;
  int32_t argmax = 0;  // the lowest id that has it
  // Sum of e^(x - max): f32 in 16 lanes within a chunk, then the chunks in order in double.
  double sum = 0;
  double lse = 0;  // max + log(sum)
  std::vector<float> chunk_max;
};
// `stats` keeps its memory between calls. Returns false when a logit is NaN or infinite; then the
// stats mean nothing.
bool SummariseLogits(Isa isa, ThreadPool& pool, const float* logits, int64_t n, LogitStats* stats);

// Gives for each chunk the sum of e^((x - max) * scale), as above.
struct ExpOf {
  float max = 0;
  float scale = 1;
};
void ChunkSums(Isa isa, ThreadPool& pool, std::span<const float> logits, ExpOf exp,
               std::vector<float>* sums);

}  // namespace lanyard::ops
