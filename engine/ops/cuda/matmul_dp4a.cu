// Many rows on a device without int8 tensor cores (sm_61): a block of threads makes 64 outputs of
// 64 rows, a thread 4 x 4 of them by dp4a. A block of K at a time passes through shared memory,
// unpacked to bytes on the way, double buffered.
#include "engine/ops/cuda/matmul_formats.cuh"

#if LANYARD_PTX_LEVEL < 75
namespace lanyard::ops::cuda {
namespace {

constexpr uint32_t kSide = 64;  // outputs, and columns
constexpr uint32_t kDp4aThreads = 256;
// The words from dword j of 64 rows to dword j + 1: eight rows times four dwords are stored to 32
// banks.
constexpr uint32_t kDwordStride = kSide + 8;

// A stage: four bytes of 64 rows after each other, of outputs and of columns; then the scales.
template <typename F>
struct alignas(16) Dp4aStage {
  int32_t weights[8 * kDwordStride];
  int32_t columns[8 * kDwordStride];
  float scales[F::kScales * kSide];
  float d[kSide];
  float s[F::kMinimum ? kSide : 4];
};

// A thread's part of the way from memory: dword j = thread % 4 of row thread / 4, and the scales of
// row `thread`.
template <typename F>
struct Dp4aPieces {
  uint32_t q[F::kRowBytes / 16];
  uint32_t high[2];
  uint32_t column[2];
  RawScales scales;
  float d, s;
};

LANYARD_DEVICE uint32_t Least(uint32_t a, uint32_t b) { return a < b ? a : b; }

template <typename F>
LANYARD_DEVICE const uint8_t* TileOf(const ProductArgs& a, uint32_t row) {
  return a.tiles + Least(BlockX() * (kSide / kTileOutputs) + row / kTileOutputs, a.n_tiles - 1) *
                       a.tile_bytes;
}
LANYARD_DEVICE uint64_t ColumnUnitOf(const ProductArgs& a, uint32_t column, uint32_t position) {
  const uint32_t group =
      Least(BlockY() * (kSide / kMaxColumns) + column / kMaxColumns, a.groups - 1);
  return static_cast<uint64_t>(group) * a.n_blocks + position;
}

template <typename F>
LANYARD_DEVICE void FetchBytes(const ProductArgs& a, uint32_t position, Dp4aPieces<F>* to) {
  const uint32_t row = ThreadX() / 4;
  const uint32_t j = ThreadX() % 4;
  const uint32_t offset = a.header_bytes + position * F::kUnitBytes;
  const uint8_t* unit = TileOf<F>(a, row) + offset;
  const uint32_t in_tile = row % kTileOutputs;
  LANYARD_UNROLL for (uint32_t h = 0; h < F::kRowBytes / 16; ++h) {
    to->q[h] = Load4(unit + F::kQuantOffset + (h * kTileOutputs + in_tile) * 16 + j * 4);
  }
  to->high[0] = to->high[1] = 0;
  if constexpr (F::kHighBytes == 4) to->high[0] = Load4(unit + F::kHighOffset + in_tile * 4);
  if constexpr (F::kHighBytes == 8)
    Load8(unit + F::kHighOffset + in_tile * 8, &to->high[0], &to->high[1]);
  const uint8_t* q =
      a.q + (ColumnUnitOf(a, row, position) * 2 * kMaxColumns + row % kMaxColumns) * 16 + j * 4;
  to->column[0] = Load4(q);
  to->column[1] = Load4(q + kMaxColumns * 16);
  to->scales = {0, 0};
  to->d = to->s = 0.0f;
  if (ThreadX() >= kSide) return;
  const uint8_t* tile = TileOf<F>(a, ThreadX());
  to->scales =
      F::LoadScales(tile + offset, HeaderAt<F>(a, tile, position), ThreadX() % kTileOutputs);
  const uint64_t column =
      ColumnUnitOf(a, ThreadX(), position) * kMaxColumns + ThreadX() % kMaxColumns;
  to->d = Load4f(a.d + column);
  if constexpr (F::kMinimum) to->s = Load4f(a.s + column);
}

template <typename F>
LANYARD_DEVICE void CommitBytes(Dp4aStage<F>* stage, const Dp4aPieces<F>& from) {
  const uint32_t row = ThreadX() / 4;
  const uint32_t j = ThreadX() % 4;
  uint32_t low = from.q[0];
  uint32_t high = from.q[F::kRowBytes / 16 - 1];
  if constexpr (F::kRowBytes == 16) {
    low = F::Low(from.q[0], from.high[0], j);
    high = F::High(from.q[0], from.high[F::kHighBytes == 8 ? 1 : 0], j);
  }
  stage->weights[j * kDwordStride + row] = static_cast<int32_t>(low);
  stage->weights[(j + 4) * kDwordStride + row] = static_cast<int32_t>(high);
  stage->columns[j * kDwordStride + row] = static_cast<int32_t>(from.column[0]);
  stage->columns[(j + 4) * kDwordStride + row] = static_cast<int32_t>(from.column[1]);
  if (ThreadX() >= kSide) return;
  const RowScales w = F::Scales(from.scales);
  stage->scales[ThreadX()] = w.d;
  if constexpr (F::kScales >= 2) stage->scales[kSide + ThreadX()] = w.e;
  if constexpr (F::kScales >= 3) stage->scales[2 * kSide + ThreadX()] = w.f;
  stage->d[ThreadX()] = from.d;
  if constexpr (F::kMinimum) stage->s[ThreadX()] = from.s;
}

// Adds dwords [first, first + n) of outputs 4x.. and columns 4y.. to sums.
LANYARD_DEVICE void DotDwords(const int32_t* weights, const int32_t* columns, uint32_t first,
                              uint32_t n, int32_t sums[4][4]) {
  LANYARD_UNROLL for (uint32_t j = first; j < first + n; ++j) {
    const Vec4i w = *reinterpret_cast<const Vec4i*>(weights + j * kDwordStride);
    const Vec4i v = *reinterpret_cast<const Vec4i*>(columns + j * kDwordStride);
    const int32_t ws[4] = {w.x, w.y, w.z, w.w};
    const int32_t vs[4] = {v.x, v.y, v.z, v.w};
    LANYARD_UNROLL for (int i = 0; i < 16; ++i) sums[i / 4][i % 4] =
        Dp4a(ws[i / 4], vs[i % 4], sums[i / 4][i % 4]);
  }
}

LANYARD_DEVICE void Start(int32_t sums[4][4]) {
  LANYARD_UNROLL for (int i = 0; i < 16; ++i) sums[i / 4][i % 4] = kMagic;
}
LANYARD_DEVICE void Quad(const float* from, float to[4]) {
  const Vec4f v = *reinterpret_cast<const Vec4f*>(from);
  to[0] = v.x;
  to[1] = v.y;
  to[2] = v.z;
  to[3] = v.w;
}

template <typename F>
LANYARD_DEVICE void ComputeBytes(const Dp4aStage<F>& stage, uint32_t x, uint32_t y,
                                 float acc[4][4]) {
  const int32_t* weights = stage.weights + 4 * x;
  const int32_t* columns = stage.columns + 4 * y;
  float w[3][4] = {}, d[4], s[4] = {};
  LANYARD_UNROLL for (uint32_t j = 0; j < F::kScales; ++j)
      Quad(stage.scales + j * kSide + 4 * x, w[j]);
  Quad(stage.d + 4 * y, d);
  if constexpr (F::kMinimum) Quad(stage.s + 4 * y, s);
  int32_t sums[4][4];
  float values[4][4];
  Start(sums);
  if constexpr (F::kHalves) {
    int32_t sums1[4][4];
    DotDwords(weights, columns, 0, 4, sums);
    Start(sums1);
    DotDwords(weights, columns, 4, 4, sums1);
    LANYARD_UNROLL for (int i = 0; i < 16; ++i) {
      values[i / 4][i % 4] =
          F::ToFloat(sums[i / 4][i % 4], sums1[i / 4][i % 4], w[1][i / 4], w[2][i / 4]);
    }
  } else {
    DotDwords(weights, columns, 0, 8, sums);
    LANYARD_UNROLL for (int i = 0; i < 16; ++i) values[i / 4][i % 4] =
        F::ToFloat(sums[i / 4][i % 4]);
  }
  LANYARD_UNROLL for (int i = 0; i < 16; ++i) {
    const RowScales row = {w[0][i / 4], w[1][i / 4], w[2][i / 4]};
    acc[i / 4][i % 4] =
        AddBlock<F>(acc[i / 4][i % 4], values[i / 4][i % 4], row, d[i % 4], s[i % 4]);
  }
}

LANYARD_DEVICE void StoreBytes(const ProductArgs& a, uint32_t x, uint32_t y,
                               const float total[4][4]) {
  LANYARD_UNROLL for (uint32_t i = 0; i < 16; ++i) {
    const uint32_t r = BlockY() * kSide + 4 * y + i % 4;
    const uint32_t output = BlockX() * kSide + 4 * x + i / 4;
    if (r < a.rows && output < a.n_out) a.out[r * a.out_stride + output] = total[i / 4][i % 4];
  }
}

template <typename F>
LANYARD_DEVICE void Dp4aTile(const ProductArgs& a) {
  __shared__ Dp4aStage<F> stages[2];
  const uint32_t x = ThreadX() % 16;
  const uint32_t y = ThreadX() / 16;
  float acc[4][4], total[4][4];
  LANYARD_UNROLL for (int i = 0; i < 16; ++i) acc[i / 4][i % 4] = total[i / 4][i % 4] = 0.0f;
  Dp4aPieces<F> pieces;
  FetchBytes<F>(a, 0, &pieces);
  CommitBytes<F>(&stages[0], pieces);
  Barrier();
  uint32_t p = 0;
  uint32_t left = DealtCount(a.n_blocks, 0);  // blocks of partial sum p that are still to come
  for (uint32_t at = 0; at < a.n_blocks; ++at) {
    const bool more = at + 1 < a.n_blocks;
    if (more) FetchBytes<F>(a, at + 1, &pieces);
    ComputeBytes<F>(stages[at % 2], x, y, acc);
    if (--left == 0) {
      left = DealtCount(a.n_blocks, ++p);
      LANYARD_UNROLL for (int i = 0; i < 16; ++i) {
        total[i / 4][i % 4] = Add(total[i / 4][i % 4], acc[i / 4][i % 4]);
        acc[i / 4][i % 4] = 0.0f;
      }
    }
    if (more) CommitBytes<F>(&stages[(at + 1) % 2], pieces);
    Barrier();
  }
  StoreBytes(a, x, y, total);
}

}  // namespace

#define LANYARD_DP4A(name, F)                                                              \
  LANYARD_KERNEL __launch_bounds__(kDp4aThreads) matmul_dp4a_##name(const ProductArgs a) { \
    Dp4aTile<F>(a);                                                                        \
  }

LANYARD_DP4A(q4_0, FormatQ4_0)
LANYARD_DP4A(q4_1, FormatQ4_1)
LANYARD_DP4A(q5_0, FormatQ5_0)
LANYARD_DP4A(q8_0, FormatQ8_0)
LANYARD_DP4A(q4_k, FormatQ4_K)
LANYARD_DP4A(q6_k, FormatQ6_K)

}  // namespace lanyard::ops::cuda
#endif
