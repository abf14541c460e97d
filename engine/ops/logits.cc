#include "engine/ops/logits.h"

#include <algorithm>
#include <cmath>

#include "engine/ops/math.h"
#include "engine/ops/row_kernels.h"

namespace lanyard::ops {
namespace {

int64_t ChunkSize(int64_t n, int64_t c) { return std::min(kLogitChunk, n - c * kLogitChunk); }

}  // namespace

void ChunkSums(Isa isa, ThreadPool& pool, std::span<const float> logits, ExpOf exp,
               std::vector<float>* sums) {
  const int64_t n = static_cast<int64_t>(logits.size());
  const RowKernels& k = RowKernelsFor(isa);
  sums->resize(LogitChunks(n));
  pool.For(LogitChunks(n), 4, [&](int64_t begin, int64_t end) {
    for (int64_t c = begin; c < end; ++c) {
      (*sums)[c] = k.exp_sum(logits.data() + c * kLogitChunk, ChunkSize(n, c), exp.max, exp.scale);
    }
  });
}

bool SummariseLogits(Isa isa, ThreadPool& pool, const float* logits, int64_t n, LogitStats* stats) {
  const RowKernels& k = RowKernelsFor(isa);
  stats->chunk_max.resize(LogitChunks(n));
  pool.For(LogitChunks(n), 8, [&](int64_t begin, int64_t end) {
    for (int64_t c = begin; c < end; ++c) {
      stats->chunk_max[c] = k.max(logits + c * kLogitChunk, ChunkSize(n, c));
    }
  });
  int64_t best = 0;
  for (int64_t c = 1; c < LogitChunks(n); ++c) {
    if (stats->chunk_max[c] > stats->chunk_max[best]) best = c;
  }
  stats->max = stats->chunk_max[best];
  if (!std::isfinite(stats->max)) return false;
  int64_t id = best * kLogitChunk;
  while (id + 1 < n && logits[id] != stats->max) ++id;
  stats->argmax = static_cast<int32_t>(id);
  std::vector<float> sums;
  ChunkSums(isa, pool, std::span(logits, n), {stats->max, 1.0f}, &sums);
  stats->sum = 0;
  for (const float s : sums) stats->sum += static_cast<double>(s);
  // There is a NaN somewhere, since the largest alone gives 1.
  if (!(stats->sum >= 0.5)) return false;
  stats->lse = static_cast<double>(stats->max) + LogDouble(stats->sum);
  return true;
}

}  // namespace lanyard::ops
