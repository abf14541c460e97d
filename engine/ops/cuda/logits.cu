// Sums over rows of logits: grid.y is a row, grid.x a chunk of 4096. docs/numerics.md "Logits".
#include "engine/ops/cuda/common.cuh"
#include "engine/ops/cuda/logits_args.h"
#include "engine/ops/cuda/math.cuh"

namespace lanyard::ops::cuda {
namespace {

constexpr uint32_t kThreads = 256;
constexpr uint32_t kChunk = 4096;  // engine/ops/logits.h kLogitChunk

// A logit and its id. The larger one is better; of equal ones the one with the lower id. A NaN is
// never taken.
struct Best {
  float value;
  uint32_t id;
};

LANYARD_DEVICE Best Better(Best a, Best b) {
  return b.value > a.value || (b.value == a.value && b.id < a.id) ? b : a;
}

LANYARD_DEVICE Best BestOfLanes(Best best) {
  LANYARD_UNROLL
  for (uint32_t step = 16; step >= 1; step /= 2) {
    best = Better(best, {ShuffleXor(best.value, step), ShuffleXor(best.id, step)});
  }
  return best;
}

LANYARD_DEVICE uint32_t Chunks(const LogitsArgs& a) { return (a.n + kChunk - 1) / kChunk; }

}  // namespace

// Finds the best of each chunk. Where nothing is above -infinity its first id is taken, as by the
// reference.
LANYARD_KERNEL __launch_bounds__(kThreads) lanyard_logits_max(LogitsArgs a) {
  __shared__ float values[kThreads / kWarp];
  __shared__ uint32_t ids[kThreads / kWarp];
  if (BlockY() >= *a.n_rows) return;
  const float* row = a.logits + static_cast<uint64_t>(BlockY()) * a.n;
  const uint32_t begin = BlockX() * kChunk;
  const uint32_t end = a.n - begin < kChunk ? a.n : begin + kChunk;
  Best best = {-kInfinity, begin};
  for (uint32_t i = begin + ThreadX(); i < end; i += kThreads) {
    const float v = row[i];
    if (v > best.value) best = {v, i};
  }
  best = BestOfLanes(best);
  if (Lane() == 0) {
    values[WarpOfBlock()] = best.value;
    ids[WarpOfBlock()] = best.id;
  }
  Barrier();
  if (ThreadX() != 0) return;
  LANYARD_UNROLL
  for (uint32_t w = 1; w < kThreads / kWarp; ++w) best = Better(best, {values[w], ids[w]});
  const uint32_t at = BlockY() * Chunks(a) + BlockX();
  a.chunk_max[at] = best.value;
  a.chunk_argmax[at] = best.id;
}

// Finds the best of each row, with a warp for each.
LANYARD_KERNEL __launch_bounds__(32) lanyard_logits_best(LogitsArgs a) {
  const uint32_t r = BlockX();
  if (r >= *a.n_rows) return;
  const uint32_t chunks = Chunks(a);
  Best best = {-kInfinity, 0xffffffffu};
  for (uint32_t c = Lane(); c < chunks; c += kWarp) {
    best = Better(best, {a.chunk_max[r * chunks + c], a.chunk_argmax[r * chunks + c]});
  }
  best = BestOfLanes(best);
  if (Lane() != 0) return;
  a.stats[r].max = best.value;
  a.stats[r].argmax = static_cast<int32_t>(best.id);
}

// Computes the sum of a chunk: every thread makes its exponentials, then one warp walks the 16
// partials.
LANYARD_KERNEL __launch_bounds__(kThreads) lanyard_logits_exp_sums(LogitsArgs a) {
  __shared__ float terms[kChunk];
  if (BlockY() >= *a.n_rows) return;
  const float* row = a.logits + static_cast<uint64_t>(BlockY()) * a.n;
  const float max = a.stats[BlockY()].max;
  const float scale = a.scales == nullptr ? 1.0f : a.scales[BlockY()];
  const uint32_t begin = BlockX() * kChunk;
  const uint32_t count = a.n - begin < kChunk ? a.n - begin : kChunk;
  for (uint32_t i = ThreadX(); i < count; i += kThreads)
    terms[i] = Exp((row[begin + i] - max) * scale);
  Barrier();
  if (WarpOfBlock() != 0) return;
  float partial = 0;
  LANYARD_UNROLL_BY(8)
  for (uint32_t i = Lane() % 16; i < count; i += 16) partial = partial + terms[i];
  const float sum = SumLanes16(partial);
  if (Lane() == 0) a.chunk_sums[BlockY() * Chunks(a) + BlockX()] = sum;
}

// Adds the chunks' sums in order, in double; one thread takes a row.
LANYARD_KERNEL __launch_bounds__(32) lanyard_logits_total(LogitsArgs a) {
  const uint32_t r = BlockX();
  if (r >= *a.n_rows || ThreadX() != 0) return;
  RowStats stats = {0, 0, a.stats[r].max, a.stats[r].argmax, 0, 0};
  if (IsFinite(stats.max)) {
    const uint32_t chunks = Chunks(a);
    for (uint32_t c = 0; c < chunks; ++c)
      stats.sum = stats.sum + static_cast<double>(a.chunk_sums[r * chunks + c]);
    if (stats.sum >= 0.5) {
      stats.ok = 1;
      stats.lse = static_cast<double>(stats.max) + LogDouble(stats.sum);
    }
  }
  a.stats[r] = stats;
}

}  // namespace lanyard::ops::cuda
