// Many rows and float weights: a block of threads makes 128 outputs of 64 rows, a thread 8 x 4 of
// them by fma, element after element. 16 elements of K at a time pass through shared memory as
// floats, double buffered.
#include "engine/ops/cuda/matmul_device.cuh"

namespace lanyard::ops::cuda {
namespace {

constexpr uint32_t kOutputs = 128;
constexpr uint32_t kColumns = 64;
constexpr uint32_t kFloatThreads = 256;
constexpr uint32_t kElements = 16;  // of one stage: half a block
// [element][128], then [element][64].
constexpr uint32_t kStageFloats = kElements * (kOutputs + kColumns);

LANYARD_DEVICE uint32_t Least(uint32_t a, uint32_t b) { return a < b ? a : b; }

// What a thread carries from memory to a stage: 16 bytes of one or two outputs and of a column.
template <bool half>
struct FloatPieces {
  Vec4u weights[half ? 1 : 2];
  Vec4u column;
};

// Stage `at`: half at % 2 of the block at position at / 2.
template <bool half>
LANYARD_DEVICE void FetchFloats(const ProductArgs& a, uint32_t at, FloatPieces<half>* to) {
  constexpr uint32_t kChunks = half ? 4 : 8;  // of one block
  const uint32_t position = at / 2;
  const uint32_t tile = Least(
      BlockX() * (kOutputs / kTileOutputs) + ThreadX() % kOutputs / kTileOutputs, a.n_tiles - 1);
  const uint8_t* unit = a.tiles + tile * a.tile_bytes +
                        static_cast<uint64_t>(position) * (kChunks * kTileOutputs * 16);
  LANYARD_UNROLL for (uint32_t i = 0; i < (half ? 1 : 2); ++i) {
    const uint32_t chunk = at % 2 * (kChunks / 2) + i * 2 + ThreadX() / kOutputs;
    to->weights[i] = Load16(unit + (chunk * kTileOutputs + ThreadX() % kTileOutputs) * 16);
  }
  const uint32_t column = ThreadX() % kColumns;
  const uint32_t group =
      Least(BlockY() * (kColumns / kMaxColumns) + column / kMaxColumns, a.groups - 1);
  const uint32_t chunk = at % 2 * 4 + ThreadX() / kColumns;
  const uint64_t place =
      ((static_cast<uint64_t>(group) * a.n_blocks + position) * 8 + chunk) * kMaxColumns;
  to->column = Load16(a.q + (place + column % kMaxColumns) * 16);
}

template <bool half>
LANYARD_DEVICE void CommitFloats(float* stage, const FloatPieces<half>& from) {
  const uint32_t output = ThreadX() % kOutputs;
  LANYARD_UNROLL for (uint32_t i = 0; i < (half ? 1 : 2); ++i) {
    const uint32_t word[4] = {from.weights[i].x, from.weights[i].y, from.weights[i].z,
                              from.weights[i].w};
    const uint32_t chunk = i * 2 + ThreadX() / kOutputs;
    LANYARD_UNROLL for (uint32_t j = 0; j < 4; ++j) {
      if constexpr (half) {
        stage[(chunk * 8 + 2 * j) * kOutputs + output] =
            HalfToFloat(static_cast<uint16_t>(word[j]));
        stage[(chunk * 8 + 2 * j + 1) * kOutputs + output] =
            HalfToFloat(static_cast<uint16_t>(word[j] >> 16));
      } else {
        stage[(chunk * 4 + j) * kOutputs + output] = FloatOf(word[j]);
      }
    }
  }
  float* columns =
      stage + kElements * kOutputs + ThreadX() / kColumns * 4 * kColumns + ThreadX() % kColumns;
  columns[0] = FloatOf(from.column.x);
  columns[kColumns] = FloatOf(from.column.y);
  columns[2 * kColumns] = FloatOf(from.column.z);
  columns[3 * kColumns] = FloatOf(from.column.w);
}

// Outputs 4x .. 4x + 3 and 64 + those; columns 4y .. 4y + 3.
LANYARD_DEVICE void ComputeFloats(const float* stage, uint32_t x, uint32_t y, float acc[8][4]) {
  LANYARD_UNROLL for (uint32_t e = 0; e < kElements; ++e) {
    const Vec4f w0 = *reinterpret_cast<const Vec4f*>(stage + e * kOutputs + 4 * x);
    const Vec4f w1 = *reinterpret_cast<const Vec4f*>(stage + e * kOutputs + kOutputs / 2 + 4 * x);
    const Vec4f v =
        *reinterpret_cast<const Vec4f*>(stage + kElements * kOutputs + e * kColumns + 4 * y);
    const float w[8] = {w0.x, w0.y, w0.z, w0.w, w1.x, w1.y, w1.z, w1.w};
    const float columns[4] = {v.x, v.y, v.z, v.w};
    LANYARD_UNROLL for (int i = 0; i < 32; ++i) acc[i / 4][i % 4] =
        Fma(w[i / 4], columns[i % 4], acc[i / 4][i % 4]);
  }
}

LANYARD_DEVICE void StoreFloats(const ProductArgs& a, uint32_t x, uint32_t y,
                                const float total[8][4]) {
  LANYARD_UNROLL for (uint32_t c = 0; c < 4; ++c) {
    const uint32_t r = BlockY() * kColumns + 4 * y + c;
    LANYARD_UNROLL for (uint32_t i = 0; i < 8; ++i) {
      const uint32_t output = BlockX() * kOutputs + i / 4 * (kOutputs / 2) + 4 * x + i % 4;
      if (r < a.rows && output < a.n_out) a.out[r * a.out_stride + output] = total[i][c];
    }
  }
}

template <bool half>
LANYARD_DEVICE void FloatTile(const ProductArgs& a) {
  __shared__ float stages[2 * kStageFloats] __attribute__((aligned(16)));
  const uint32_t x = ThreadX() % 16;
  const uint32_t y = ThreadX() / 16;
  float acc[8][4], total[8][4];
  LANYARD_UNROLL for (int i = 0; i < 32; ++i) acc[i / 4][i % 4] = total[i / 4][i % 4] = 0.0f;
  FloatPieces<half> pieces;
  FetchFloats<half>(a, 0, &pieces);
  CommitFloats<half>(stages, pieces);
  Barrier();
  uint32_t p = 0;
  uint32_t left = 2 * DealtCount(a.n_blocks, 0);  // stages of partial sum p that are still to come
  uint32_t now = 0;
  for (uint32_t at = 0; at < 2 * a.n_blocks; ++at) {
    const bool more = at + 1 < 2 * a.n_blocks;
    if (more) FetchFloats<half>(a, at + 1, &pieces);
    ComputeFloats(stages + now, x, y, acc);
    if (--left == 0) {
      left = 2 * DealtCount(a.n_blocks, ++p);
      LANYARD_UNROLL for (int i = 0; i < 32; ++i) {
        total[i / 4][i % 4] = Add(total[i / 4][i % 4], acc[i / 4][i % 4]);
        acc[i / 4][i % 4] = 0.0f;
      }
    }
    now = kStageFloats - now;
    if (more) CommitFloats<half>(stages + now, pieces);
    Barrier();
  }
  StoreFloats(a, x, y, total);
}

}  // namespace

LANYARD_KERNEL __launch_bounds__(kFloatThreads, 2) matmul_tile_f32(const ProductArgs a) {
  FloatTile<false>(a);
}
LANYARD_KERNEL __launch_bounds__(kFloatThreads, 2) matmul_tile_f16(const ProductArgs a) {
  FloatTile<true>(a);
}

}  // namespace lanyard::ops::cuda
