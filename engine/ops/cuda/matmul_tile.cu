// Many rows: a block of threads makes 128 outputs of 64 or 128 rows. Its 8 warps hold 32 x 32 (two
// blocks to a multiprocessor) or 32 x 64 of them each (one block, more work for each byte and
// instruction): the running partial sum and the total in registers, so that the 8 partials are
// walked one after the other, in the order in which the blocks are stored. A few blocks of K at a
// time pass through shared memory, double buffered; scales become floats on the way, once for all
// warps, in the order in which lanes want them.
#include "engine/ops/cuda/matmul_mma.cuh"

#if LANYARD_PTX_LEVEL >= 75
namespace lanyard::ops::cuda {
namespace {

constexpr uint32_t kWarpsOut = 4;  // warps along the outputs
constexpr uint32_t kWarpsColumns = 2;
constexpr uint32_t kOutputs = kWarpsOut * kWarpOutputs;
constexpr uint32_t kTileThreads = kWarpsOut * kWarpsColumns * kWarp;
constexpr uint32_t kParkedBytes = kTileThreads * 16;
#if LANYARD_PTX_LEVEL >= 80
constexpr uint32_t kMostSteps = 4;
#else
constexpr uint32_t kMostSteps = 2;  // data under way lies in registers
#endif

// A format and the width of a warp's share: pairs of 8 columns.
template <typename Format, uint32_t pairs>
struct Tiled : Format {
  static constexpr uint32_t kPairs = pairs;
  static constexpr uint32_t kWarpColumns = 16 * pairs;
  static constexpr uint32_t kColumns = kWarpsColumns * kWarpColumns;
};

LANYARD_DEVICE constexpr uint32_t Least(uint32_t a, uint32_t b) { return a < b ? a : b; }

// Offsets of a stage's parts in shared memory:
//   weights  [step][half][128][16]       (Q8_0 has two halves)
//   high     [step][128][kHighBytes]
//   columns  [step][half][kColumns][16]
//   scales   f32 [step][kScales][4 warps][g][4]: outputs g, g + 8, g + 16, g + 24
//   d, s     f32 [step][1 or 2][2 warps][pair][t][2][2]: columns 16 pair + 2t, + 1, and 8 further
template <typename F>
struct Stage {
  static constexpr uint32_t kHalvesOfRow = F::kRowBytes / 16;
  static constexpr uint32_t kColumnScales = F::kMinimum ? 2 : 1;
  static constexpr uint32_t kStepBytes =
      kOutputs * (F::kRowBytes + F::kHighBytes + 4 * F::kScales) +
      F::kColumns * (kBlockElements + 4 * kColumnScales);
  // The blocks of K: as many as two stages have room for in 48 KiB, with a thread for each pair of
  // column scales.
  static constexpr uint32_t kSteps =
      Least(kMostSteps, Least(((48u << 10) - kParkedBytes) / 2 / kStepBytes,
                              kTileThreads * 2 / F::kColumns / kColumnScales));
  static constexpr uint32_t kHigh = kSteps * kOutputs * F::kRowBytes;
  static constexpr uint32_t kColumnsAt = kHigh + kSteps * kOutputs * F::kHighBytes;
  static constexpr uint32_t kScalesAt = kColumnsAt + kSteps * F::kColumns * kBlockElements;
  static constexpr uint32_t kColumnScalesAt = kScalesAt + kSteps * F::kScales * kOutputs * 4;
  static constexpr uint32_t kBytes = kSteps * kStepBytes;
  // 16-byte pieces to copy as they are.
  static constexpr uint32_t kWeightPieces = kHigh / 16;
  static constexpr uint32_t kHighPieces = kSteps * kOutputs * F::kHighBytes / 16;
  static constexpr uint32_t kColumnPieces = kSteps * F::kColumns * 2;
  static constexpr uint32_t kScaleRows = kSteps * kOutputs;
  static constexpr uint32_t kColumnScalePairs = kSteps * kColumnScales * F::kColumns / 2;
};
template <uint32_t pieces>
constexpr uint32_t kShare = (pieces + kTileThreads - 1) / kTileThreads;  // the pieces of one thread

struct TilePlace {
  uint32_t first_tile;   // counted in tiles of 16 outputs
  uint32_t first_group;  // counted in groups of 8 columns
};

// Where a thread's pieces lie, in bytes from the block's first tile and group; parked in shared
// memory, where it costs no registers. Outputs and columns beyond the last are computed from the
// last and not stored; blocks beyond it are loaded as it.
struct alignas(16) Parked {
  uint32_t tile;          // of the thread's output, thread % 128
  uint32_t columns;       // the group of column thread % kColumns, and the piece in a unit
  uint32_t column_scale;  // the group of pair thread % (kColumns / 2), and the pair in a unit
  uint32_t unused;
};

LANYARD_DEVICE uint32_t LocalTile(const ProductArgs& a, const TilePlace& place, uint32_t i) {
  return Least(i, a.n_tiles - 1 - place.first_tile) * static_cast<uint32_t>(a.tile_bytes);
}
LANYARD_DEVICE uint32_t LocalGroup(const ProductArgs& a, const TilePlace& place, uint32_t i) {
  return Least(i, a.groups - 1 - place.first_group) * a.n_blocks;
}

template <typename F>
LANYARD_DEVICE Parked ParkedOf(const ProductArgs& a, const TilePlace& place, uint32_t thread) {
  Parked parked;
  parked.tile = LocalTile(a, place, thread % kOutputs / kTileOutputs);
  const uint32_t column = thread % F::kColumns;
  parked.columns = LocalGroup(a, place, column / kMaxColumns) * (kMaxColumns * kBlockElements) +
                   (thread / F::kColumns % 2 * kMaxColumns + column % kMaxColumns) * 16;
  const uint32_t pair = thread % (F::kColumns / 2);
  parked.column_scale = (LocalGroup(a, place, pair / 4) * kMaxColumns + pair % 4 * 2) * 4;
  parked.unused = 0;
  return parked;
}

// The thread's pieces of a stage. On sm_80 the copies go to shared memory by themselves; on older
// cards they wait in registers.
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

// The thread's index, read anew: what depends on it is computed again for each stage and holds no
// register in between.
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

// Starts to load the stage whose first block is at position `at`. A piece's output is thread % 128,
// its column thread % kColumns.
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

  LANYARD_METHOD StageSource(const ProductArgs& a, const TilePlace& place, uint32_t parked_at,
                             uint32_t at)
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
    const uint32_t in_unit =
        F::kQuantOffset + (rest % kHalves * kTileOutputs + thread % kTileOutputs) * 16;
    return tiles + UnitOf(parked.tile, rest / kHalves) + in_unit;
  }
  LANYARD_METHOD const uint8_t* High(const ProductArgs& a, const TilePlace& place,
                                     uint32_t piece) const {
    constexpr uint32_t kStepPieces = kOutputs * F::kHighBytes / 16;
    const uint32_t in_step = piece % kStepPieces;
    const uint32_t tile = LocalTile(a, place, in_step / F::kHighBytes);
    return tiles + UnitOf(tile, piece / kStepPieces) + F::kHighOffset +
           in_step % F::kHighBytes * 16;
  }
  LANYARD_METHOD const uint8_t* Columns(uint32_t i) const {
    const uint32_t step = i * (kTileThreads / F::kColumns / 2) + thread / F::kColumns / 2;
    return q + parked.columns + Least(at + step, last) * (kMaxColumns * kBlockElements);
  }
  LANYARD_METHOD RawScales Scales(const ProductArgs& a, uint32_t i) const {
    const uint32_t step = i * (kTileThreads / kOutputs) + thread / kOutputs;
    const uint8_t* unit = tiles + UnitOf(parked.tile, step);
    return F::LoadScales(unit, HeaderAt<F>(a, tiles + parked.tile, Least(at + step, last)),
                         thread % kTileOutputs);
  }
  // There is at most one for a thread.
  LANYARD_METHOD Vec2f ColumnScale() const {
    const uint32_t rest = thread / (F::kColumns / 2);
    const uint32_t step = rest / Stage<F>::kColumnScales;
    const float* from = rest % Stage<F>::kColumnScales == 0 ? d : s;
    const uint32_t offset = parked.column_scale + Least(at + step, last) * (kMaxColumns * 4);
    return Load8f(reinterpret_cast<const uint8_t*>(from) + offset);
  }
};

template <typename F>
LANYARD_DEVICE void Fetch(const ProductArgs& a, const TilePlace& place, const StageSource<F>& from,
                          uint32_t shared, Pieces<F>* to) {
  using S = Stage<F>;
  const uint32_t thread = from.thread;
#if LANYARD_PTX_LEVEL >= 80
  ForPieces<S::kWeightPieces>(thread, [&](uint32_t i, uint32_t piece) {
    CopyAsync16(shared + piece * 16, from.Weights(i));
  });
  if constexpr (S::kHighPieces > 0) {
    ForPieces<S::kHighPieces>(thread, [&](uint32_t, uint32_t piece) {
      CopyAsync16(shared + S::kHigh + piece * 16, from.High(a, place, piece));
    });
  }
  ForPieces<S::kColumnPieces>(thread, [&](uint32_t i, uint32_t piece) {
    CopyAsync16(shared + S::kColumnsAt + piece * 16, from.Columns(i));
  });
  CopyAsyncCommit();
#else
  (void)shared;
  ForPieces<S::kWeightPieces>(
      thread, [&](uint32_t i, uint32_t) { to->weights[i] = Load16(from.Weights(i)); });
  if constexpr (S::kHighPieces > 0) {
    ForPieces<S::kHighPieces>(thread, [&](uint32_t i, uint32_t piece) {
      to->high[i] = Load16(from.High(a, place, piece));
    });
  }
  ForPieces<S::kColumnPieces>(
      thread, [&](uint32_t i, uint32_t) { to->columns[i] = Load16(from.Columns(i)); });
#endif
  ForPieces<S::kScaleRows>(thread,
                           [&](uint32_t i, uint32_t) { to->scales[i] = from.Scales(a, i); });
  ForPieces<S::kColumnScalePairs>(
      thread, [&](uint32_t i, uint32_t) { to->column_scales[i] = from.ColumnScale(); });
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
    const uint32_t at =
        shared + S::kScalesAt + (piece / kOutputs * F::kScales * kOutputs + slot) * 4;
    SharedStore4f(at, w.d);
    if constexpr (F::kScales >= 2) SharedStore4f(at + kOutputs * 4, w.e);
    if constexpr (F::kScales >= 3) SharedStore4f(at + kOutputs * 8, w.f);
  });
  ForPieces<S::kColumnScalePairs>(thread, [&](uint32_t i, uint32_t piece) {
    const uint32_t pair = piece % (F::kColumns / 2);  // of neighbours; eight of them are 16 columns
    const uint32_t slot = pair / 8 * 16 + pair % 4 * 4 + pair / 4 % 2 * 2;
    SharedStore8f(
        shared + S::kColumnScalesAt + (piece / (F::kColumns / 2) * F::kColumns + slot) * 4,
        from.column_scales[i]);
  });
#if LANYARD_PTX_LEVEL >= 80
  CopyAsyncWaitAll();
#else
  ForPieces<S::kWeightPieces>(thread, [&](uint32_t i, uint32_t piece) {
    SharedStore16(shared + piece * 16, from.weights[i]);
  });
  if constexpr (S::kHighPieces > 0) {
    ForPieces<S::kHighPieces>(thread, [&](uint32_t i, uint32_t piece) {
      SharedStore16(shared + S::kHigh + piece * 16, from.high[i]);
    });
  }
  ForPieces<S::kColumnPieces>(thread, [&](uint32_t i, uint32_t piece) {
    SharedStore16(shared + S::kColumnsAt + piece * 16, from.columns[i]);
  });
#endif
}

// Loads 16 (m = 0, 1) of the warp's 32 outputs of a step as a fragment, and the scales of the
// lane's two rows.
template <typename F>
LANYARD_DEVICE void LoadOutputs(uint32_t shared, uint32_t step, uint32_t m, uint32_t a[4],
                                RowScales w[2]) {
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
      const uint32_t at =
          shared + S::kHigh + (step * kOutputs + first + m * 16 + lane / 4 + 8 * i) * F::kHighBytes;
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

// Loads the scales of the lane's two columns of each 8 of 16 columns.
template <typename F>
LANYARD_DEVICE Vec4f ColumnScales(uint32_t shared, uint32_t step, uint32_t which, uint32_t pair) {
  using S = Stage<F>;
  const uint32_t first = WarpOfBlock() / kWarpsOut * F::kWarpColumns + pair * 16;
  const uint32_t slot = (step * S::kColumnScales + which) * F::kColumns + first + Lane() % 4 * 4;
  return SharedLoad16f(shared + S::kColumnScalesAt + slot * 4);
}

// 16 of the warp's columns.
struct PairOfColumns {
  uint32_t b[4];
  float d[4], s[4];
};
template <typename F>
LANYARD_DEVICE PairOfColumns LoadPair(uint32_t shared, uint32_t step, uint32_t pair) {
  using S = Stage<F>;
  const uint32_t lane = Lane();
  const uint32_t column =
      WarpOfBlock() / kWarpsOut * F::kWarpColumns + pair * 16 + lane / 16 * 8 + lane % 8;
  const uint32_t half = lane / 8 % 2;
  const uint32_t at = shared + S::kColumnsAt + ((step * 2 + half) * F::kColumns + column) * 16;
  PairOfColumns out;
  if constexpr (F::kHalves) {  // few registers are left: 8 columns after the other
    LoadMatrices2(at, out.b);
    LoadMatrices2(at + kMaxColumns * 16, out.b + 2);
  } else {
    LoadMatrices(at, out.b);
  }
  const Vec4f d = ColumnScales<F>(shared, step, 0, pair);
  Vec4f s = {0, 0, 0, 0};
  if constexpr (F::kMinimum) s = ColumnScales<F>(shared, step, 1, pair);
  out.d[0] = d.x, out.d[1] = d.y, out.d[2] = d.z, out.d[3] = d.w;
  out.s[0] = s.x, out.s[1] = s.y, out.s[2] = s.z, out.s[3] = s.w;
  return out;
}

// Multiplies 16 outputs by 16 columns.
template <typename F>
LANYARD_DEVICE void MultiplyPair(const PairOfColumns& columns, const uint32_t a[4],
                                 const RowScales w[2], float acc0[4], float acc1[4]) {
  MultiplyBlock<F>(a, columns.b, w, columns.d, columns.s, acc0);
  MultiplyBlock<F>(a, columns.b + 2, w, columns.d + 2, columns.s + 2, acc1);
}

template <typename F>
LANYARD_DEVICE void ComputeStep(uint32_t shared, uint32_t step, float acc[2 * F::kPairs][2][4]) {
  uint32_t a[2][4];
  RowScales w[2][2];
  if constexpr (F::kPairs > 2 &&
                !F::kHalves) {  // registers for all outputs: columns are loaded once
    LANYARD_UNROLL for (uint32_t m = 0; m < 2; ++m) LoadOutputs<F>(shared, step, m, a[m], w[m]);
    LANYARD_UNROLL for (uint32_t pair = 0; pair < F::kPairs; ++pair) {
      const PairOfColumns columns = LoadPair<F>(shared, step, pair);
      LANYARD_UNROLL for (uint32_t m = 0; m < 2; ++m) {
        MultiplyPair<F>(columns, a[m], w[m], acc[2 * pair][m], acc[2 * pair + 1][m]);
      }
    }
  } else {
    LANYARD_UNROLL for (uint32_t m = 0; m < 2; ++m) {
      LoadOutputs<F>(shared, step, m, a[m], w[m]);
      LANYARD_UNROLL for (uint32_t pair = 0; pair < F::kPairs; ++pair) {
        MultiplyPair<F>(LoadPair<F>(shared, step, pair), a[m], w[m], acc[2 * pair][m],
                        acc[2 * pair + 1][m]);
      }
    }
  }
}

template <typename F>
LANYARD_DEVICE void StoreTile(const ProductArgs& a, const TilePlace& place,
                              const float total[2 * F::kPairs][2][4]) {
  const uint32_t output =
      place.first_tile * kTileOutputs + WarpOfBlock() % kWarpsOut * kWarpOutputs + Lane() / 4;
  const uint32_t column = place.first_group * kMaxColumns +
                          WarpOfBlock() / kWarpsOut * F::kWarpColumns + Lane() % 4 * 2;
  LANYARD_UNROLL for (uint32_t n = 0; n < 2 * F::kPairs; ++n) {
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
  __shared__ uint8_t stages[2 * S::kBytes + kParkedBytes] __attribute__((aligned(128)));
  static_assert(sizeof(stages) <= 48 << 10 && S::kColumnScalePairs <= kTileThreads);
  const uint32_t shared = SharedAddress(stages);
  const uint32_t parked_at = shared + 2 * S::kBytes;
  const TilePlace place{BlockX() * (kOutputs / kTileOutputs),
                        BlockY() * (F::kColumns / kMaxColumns)};
  const Parked parked = ParkedOf<F>(a, place, ThreadX());  // for this thread alone
  SharedStore16(parked_at + ThreadX() * 16,
                {parked.tile, parked.columns, parked.column_scale, parked.unused});
  constexpr int kSums = 16 * F::kPairs;  // of a lane
  float acc[2 * F::kPairs][2][4], total[2 * F::kPairs][2][4];
  LANYARD_UNROLL for (int i = 0; i < kSums; ++i) acc[i / 8][i / 4 % 2][i % 4] =
      total[i / 8][i / 4 % 2][i % 4] = 0.0f;
  Pieces<F> pieces;
  Fetch<F>(a, place, StageSource<F>(a, place, parked_at, 0), shared, &pieces);
  Commit<F>(shared, pieces);
  Barrier();
  uint32_t p = 0;
  uint32_t left = DealtCount(a.n_blocks, 0);  // blocks of partial sum p that are still to come
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
      LANYARD_UNROLL for (int i = 0; i < kSums; ++i) {
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
  StoreTile<F>(a, place, total);
}

}  // namespace

#define LANYARD_TILE(name, F)                                                                 \
  LANYARD_KERNEL __launch_bounds__(kTileThreads, 2) matmul_tile_##name(const ProductArgs a) { \
    Tile<Tiled<F, 2>>(a);                                                                     \
  }                                                                                           \
  LANYARD_KERNEL __launch_bounds__(kTileThreads, 1) matmul_wide_##name(const ProductArgs a) { \
    Tile<Tiled<F, 4>>(a);                                                                     \
  }

LANYARD_TILE(q4_0, FormatQ4_0)
LANYARD_TILE(q4_1, FormatQ4_1)
LANYARD_TILE(q5_0, FormatQ5_0)
LANYARD_TILE(q8_0, FormatQ8_0)
LANYARD_TILE(q4_k, FormatQ4_K)
LANYARD_TILE(q6_k, FormatQ6_K)

}  // namespace lanyard::ops::cuda
#endif
