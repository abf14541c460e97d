// More rows than a vector kernel takes and too few for tiles, or a small matrix: a block of threads
// makes 32 outputs of 16 or 32 rows; each of its 8 warps takes one partial sum and streams that
// partial's blocks from memory straight into the fragments of the tensor cores. Weights are read
// once for 32 rows.
#include "engine/ops/cuda/matmul_mma.cuh"

#if LANYARD_PTX_LEVEL >= 75
namespace lanyard::ops::cuda {
namespace {

constexpr uint32_t kSplitThreads = kDealtPartials * kWarp;
// The floats from a column's 32 partial sums to the next: a warp's stores go to 32 banks.
constexpr uint32_t kColumnStride = kWarpOutputs + 4;

// A lane's part of 32 outputs of one block.
template <typename F>
struct RawFragments {
  uint32_t q[F::kRowBytes / 16][4];
  uint32_t high[4][2];
  RawScales scales[4];
};

struct SplitPlace {
  const uint8_t* tile[2];
  uint32_t first_unit;  // offset in a tile
  uint32_t g, t;
};

template <typename F>
LANYARD_DEVICE void LoadFragments(const SplitPlace& place, uint32_t i, RawFragments<F>* raw) {
  const uint32_t offset = place.first_unit + i * F::kUnitBytes;
  LANYARD_UNROLL for (uint32_t r = 0; r < 4; ++r) {
    const uint8_t* unit = place.tile[r / 2] + offset;
    const uint32_t row = place.g + r % 2 * 8;
    LANYARD_UNROLL for (uint32_t h = 0; h < F::kRowBytes / 16; ++h) {
      raw->q[h][r] = Load4(unit + F::kQuantOffset + (h * kTileOutputs + row) * 16 + place.t * 4);
    }
    raw->high[r][0] = raw->high[r][1] = 0;
    if constexpr (F::kHighBytes == 4) raw->high[r][0] = Load4(unit + F::kHighOffset + row * 4);
    if constexpr (F::kHighBytes == 8)
      Load8(unit + F::kHighOffset + row * 8, &raw->high[r][0], &raw->high[r][1]);
    raw->scales[r] = F::LoadScales(unit, place.tile[r / 2] + i * F::kHeaderBytes, row);
  }
}

template <typename F>
LANYARD_DEVICE void Fragments(const RawFragments<F>& raw, uint32_t t, uint32_t a[2][4]) {
  if constexpr (F::kRowBytes == 32) {
    LANYARD_UNROLL for (int i = 0; i < 8; ++i) a[i / 4][i % 4] =
        raw.q[i % 4 / 2][i / 4 * 2 + i % 2];
  } else {
    LANYARD_UNROLL for (int m = 0; m < 2; ++m)
        UnpackFragment<F>(raw.q[0] + 2 * m, raw.high + 2 * m, t, a[m]);
  }
}

template <int tiles>
struct SplitColumns {
  const uint8_t* q[tiles];  // for the lane's column and bytes, at the partial's first block
  const float* d[tiles];    // for its two columns
  const float* s[tiles];
};

template <typename F, int tiles>
LANYARD_DEVICE void ComputeFragments(const RawFragments<F>& raw, const SplitColumns<tiles>& columns,
                                     uint32_t i, uint32_t t, float acc[tiles][2][4]) {
  uint32_t a[2][4];
  Fragments<F>(raw, t, a);
  RowScales w[4];
  LANYARD_UNROLL for (int r = 0; r < 4; ++r) w[r] = F::Scales(raw.scales[r]);
  LANYARD_UNROLL for (int n = 0; n < tiles; ++n) {
    const uint8_t* q = columns.q[n] + i * (kMaxColumns * kBlockElements);
    const uint32_t b[2] = {Load4(q), Load4(q + kMaxColumns * 16)};
    const Vec2f d2 = Load8f(columns.d[n] + i * kMaxColumns);
    const float d[2] = {d2.x, d2.y};
    float s[2] = {0.0f, 0.0f};
    if constexpr (F::kMinimum) {
      const Vec2f s2 = Load8f(columns.s[n] + i * kMaxColumns);
      s[0] = s2.x;
      s[1] = s2.y;
    }
    LANYARD_UNROLL for (int m = 0; m < 2; ++m)
        MultiplyBlock<F>(a[m], b, w + 2 * m, d, s, acc[n][m]);
  }
}

// Adds the 8 warps' partial sums in their order, and stores.
template <int tiles>
LANYARD_DEVICE void StoreSplit(const ProductArgs& a, float* partials,
                               const float acc[tiles][2][4]) {
  constexpr uint32_t columns = tiles * kMaxColumns;
  const uint32_t g = Lane() / 4;
  const uint32_t t = Lane() % 4;
  float* mine = partials + WarpOfBlock() * (columns * kColumnStride);
  LANYARD_UNROLL for (uint32_t n = 0; n < tiles; ++n) {
    LANYARD_UNROLL for (uint32_t e = 0; e < 8; ++e) {
      const uint32_t column = n * 8 + 2 * t + e % 2;
      mine[column * kColumnStride + e / 2 * 8 + g] = acc[n][e / 4][e % 4];
    }
  }
  Barrier();
  LANYARD_UNROLL for (uint32_t i = 0; i < columns * kWarpOutputs / kSplitThreads; ++i) {
    const uint32_t index = i * kSplitThreads + ThreadX();
    const uint32_t column = index / kWarpOutputs;
    const float* from = partials + column * kColumnStride + index % kWarpOutputs;
    float total = 0;
    LANYARD_UNROLL for (uint32_t p = 0; p < kDealtPartials; ++p) total =
        Add(total, from[p * (columns * kColumnStride)]);
    const uint32_t output = BlockX() * kWarpOutputs + index % kWarpOutputs;
    const uint32_t r = BlockY() * columns + column;
    if (output < a.n_out && r < a.rows) a.out[r * a.out_stride + output] = total;
  }
}

template <int tiles>
LANYARD_DEVICE SplitColumns<tiles> ColumnsFrom(const ProductArgs& a, uint32_t first, uint32_t g,
                                               uint32_t t) {
  SplitColumns<tiles> columns;
  LANYARD_UNROLL for (uint32_t n = 0; n < tiles; ++n) {
    const uint32_t group = BlockY() * tiles + n;
    // Columns beyond the last group are computed from it and not stored.
    const uint64_t position =
        static_cast<uint64_t>(group < a.groups ? group : a.groups - 1) * a.n_blocks + first;
    columns.q[n] = a.q + position * (kMaxColumns * kBlockElements) + g * 16 + t * 4;
    columns.d[n] = a.d + position * kMaxColumns + 2 * t;
    columns.s[n] = a.s + position * kMaxColumns + 2 * t;
  }
  return columns;
}

template <typename F, int tiles>
LANYARD_DEVICE void Split(const ProductArgs& a) {
  __shared__ float partials[kDealtPartials * tiles * kMaxColumns * kColumnStride];
  const uint32_t p = WarpOfBlock();
  const uint32_t count = DealtCount(a.n_blocks, p);
  const uint32_t first = DealtFirst(a.n_blocks, p);
  SplitPlace place;
  place.g = Lane() / 4;
  place.t = Lane() % 4;
  place.first_unit = a.header_bytes + first * F::kUnitBytes;
  place.tile[0] = a.tiles + static_cast<uint64_t>(2 * BlockX()) * a.tile_bytes;
  place.tile[1] = place.tile[0] + (2 * BlockX() + 1 < a.n_tiles ? a.tile_bytes : 0);
  const SplitColumns<tiles> columns = ColumnsFrom<tiles>(a, first, place.g, place.t);
  float acc[tiles][2][4];
  LANYARD_UNROLL for (int i = 0; i < tiles * 8; ++i) acc[i / 8][i / 4 % 2][i % 4] = 0.0f;
  if (count > 0) {
    RawFragments<F> raw;
    LoadFragments<F>(place, 0, &raw);
    for (uint32_t i = 0; i < count; ++i) {
      RawFragments<F> next = raw;
      if (i + 1 < count) LoadFragments<F>(place, i + 1, &next);
      ComputeFragments<F, tiles>(raw, columns, i, place.t, acc);
      raw = next;
    }
  }
  StoreSplit<tiles>(a, partials, acc);
}

}  // namespace

#define LANYARD_SPLIT(name, F)                                                                    \
  LANYARD_KERNEL __launch_bounds__(kSplitThreads) matmul_split_##name##_16(const ProductArgs a) { \
    Split<F, 2>(a);                                                                               \
  }                                                                                               \
  LANYARD_KERNEL __launch_bounds__(kSplitThreads) matmul_split_##name##_32(const ProductArgs a) { \
    Split<F, 4>(a);                                                                               \
  }

LANYARD_SPLIT(q4_0, FormatQ4_0)
LANYARD_SPLIT(q4_1, FormatQ4_1)
LANYARD_SPLIT(q5_0, FormatQ5_0)
LANYARD_SPLIT(q8_0, FormatQ8_0)
LANYARD_SPLIT(q4_k, FormatQ4_K)
LANYARD_SPLIT(q6_k, FormatQ6_K)

}  // namespace lanyard::ops::cuda
#endif
