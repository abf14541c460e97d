// Many rows: a block of threads makes 128 outputs of 64 rows. Its 8 warps hold 32 x 32 of them each: the running partial sum
// and the total in registers, so that the 8 partials are walked one after the other, in the order in which the blocks are
// stored. A few blocks of K at a time pass through shared memory, double buffered; scales become floats on the way, once for
// all warps, in the order in which lanes want them.
#include "engine/ops/cuda/matmul_mma.cuh"

#if LANYARD_PTX_LEVEL >= 75
namespace lanyard::ops::cuda {
namespace {

constexpr uint32_t kWarpsOut = 4;   // warps along the outputs
constexpr uint32_t kWarpsColumns = 2;
constexpr uint32_t kOutputs = kWarpsOut * kWarpOutputs;
constexpr uint32_t kWarpColumns = 32;
constexpr uint32_t kColumns = kWarpsColumns * kWarpColumns;
constexpr uint32_t kTileThreads = kWarpsOut * kWarpsColumns * kWarp;

// Offsets of a stage's parts in shared memory:
//   weights  [step][half][128][16]       (Q8_0 has two halves)
//   high     [step][128][kHighBytes]
//   columns  [step][half][64][16]
//   scales   f32 [step][kScales][4 warps][g][4]: outputs g, g + 8, g + 16, g + 24
//   d, s     f32 [step][1 or 2][2 warps][t][4][2]: columns 8n + 2t, + 1
template <typename F>
struct Stage {
  // Blocks of K: as many as leave room for two blocks of threads on a multiprocessor, and registers for what is under way.
#if LANYARD_PTX_LEVEL >= 80
  static constexpr uint32_t kSteps = F::kHalves || F::kRowBytes == 32 ? 3 : 4;
#else
  static constexpr uint32_t kSteps = 2;
#endif
  static constexpr uint32_t kHalvesOfRow = F::kRowBytes / 16;
  static constexpr uint32_t kColumnScales = F::kMinimum ? 2 : 1;
  static constexpr uint32_t kHigh = kSteps * kOutputs * F::kRowBytes;
  static constexpr uint32_t kColumnsAt = kHigh + kSteps * kOutputs * F::kHighBytes;
  static constexpr uint32_t kScalesAt = kColumnsAt + kSteps * kColumns * kBlockElements;
  static constexpr uint32_t kColumnScalesAt = kScalesAt + kSteps * F::kScales * kOutputs * 4;
  static constexpr uint32_t kBytes = kColumnScalesAt + kSteps * kColumnScales * kColumns * 4;
  // 16-byte pieces to copy as they are.
  static constexpr uint32_t kWeightPieces = kHigh / 16;
  static constexpr uint32_t kHighPieces = kSteps * kOutputs * F::kHighBytes / 16;
  static constexpr uint32_t kColumnPieces = kSteps * kColumns * 2;
  static constexpr uint32_t kScaleRows = kSteps * kOutputs;
  static constexpr uint32_t kColumnScalePairs = kSteps * kColumnScales * kColumns / 2;
};
template <uint32_t pieces>
constexpr uint32_t kShare = (pieces + kTileThreads - 1) / kTileThreads;  // of a thread

struct TilePlace {
  uint32_t first_tile;   // of 16 outputs
  uint32_t first_group;  // of 8 columns
};

LANYARD_DEVICE uint32_t Least(uint32_t a, uint32_t b) { return a < b ? a : b; }

// Where a thread's pieces lie, in bytes from the block's first tile and group; parked in shared memory, where it costs no
// registers. Outputs and columns beyond the last are computed from the last and not stored; blocks beyond it are loaded as it.
struct alignas(16) Parked {
  uint32_t tile;          // of the thread's output, thread % 128
  uint32_t columns;       // the group of column thread % 64, and the piece in a unit
  uint32_t column_scale;  // the group of pair thread % 32, and the pair in a unit
  uint32_t unused;
};

LANYARD_DEVICE uint32_t LocalTile(const ProductArgs& a, const TilePlace& place, uint32_t i) {
  return Least(i, a.n_tiles - 1 - place.first_tile) * static_cast<uint32_t>(a.tile_bytes);
}
LANYARD_DEVICE uint32_t LocalGroup(const ProductArgs& a, const TilePlace& place, uint32_t i) {
  return Least(i, a.groups - 1 - place.first_group) * a.n_blocks;
}

LANYARD_DEVICE Parked ParkedOf(const ProductArgs& a, const TilePlace& place, uint32_t thread) {
  Parked parked;
  parked.tile = LocalTile(a, place, thread % kOutputs / kTileOutputs);
  const uint32_t column = thread % kColumns;
  parked.columns = LocalGroup(a, place, column / kMaxColumns) * (kMaxColumns * kBlockElements) +
                   (thread / kColumns % 2 * kMaxColumns + column % kMaxColumns) * 16;
  const uint32_t pair = thread % (kColumns / 2);
  parked.column_scale = (LocalGroup(a, place, pair / 4) * kMaxColumns + pair % 4 * 2) * 4;
  parked.unused = 0;
  return parked;
}

// The thread's pieces of a stage. On sm_80 the copies go to shared memory by themselves; before, they wait in registers.
template <typename F>
struct Pieces {
  RawScales scales[kShare<Stage<F>::kScaleRows>];
  Vec2f column_scales[kShare<Stage<F>::kColumnScalePairs>];
#if LANYARD_PTX_LEVEL < 80
  Vec4u weights[kShare<Stage<F>::kWeightPieces>];
  Vec4u high[kShare<Stage<F>::kHighPieces> + (Stage<F>::kHighPieces == 0 ? 1 : 0)];
  Vec4u columns[kShare<Stage<F>::kColumnPieces>];
#endif
};

// The thread's index, read anew: what depends on it is computed again for each stage and holds no register between.
LANYARD_DEVICE uint32_t FreshThread() {
  uint32_t x;
  asm volatile("mov.u32 %0, %%tid.x;" : "=r"(x));
  return x;
}

// Runs body(i, piece) for the thread's pieces.
template <uint32_t pieces, typename Body>
LANYARD_DEVICE void ForPieces(uint32_t thread, const Body& body) {
  LANYARD_UNROLL for (uint32_t i = 0; i < kShare<pieces>; ++i) {
    const uint32_t piece = i * kTileThreads + thread;
    if (pieces % kTileThreads == 0 || piece < pieces) body(i, piece);
  }
}

// Starts to load the stage whose first block is at position `at`. A piece's output is thread % 128, its column thread % 64.
template <typename F>
struct StageSource {
  const uint8_t* tiles;  // the block's first
  const uint8_t* q;      // of its first group
  const float* d;
  const float* s;
  Parked parked;
  uint32_t at;
  uint32_t last;  // position
  uint32_t header_bytes;
  uint32_t thread;

  LANYARD_METHOD StageSource(const ProductArgs& a, const TilePlace& place, uint32_t parked_at, uint32_t at)
      : at(at), last(a.n_blocks - 1), header_bytes(a.header_bytes), thread(FreshThread()) {
    const uint64_t unit = static_cast<uint64_t>(place.first_group) * a.n_blocks;
    tiles = a.tiles + place.first_tile * a.tile_bytes;
    q = a.q + unit * (kMaxColumns * kBlockElements);
    d = a.d + unit * kMaxColumns;
    s = a.s + unit * kMaxColumns;
    const Vec4u words = SharedLoad16(parked_at + thread * 16);
    parked = {words.x, words.y, words.z, words.w};
  }
  LANYARD_METHOD uint32_t UnitOf(uint32_t tile, uint32_t step) const {
    return tile + header_bytes + Least(at + step, last) * F::kUnitBytes;
  }
  LANYARD_METHOD const uint8_t* Weights(uint32_t i) const {
    constexpr uint32_t kHalves = Stage<F>::kHalvesOfRow;
    const uint32_t rest = i * (kTileThreads / kOutputs) + thread / kOutputs;
    const uint32_t in_unit = F::kQuantOffset + (rest % kHalves * kTileOutputs + thread % kTileOutputs) * 16;
    return tiles + UnitOf(parked.tile, rest / kHalves) + in_unit;
  }
  LANYARD_METHOD const uint8_t* High(const ProductArgs& a, const TilePlace& place, uint32_t piece) const {
    constexpr uint32_t kStepPieces = kOutputs * F::kHighBytes / 16;
    const uint32_t in_step = piece % kStepPieces;
    const uint32_t tile = LocalTile(a, place, in_step / F::kHighBytes);
    return tiles + UnitOf(tile, piece / kStepPieces) + F::kHighOffset + in_step % F::kHighBytes * 16;
  }
  LANYARD_METHOD const uint8_t* Columns(uint32_t i) const {
    const uint32_t step = i * (kTileThreads / kColumns / 2) + thread / kColumns / 2;
    return q + parked.columns + Least(at + step, last) * (kMaxColumns * kBlockElements);
  }
  LANYARD_METHOD RawScales Scales(const ProductArgs& a, uint32_t i) const {
    const uint32_t step = i * (kTileThreads / kOutputs) + thread / kOutputs;
    const uint8_t* unit = tiles + UnitOf(parked.tile, step);
    return F::LoadScales(unit, HeaderAt<F>(a, tiles + parked.tile, Least(at + step, last)), thread % kTileOutputs);
  }
  // One at most for a thread.
  LANYARD_METHOD Vec2f ColumnScale() const {
    const uint32_t rest = thread / (kColumns / 2);
    const uint32_t step = rest / Stage<F>::kColumnScales;
    const float* from = rest % Stage<F>::kColumnScales == 0 ? d : s;
    const uint32_t offset = parked.column_scale + Least(at + step, last) * (kMaxColumns * 4);
    return Load8f(reinterpret_cast<const uint8_t*>(from) + offset);
  }
};

template <typename F>
LANYARD_DEVICE void Fetch(const ProductArgs& a, const TilePlace& place, const StageSource<F>& from, uint32_t shared,
                          Pieces<F>* to) {
  using S = Stage<F>;
  const uint32_t thread = from.thread;
#if LANYARD_PTX_LEVEL >= 80
  ForPieces<S::kWeightPieces>(
      thread, [&](uint32_t i, uint32_t piece) { CopyAsync16(shared + piece * 16, from.Weights(i)); });
  if constexpr (S::kHighPieces > 0) {
    ForPieces<S::kHighPieces>(thread, [&](uint32_t, uint32_t piece) {
      CopyAsync16(shared + S::kHigh + piece * 16, from.High(a, place, piece));
    });
  }
  ForPieces<S::kColumnPieces>(
      thread, [&](uint32_t i, uint32_t piece) { CopyAsync16(shared + S::kColumnsAt + piece * 16, from.Columns(i)); });
  CopyAsyncCommit();
#else
  (void)shared;
  ForPieces<S::kWeightPieces>(thread, [&](uint32_t i, uint32_t) { to->weights[i] = Load16(from.Weights(i)); });
  if constexpr (S::kHighPieces > 0) {
    ForPieces<S::kHighPieces>(
        thread, [&](uint32_t i, uint32_t piece) { to->high[i] = Load16(from.High(a, place, piece)); });
  }
  ForPieces<S::kColumnPieces>(thread, [&](uint32_t i, uint32_t) { to->columns[i] = Load16(from.Columns(i)); });
#endif
  ForPieces<S::kScaleRows>(thread, [&](uint32_t i, uint32_t) { to->scales[i] = from.Scales(a, i); });
  ForPieces<S::kColumnScalePairs>(thread, [&](uint32_t i, uint32_t) { to->column_scales[i] = from.ColumnScale(); });
}

// Ends what Fetch began: after the next barrier the stage is there.
template <typename F>
LANYARD_DEVICE void Commit(uint32_t shared, const Pieces<F>& from) {
  using S = Stage<F>;
  const uint32_t thread = FreshThread();
  ForPieces<S::kScaleRows>(thread, [&](uint32_t i, uint32_t piece) {
    const uint32_t row = piece % kOutputs;
    const uint32_t slot = row / kWarpOutputs * kWarpOutputs + row % 8 * 4 + row % kWarpOutputs / 8;
    const RowScales w = F::Scales(from.scales[i]);
    const uint32_t at = shared + S::kScalesAt + (piece / kOutputs * F::kScales * kOutputs + slot) * 4;
    SharedStore4f(at, w.d);
    if constexpr (F::kScales >= 2) SharedStore4f(at + kOutputs * 4, w.e);
    if constexpr (F::kScales >= 3) SharedStore4f(at + kOutputs * 8, w.f);
  });
  ForPieces<S::kColumnScalePairs>(thread, [&](uint32_t i, uint32_t piece) {
    const uint32_t pair = piece % (kColumns / 2);
    const uint32_t slot = pair / 16 * kWarpColumns + pair % 4 * 8 + pair / 4 % 4 * 2;
    SharedStore8f(shared + S::kColumnScalesAt + (piece / (kColumns / 2) * kColumns + slot) * 4, from.column_scales[i]);
  });
#if LANYARD_PTX_LEVEL >= 80
  CopyAsyncWaitAll();
#else
  ForPieces<S::kWeightPieces>(thread, [&](uint32_t i, uint32_t piece) { SharedStore16(shared + piece * 16, from.weights[i]); });
  if constexpr (S::kHighPieces > 0) {
    ForPieces<S::kHighPieces>(thread, 
        [&](uint32_t i, uint32_t piece) { SharedStore16(shared + S::kHigh + piece * 16, from.high[i]); });
  }
  ForPieces<S::kColumnPieces>(thread, 
      [&](uint32_t i, uint32_t piece) { SharedStore16(shared + S::kColumnsAt + piece * 16, from.columns[i]); });
#endif
}

// 16 (m = 0, 1) of the warp's 32 outputs of a step as a fragment, and the scales of the lane's two rows.
template <typename F>
LANYARD_DEVICE void LoadOutputs(uint32_t shared, uint32_t step, uint32_t m, uint32_t a[4], RowScales w[2]) {
  using S = Stage<F>;
  const uint32_t lane = Lane();
  const uint32_t first = WarpOfBlock() % kWarpsOut * kWarpOutputs;
  const uint32_t row = first + m * 16 + lane % 16;
  if constexpr (F::kRowBytes == 32) {
    LoadMatrices(shared + ((step * 2 + lane / 16) * kOutputs + row) * 16, a);
  } else {
    uint32_t raw[2];
    LoadMatrices2(shared + (step * kOutputs + row) * 16, raw);
    uint32_t high[2][2] = {};
    LANYARD_UNROLL for (uint32_t i = 0; i < 2; ++i) {
      const uint32_t at = shared + S::kHigh + (step * kOutputs + first + m * 16 + lane / 4 + 8 * i) * F::kHighBytes;
      if constexpr (F::kHighBytes == 4) high[i][0] = SharedLoad4(at);
      if constexpr (F::kHighBytes == 8) SharedLoad8(at, &high[i][0], &high[i][1]);
    }
    UnpackFragment<F>(raw, high, lane % 4, a);
  }
  Vec2f scales[3] = {};
  LANYARD_UNROLL for (uint32_t j = 0; j < F::kScales; ++j) {
    const uint32_t slot = (step * F::kScales + j) * kOutputs + first + lane / 4 * 4 + m * 2;
    scales[j] = SharedLoad8f(shared + S::kScalesAt + slot * 4);
  }
  w[0] = {scales[0].x, scales[1].x, scales[2].x};
  w[1] = {scales[0].y, scales[1].y, scales[2].y};
}

// Scales of the lane's two columns of each of 16 columns: pairs 2 * pair and 2 * pair + 1.
template <typename F>
LANYARD_DEVICE Vec4f ColumnScales(uint32_t shared, uint32_t step, uint32_t which, uint32_t pair) {
  using S = Stage<F>;
  const uint32_t first = WarpOfBlock() / kWarpsOut * kWarpColumns;
  const uint32_t slot = (step * S::kColumnScales + which) * kColumns + first + Lane() % 4 * 8 + pair * 4;
  return SharedLoad16f(shared + S::kColumnScalesAt + slot * 4);
}

// 16 outputs against 16 of the warp's columns.
template <typename F>
LANYARD_DEVICE void MultiplyPair(uint32_t shared, uint32_t step, uint32_t pair, const uint32_t a[4], const RowScales w[2],
                                 float acc0[4], float acc1[4]) {
  using S = Stage<F>;
  const uint32_t lane = Lane();
  const uint32_t column = WarpOfBlock() / kWarpsOut * kWarpColumns + pair * 16 + lane / 16 * 8 + lane % 8;
  const uint32_t half = lane / 8 % 2;
  const uint32_t at = shared + S::kColumnsAt + ((step * 2 + half) * kColumns + column) * 16;
  const Vec4f d = ColumnScales<F>(shared, step, 0, pair);
  Vec4f s = {0, 0, 0, 0};
  if constexpr (F::kMinimum) s = ColumnScales<F>(shared, step, 1, pair);
  const float d0[2] = {d.x, d.y}, d1[2] = {d.z, d.w};
  const float s0[2] = {s.x, s.y}, s1[2] = {s.z, s.w};
  uint32_t b[4];
  if constexpr (F::kHalves) {  // few registers are left: 8 columns after the other
    LoadMatrices2(at, b);
    MultiplyBlock<F>(a, b, w, d0, s0, acc0);
    LoadMatrices2(at + kMaxColumns * 16, b + 2);
  } else {
    LoadMatrices(at, b);
    MultiplyBlock<F>(a, b, w, d0, s0, acc0);
  }
  MultiplyBlock<F>(a, b + 2, w, d1, s1, acc1);
}

template <typename F>
LANYARD_DEVICE void ComputeStep(uint32_t shared, uint32_t step, float acc[4][2][4]) {
  LANYARD_UNROLL for (uint32_t m = 0; m < 2; ++m) {
    uint32_t a[4];
    RowScales w[2];
    LoadOutputs<F>(shared, step, m, a, w);
    LANYARD_UNROLL for (uint32_t pair = 0; pair < 2; ++pair) {
      MultiplyPair<F>(shared, step, pair, a, w, acc[2 * pair][m], acc[2 * pair + 1][m]);
    }
  }
}

LANYARD_DEVICE void StoreTile(const ProductArgs& a, const TilePlace& place, const float total[4][2][4]) {
  const uint32_t output = place.first_tile * kTileOutputs + WarpOfBlock() % kWarpsOut * kWarpOutputs + Lane() / 4;
  const uint32_t column = place.first_group * kMaxColumns + WarpOfBlock() / kWarpsOut * kWarpColumns + Lane() % 4 * 2;
  LANYARD_UNROLL for (uint32_t n = 0; n < 4; ++n) {
    LANYARD_UNROLL for (uint32_t e = 0; e < 2; ++e) {
      const uint32_t r = column + n * 8 + e;
      if (r >= a.rows) continue;
      float* out = a.out + r * a.out_stride + output;
      LANYARD_UNROLL for (uint32_t i = 0; i < 4; ++i) {
        if (output + i * 8 < a.n_out) out[i * 8] = total[n][i / 2][i % 2 * 2 + e];
      }
    }
  }
}

template <typename F>
LANYARD_DEVICE void Tile(const ProductArgs& a) {
  using S = Stage<F>;
  __shared__ uint8_t stages[2 * S::kBytes + kTileThreads * sizeof(Parked)] __attribute__((aligned(128)));
  static_assert(sizeof(stages) <= 48 << 10 && S::kColumnScalePairs <= kTileThreads);
  const uint32_t shared = SharedAddress(stages);
  const uint32_t parked_at = shared + 2 * S::kBytes;
  const TilePlace place{BlockX() * (kOutputs / kTileOutputs), BlockY() * (kColumns / kMaxColumns)};
  const Parked parked = ParkedOf(a, place, ThreadX());  // for this thread alone
  SharedStore16(parked_at + ThreadX() * 16, {parked.tile, parked.columns, parked.column_scale, parked.unused});
  float acc[4][2][4], total[4][2][4];
  LANYARD_UNROLL for (int i = 0; i < 32; ++i) acc[i / 8][i / 4 % 2][i % 4] = total[i / 8][i / 4 % 2][i % 4] = 0.0f;
  Pieces<F> pieces;
  Fetch<F>(a, place, StageSource<F>(a, place, parked_at, 0), shared, &pieces);
  Commit<F>(shared, pieces);
  Barrier();
  uint32_t p = 0;
  uint32_t left = DealtCount(a.n_blocks, 0);  // blocks of partial sum p to come
  uint32_t now = shared;
  uint32_t other = shared + S::kBytes;
  uint32_t step = 0;
  for (uint32_t at = 0; at < a.n_blocks; ++at) {
    if (step == 0 && at + S::kSteps < a.n_blocks) {
      Fetch<F>(a, place, StageSource<F>(a, place, parked_at, at + S::kSteps), other, &pieces);
    }
    ComputeStep<F>(now, step, acc);
    if (--left == 0) {
      left = DealtCount(a.n_blocks, ++p);
      LANYARD_UNROLL for (int i = 0; i < 32; ++i) {
        float& sum = acc[i / 8][i / 4 % 2][i % 4];
        float& all = total[i / 8][i / 4 % 2][i % 4];
        all = Add(all, sum);
        sum = 0.0f;
      }
    }
    if (++step != S::kSteps || at + 1 >= a.n_blocks) continue;
    step = 0;
    Commit<F>(other, pieces);
    Barrier();
    const uint32_t swap = now;
    now = other;
    other = swap;
  }
  StoreTile(a, place, total);
}

}  // namespace

#define LANYARD_TILE(name, F) \
  LANYARD_KERNEL __launch_bounds__(kTileThreads, 2) matmul_tile_##name(const ProductArgs a) { Tile<F>(a); }

LANYARD_TILE(q4_0, FormatQ4_0)
LANYARD_TILE(q4_1, FormatQ4_1)
LANYARD_TILE(q5_0, FormatQ5_0)
LANYARD_TILE(q8_0, FormatQ8_0)
LANYARD_TILE(q4_k, FormatQ4_K)
LANYARD_TILE(q6_k, FormatQ6_K)

}  // namespace lanyard::ops::cuda
#endif
