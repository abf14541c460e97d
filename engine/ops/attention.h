// Attention of rows over the pages of their sequences. docs/numerics.md "Attention" is the
// definition in words; the scalar reference stands in attention.cc. A row's result depends on its
// query and the keys and values it sees, and neither on the rows beside it nor on how rows are
// dealt to threads.
#pragma once

#include <cstdint>
#include <vector>

#include "engine/ops/isa.h"
#include "engine/ops/kv_cache.h"
#include "engine/ops/thread_pool.h"

namespace lanyard::ops {

// The pages of one span of positions. The partial results of spans (maximum, sum, output) are
// merged in ascending order.
inline constexpr int kSpanPages = 8;

// Consecutive rows of one sequence.
struct AttentionRun {
  int64_t row = 0;   // index of the first row, in the frame
  uint32_t pos = 0;  // position of the first row
  uint32_t n_rows = 0;
  const uint32_t* pages = nullptr;  // pages of the logical blocks first, first + 1, ...
  uint32_t first = 0;
};

struct AttentionArgs {
  KvLayer kv;
  int n_heads = 0;           // a multiple of kv.n_kv_heads
  uint32_t window = 0;       // row p sees positions > p - window; 0: all positions up to p
  const float* q = nullptr;  // row r: q + r * q_stride, heads one after another, scaled
  int64_t q_stride = 0;
  float* out = nullptr;  // like q
  int64_t out_stride = 0;
  const AttentionRun* runs = nullptr;
  int64_t n_runs = 0;
};

// Memory that Attend needs and that is kept between calls: scratch of each thread, and the list of
// tiles.
class AttentionScratch {
 public:
  AttentionScratch() = default;
  AttentionScratch(int threads, int n_heads, int n_kv_heads, int head_dim, int64_t max_rows);
  static uint64_t Bytes(int threads, int n_heads, int n_kv_heads, int head_dim, int64_t max_rows);

  struct Tile {
    uint32_t run = 0;
    uint32_t row = 0;  // index within the run
    uint32_t n_rows = 0;
  };
  std::vector<std::vector<float>> threads;
  std::vector<Tile> tiles;
};

void Attend(Isa isa, ThreadPool& pool, const AttentionArgs& args, AttentionScratch& scratch);

}  // namespace lanyard::ops
