#include "engine/ops/attention.h"

#include <algorithm>
#include <atomic>
#include <cmath>

#include "base/half.h"
#include "engine/ops/attention_kernels.h"
#include "engine/ops/math.h"

namespace lanyard::ops {

void RotateAndStoreScalar(const QkvRows& args, int64_t begin, int64_t end);  // rope.cc

namespace {

// With this many queries (rows x heads) in a tile, their outputs and a page stay in the
// second-level cache.
constexpr int kTileQueries = 64;

int TileRows(int n_heads, int n_kv_heads) {
  return std::max(1, kTileQueries / std::max(1, n_heads / n_kv_heads));
}

int64_t ScratchFloats(int n_heads, int n_kv_heads, int head_dim) {
  const int64_t queries = int64_t{TileRows(n_heads, n_kv_heads)} * (n_heads / n_kv_heads);
  return TileScratchFloats(queries, head_dim) + 16;
}

// One unit of work is a tile with the heads of a key/value head, or with a part of them where
// threads would be idle otherwise. Each part converts the pages again, so there are no more parts
// than an even share needs.
int HeadsOfUnit(int64_t units, int group, int threads) {
  for (int parts = 1; parts < group; ++parts) {
    if (units * parts >= 4 * threads || units * parts % threads == 0)
      return (group + parts - 1) / parts;
  }
  return 1;
}

float* Aligned(std::vector<float>& scratch) {
  const uintptr_t address = reinterpret_cast<uintptr_t>(scratch.data());
  return scratch.data() + (64 - address % 64) % 64 / sizeof(float);
}

}  // namespace

const AttentionKernels& AttentionKernelsFor(Isa isa) {
  switch (isa) {
    case Isa::kAvx512:
      return kAttentionKernelsAvx512;
    case Isa::kAvx2:
      return kAttentionKernelsAvx2;
    case Isa::kScalar:
      break;
  }
  return kAttentionKernelsScalar;
}

AttentionScratch::AttentionScratch(int n_threads, int n_heads, int n_kv_heads, int head_dim,
                                   int64_t max_rows)
    : threads(n_threads) {
  for (auto& t : threads) t.resize(ScratchFloats(n_heads, n_kv_heads, head_dim));
  tiles.reserve(max_rows);
}

uint64_t AttentionScratch::Bytes(int threads, int n_heads, int n_kv_heads, int head_dim,
                                 int64_t max_rows) {
  return threads * ScratchFloats(n_heads, n_kv_heads, head_dim) * sizeof(float) +
         max_rows * sizeof(Tile);
}

void Attend(Isa isa, ThreadPool& pool, const AttentionArgs& args, AttentionScratch& scratch) {
  const AttentionKernels& kernels = AttentionKernelsFor(isa);
  const int group = args.n_heads / args.kv.n_kv_heads;
  const uint32_t tile_rows = TileRows(args.n_heads, args.kv.n_kv_heads);
  scratch.tiles.clear();
  for (int64_t i = 0; i < args.n_runs; ++i) {
    const uint32_t n_rows = args.runs[i].n_rows;
    for (uint32_t row = 0; row < n_rows; row += tile_rows) {
      scratch.tiles.push_back({static_cast<uint32_t>(i), row, std::min(tile_rows, n_rows - row)});
    }
  }
  const int64_t n_tiles = static_cast<int64_t>(scratch.tiles.size());
  const int heads = HeadsOfUnit(n_tiles * args.kv.n_kv_heads, group, pool.size());
  const int parts = (group + heads - 1) / heads;
  const int64_t units_of_tile = int64_t{args.kv.n_kv_heads} * parts;
  const int64_t n_units = n_tiles * units_of_tile;
  std::atomic<int64_t> next{0};
  const auto work = [&](int thread, int) {
    float* memory = Aligned(scratch.threads[thread]);
    while (true) {
      const int64_t taken = next.fetch_add(1, std::memory_order_relaxed);
      if (taken >= n_units) return;
      const int64_t unit = n_units - 1 - taken;  // the last rows of a run see the most positions
      const AttentionScratch::Tile& t = scratch.tiles[unit / units_of_tile];
      const AttentionRun& run = args.runs[t.run];
      const int of_tile = static_cast<int>(unit % units_of_tile);
      const int first = of_tile % parts * heads;  // within the group
      const int head = of_tile / parts * group + first;
      AttentionTile tile;
      tile.kv = args.kv;
      tile.kv_head = of_tile / parts;
      tile.pages = run.pages;
      tile.first = run.first;
      tile.pos = run.pos + t.row;
      tile.n_rows = static_cast<int>(t.n_rows);
      tile.n_heads = std::min(heads, group - first);
      tile.window = args.window;
      tile.q = args.q + (run.row + t.row) * args.q_stride + int64_t{head} * args.kv.head_dim;
      tile.q_stride = args.q_stride;
      tile.out = args.out + (run.row + t.row) * args.out_stride + int64_t{head} * args.kv.head_dim;
      tile.out_stride = args.out_stride;
      tile.scratch = memory;
      kernels.tile(tile);
    }
  };
  if (n_units <= 1) {
    work(0, 1);
  } else {
    pool.Run(work);
  }
}

namespace {

float KeyAt(const KvLayer& kv, const uint8_t* part, int d, int j) {
  const int64_t i = int64_t{d} * kKvPositions + j;
  switch (kv.element) {
    case KvElement::kF32:
      return reinterpret_cast<const float*>(part)[i];
    case KvElement::kF16:
      return HalfToFloat(reinterpret_cast<const uint16_t*>(part)[i]);
    case KvElement::kI8:
      break;
  }
  const float* scales = reinterpret_cast<const float*>(part + int64_t{kv.head_dim} * kKvPositions);
  return static_cast<float>(reinterpret_cast<const int8_t*>(part)[i]) * scales[j];
}

float ValueAt(const KvLayer& kv, const uint8_t* part, int d, int j) {
  const int64_t i = int64_t{j} * kv.head_dim + d;
  switch (kv.element) {
    case KvElement::kF32:
      return reinterpret_cast<const float*>(part)[i];
    case KvElement::kF16:
      return HalfToFloat(reinterpret_cast<const uint16_t*>(part)[i]);
    case KvElement::kI8:
      break;
  }
  const float* scales = reinterpret_cast<const float*>(part + int64_t{kv.head_dim} * kKvPositions);
  return static_cast<float>(reinterpret_cast<const int8_t*>(part)[i]) * scales[j];
}

struct Partial {
  float m;
  float l;
  float* o;  // [head_dim]
};

// Computes one page, of which the query sees `seen`.
void PageStep(const AttentionTile& t, uint32_t page, const float* q, PageRange seen,
              Partial* state) {
  const auto [begin, end] = seen;
  const int hd = t.kv.head_dim;
  const uint8_t* keys = t.kv.Keys(page, t.kv_head);
  const uint8_t* values = t.kv.Values(page, t.kv_head);
  float p[kKvPositions] = {};
  float m = state->m;
  for (int j = begin; j < end; ++j) {
    float s = 0;
    for (int d = 0; d < hd; ++d) s = Fma(q[d], KeyAt(t.kv, keys, d, j), s);
    p[j] = s;
    m = s > m ? s : m;
  }
  const float corr = Exp(state->m - m);
  for (int j = begin; j < end; ++j) p[j] = Exp(p[j] - m);
  float sum[kKvPositions];
  std::copy(p, p + kKvPositions, sum);
  for (int step = kKvPositions / 2; step >= 1; step /= 2) {
    for (int i = 0; i < step; ++i) sum[i] = sum[i] + sum[i + step];
  }
  state->l = Fma(state->l, corr, sum[0]);
  state->m = m;
  for (int d = 0; d < hd; ++d) {
    float o = state->o[d] * corr;
    for (int j = begin; j < end; ++j) o = Fma(p[j], ValueAt(t.kv, values, d, j), o);
    state->o[d] = o;
  }
}

void QueryScalar(const AttentionTile& t, uint32_t pos, const float* q, float* out) {
  const int hd = t.kv.head_dim;
  const uint32_t lo = FirstSeen(pos, t.window);
  const uint32_t span_positions = kSpanPages * kKvPositions;
  Partial total{0, 0, out};
  Partial span{0, 0, t.scratch};
  for (uint32_t s = lo / span_positions; s <= pos / span_positions; ++s) {
    span.m = -HUGE_VALF;
    span.l = 0;
    std::fill(span.o, span.o + hd, 0.0f);
    for (uint32_t b = s * kSpanPages; b < (s + 1) * kSpanPages; ++b) {
      const int64_t start = int64_t{b} * kKvPositions;
      const int begin = static_cast<int>(std::max<int64_t>(0, lo - start));
      const int end = static_cast<int>(std::min<int64_t>(kKvPositions, int64_t{pos} + 1 - start));
      if (begin < end) PageStep(t, t.pages[b - t.first], q, {begin, end}, &span);
    }
    if (s == lo / span_positions) {
      total.m = span.m;
      total.l = span.l;
      std::copy(span.o, span.o + hd, total.o);
      continue;
    }
    const float m = span.m > total.m ? span.m : total.m;
    const float a = Exp(total.m - m);
    const float b = Exp(span.m - m);
    total.l = Fma(total.l, a, span.l * b);
    for (int d = 0; d < hd; ++d) total.o[d] = Fma(total.o[d], a, span.o[d] * b);
    total.m = m;
  }
  for (int d = 0; d < hd; ++d) out[d] = out[d] / total.l;
}

// This is the scalar reference.
void TileScalar(const AttentionTile& t) {
  for (int r = 0; r < t.n_rows; ++r) {
    for (int h = 0; h < t.n_heads; ++h) {
      const int64_t head = int64_t{h} * t.kv.head_dim;
      QueryScalar(t, t.pos + r, t.q + r * t.q_stride + head, t.out + r * t.out_stride + head);
    }
  }
}

}  // namespace

const AttentionKernels kAttentionKernelsScalar = {TileScalar, RotateAndStoreScalar};

}  // namespace lanyard::ops
