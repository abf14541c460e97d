// Few rows: weights are read once, at the speed of memory. A block of threads takes a tile of 16
// outputs; 16 lanes, each with an output, walk one partial sum's blocks, which lie one after the
// other, so that a load reads 256 consecutive bytes. The activations of a block are the same for 16
// lanes.
#include "engine/ops/cuda/matmul_formats.cuh"

namespace lanyard::ops::cuda {
namespace {

constexpr uint32_t kVectorThreads = kTileOutputs * kDealtPartials;
// The blocks that a thread has under way: they are enough bytes to hide memory's latency, and few
// enough registers for many warps.
template <typename F, int columns>
constexpr uint32_t kAheadOf = F::kRowBytes == 32 || columns >= 4 || (F::kHalves && columns >= 2)
                                  ? 2
                                  : 4;

// What a lane reads of a unit.
template <typename F>
struct RawBlock {
  Vec4u q[F::kRowBytes / 16];
  uint32_t high[2];
  RawScales scales;
};

template <typename F>
LANYARD_DEVICE RawBlock<F> LoadBlock(const uint8_t* units, const uint8_t* headers, uint32_t i,
                                     uint32_t row) {
  const uint8_t* unit = units + i * F::kUnitBytes;
  RawBlock<F> raw;
  LANYARD_UNROLL for (uint32_t h = 0; h < F::kRowBytes / 16; ++h) {
    raw.q[h] = LoadStream16(unit + F::kQuantOffset + (h * kTileOutputs + row) * 16);
  }
  raw.high[0] = raw.high[1] = 0;
  if constexpr (F::kHighBytes == 4) raw.high[0] = Load4(unit + F::kHighOffset + row * 4);
  if constexpr (F::kHighBytes == 8)
    Load8(unit + F::kHighOffset + row * 8, &raw.high[0], &raw.high[1]);
  raw.scales = F::LoadScales(unit, headers + i * F::kHeaderBytes, row);
  return raw;
}

template <typename F>
LANYARD_DEVICE void Unpack(const RawBlock<F>& raw, int32_t w[8]) {
  const uint32_t v[4] = {raw.q[0].x, raw.q[0].y, raw.q[0].z, raw.q[0].w};
  if constexpr (F::kRowBytes == 32) {
    const uint32_t u[4] = {raw.q[1].x, raw.q[1].y, raw.q[1].z, raw.q[1].w};
    LANYARD_UNROLL for (int j = 0; j < 4; ++j) {
      w[j] = static_cast<int32_t>(v[j]);
      w[j + 4] = static_cast<int32_t>(u[j]);
    }
  } else {
    const uint32_t high1 = raw.high[F::kHighBytes == 8 ? 1 : 0];
    LANYARD_UNROLL for (uint32_t j = 0; j < 4; ++j) {
      w[j] = static_cast<int32_t>(F::Low(v[j], raw.high[0], j));
      w[j + 4] = static_cast<int32_t>(F::High(v[j], high1, j));
    }
  }
}

LANYARD_DEVICE int32_t Dot16(const int32_t w[4], const Vec4u& q, int32_t sum) {
  sum = Dp4a(w[0], static_cast<int32_t>(q.x), sum);
  sum = Dp4a(w[1], static_cast<int32_t>(q.y), sum);
  sum = Dp4a(w[2], static_cast<int32_t>(q.z), sum);
  return Dp4a(w[3], static_cast<int32_t>(q.w), sum);
}

template <typename F>
LANYARD_DEVICE float BlockValue(const int32_t w[8], const Vec4u& q0, const Vec4u& q1,
                                const RowScales& scales) {
  if constexpr (F::kHalves) {
    return F::ToFloat(Dot16(w, q0, kMagic), Dot16(w + 4, q1, kMagic), scales.e, scales.f);
  } else {
    return F::ToFloat(Dot16(w + 4, q1, Dot16(w, q0, kMagic)));
  }
}

// Multiplies a unit by the columns. q, d and s are those of the unit's position.
template <typename F, int columns>
LANYARD_DEVICE void ComputeBlock(const RawBlock<F>& raw, const uint8_t* q, const float* d,
                                 const float* s, float acc[columns]) {
  int32_t w[8];
  Unpack<F>(raw, w);
  const RowScales scales = F::Scales(raw.scales);
  LANYARD_UNROLL for (int c = 0; c < columns; ++c) {
    const Vec4u q0 = Load16(q + c * 16);
    const Vec4u q1 = Load16(q + (columns + c) * 16);
    const float value = BlockValue<F>(w, q0, q1, scales);
    acc[c] = AddBlock<F>(acc[c], value, scales, Load4f(d + c), F::kMinimum ? Load4f(s + c) : 0.0f);
  }
}

// The floats from a partial sum's outputs to the next one's: two partials that a warp stores go to
// different banks.
template <int columns>
constexpr uint32_t kPartialStride = columns* kTileOutputs + (columns % 2 == 0 ? kTileOutputs : 0);

// Adds the partial sums of all columns in their order and stores them. `partials` is
// [8][columns][16].
template <int columns>
LANYARD_DEVICE void StoreTotals(const ProductArgs& a, float* partials, const float acc[columns]) {
  const uint32_t row = ThreadX() % kTileOutputs;
  const uint32_t p = ThreadX() / kTileOutputs;
  LANYARD_UNROLL for (int c = 0; c < columns; ++c)
      partials[p * kPartialStride<columns> + c * kTileOutputs + row] = acc[c];
  Barrier();
  if (p >= columns) return;  // columns <= 8: a thread for every total
  float total = 0;
  LANYARD_UNROLL for (uint32_t i = 0; i < kDealtPartials; ++i) {
    total = Add(total, partials[i * kPartialStride<columns> + p * kTileOutputs + row]);
  }
  const uint32_t output = BlockX() * kTileOutputs + row;
  const uint32_t r = BlockY() * columns + p;
  if (output < a.n_out && r < a.rows) a.out[r * a.out_stride + output] = total;
}

template <typename F, int columns>
LANYARD_DEVICE void MatVec(const ProductArgs& a) {
  __shared__ float partials[kDealtPartials * kPartialStride<columns>];
  const uint32_t row = ThreadX() % kTileOutputs;
  const uint32_t p = ThreadX() / kTileOutputs;
  const uint32_t first = DealtFirst(a.n_blocks, p);
  const uint32_t count = DealtCount(a.n_blocks, p);
  const uint8_t* tile = a.tiles + BlockX() * a.tile_bytes;
  const uint8_t* units = tile + a.header_bytes + first * F::kUnitBytes;
  const uint64_t position = static_cast<uint64_t>(BlockY()) * a.n_blocks + first;
  const uint8_t* q = a.q + position * (columns * kBlockElements);
  const float* d = a.d + position * columns;
  const float* s = a.s + position * columns;
  float acc[columns];
  LANYARD_UNROLL for (int c = 0; c < columns; ++c) acc[c] = 0.0f;
  constexpr uint32_t kAhead = kAheadOf<F, columns>;
  // The blocks of a step are loaded while those of the step before are computed.
  RawBlock<F> raw[kAhead] = {};
  LANYARD_UNROLL for (uint32_t u = 0; u < kAhead; ++u) {
    if (u < count) raw[u] = LoadBlock<F>(units, tile, u, row);
  }
  for (uint32_t i = 0; i < count; i += kAhead) {
    RawBlock<F> next[kAhead];
    LANYARD_UNROLL for (uint32_t u = 0; u < kAhead; ++u) next[u] = raw[u];
    LANYARD_UNROLL for (uint32_t u = 0; u < kAhead; ++u) {
      if (i + kAhead + u < count) next[u] = LoadBlock<F>(units, tile, i + kAhead + u, row);
    }
    LANYARD_UNROLL for (uint32_t u = 0; u < kAhead; ++u) {
      if (i + u < count) ComputeBlock<F, columns>(raw[u], q, d, s, acc);
      q += columns * kBlockElements;
      d += columns;
      s += columns;
    }
    LANYARD_UNROLL for (uint32_t u = 0; u < kAhead; ++u) raw[u] = next[u];
  }
  StoreTotals<columns>(a, partials, acc);
}

// --- Float weights: the 32 elements of a block in order

template <bool half>
struct FloatFormat {
  static constexpr uint32_t kChunks = half ? 4 : 8;    // of 16 bytes
  static constexpr uint32_t kElements = half ? 8 : 4;  // of a chunk
  static constexpr uint32_t kUnitBytes = kChunks * kTileOutputs * 16;
  LANYARD_DEVICE void Unpack(const Vec4u& v, float w[kElements]) {
    const uint32_t word[4] = {v.x, v.y, v.z, v.w};
    LANYARD_UNROLL for (int i = 0; i < 4; ++i) {
      if constexpr (half) {
        w[2 * i] = HalfToFloat(static_cast<uint16_t>(word[i]));
        w[2 * i + 1] = HalfToFloat(static_cast<uint16_t>(word[i] >> 16));
      } else {
        w[i] = FloatOf(word[i]);
      }
    }
  }
};

template <bool half, int columns>
LANYARD_DEVICE void MatVecFloat(const ProductArgs& a) {
  using F = FloatFormat<half>;
  __shared__ float partials[kDealtPartials * kPartialStride<columns>];
  const uint32_t row = ThreadX() % kTileOutputs;
  const uint32_t p = ThreadX() / kTileOutputs;
  const uint32_t first = DealtFirst(a.n_blocks, p);
  const uint32_t chunks = DealtCount(a.n_blocks, p) * F::kChunks;
  const uint8_t* w =
      a.tiles + BlockX() * a.tile_bytes + static_cast<uint64_t>(first) * F::kUnitBytes + row * 16;
  const uint8_t* x =
      a.q + (static_cast<uint64_t>(BlockY()) * a.n_blocks + first) * (columns * kBlockElements * 4);
  float acc[columns];
  LANYARD_UNROLL for (int c = 0; c < columns; ++c) acc[c] = 0.0f;
  constexpr uint32_t kChunkStride = kTileOutputs * 16;
  // It takes kChunks at a time, so that no count but the unit's has to be checked for its end.
  Vec4u raw[F::kChunks];
  LANYARD_UNROLL for (uint32_t u = 0; u < F::kChunks; ++u) {
    raw[u] = chunks > 0 ? LoadStream16(w + u * kChunkStride) : Vec4u{0, 0, 0, 0};
  }
  for (uint32_t i = 0; i < chunks; i += F::kChunks) {
    Vec4u next[F::kChunks];
    LANYARD_UNROLL for (uint32_t u = 0; u < F::kChunks; ++u) {
      next[u] =
          i + F::kChunks < chunks ? LoadStream16(w + (F::kChunks + u) * kChunkStride) : raw[u];
    }
    w += F::kUnitBytes;
    LANYARD_UNROLL for (uint32_t u = 0; u < F::kChunks; ++u) {
      float values[F::kElements];
      F::Unpack(raw[u], values);
      LANYARD_UNROLL for (uint32_t quad = 0; quad < F::kElements / 4; ++quad) {
        LANYARD_UNROLL for (int c = 0; c < columns; ++c) {
          const Vec4f v = Load16f(x + c * 16);
          acc[c] = Fma(values[4 * quad], v.x, acc[c]);
          acc[c] = Fma(values[4 * quad + 1], v.y, acc[c]);
          acc[c] = Fma(values[4 * quad + 2], v.z, acc[c]);
          acc[c] = Fma(values[4 * quad + 3], v.w, acc[c]);
        }
        x += columns * 16;
      }
      raw[u] = next[u];
    }
  }
  StoreTotals<columns>(a, partials, acc);
}

}  // namespace

// The least blocks of threads on a multiprocessor: this gives fewer registers where few are needed,
// and none is spilled.
#define LANYARD_MATVEC(name, F, columns)                                                \
  LANYARD_KERNEL __launch_bounds__(kVectorThreads, (F::kHalves || columns > 2 ? 4 : 5)) \
      matvec_##name##_##columns(const ProductArgs a) {                                  \
    MatVec<F, columns>(a);                                                              \
  }
#define LANYARD_MATVEC_FLOAT(name, half, columns)      \
  LANYARD_KERNEL __launch_bounds__(kVectorThreads)     \
      matvec_##name##_##columns(const ProductArgs a) { \
    MatVecFloat<half, columns>(a);                     \
  }
#define LANYARD_MATVEC_COLUMNS(macro, name, F) \
  macro(name, F, 1) macro(name, F, 2) macro(name, F, 4) macro(name, F, 8)

LANYARD_MATVEC_COLUMNS(LANYARD_MATVEC, q4_0, FormatQ4_0)
LANYARD_MATVEC_COLUMNS(LANYARD_MATVEC, q4_1, FormatQ4_1)
LANYARD_MATVEC_COLUMNS(LANYARD_MATVEC, q5_0, FormatQ5_0)
LANYARD_MATVEC_COLUMNS(LANYARD_MATVEC, q8_0, FormatQ8_0)
LANYARD_MATVEC_COLUMNS(LANYARD_MATVEC, q4_k, FormatQ4_K)
LANYARD_MATVEC_COLUMNS(LANYARD_MATVEC, q6_k, FormatQ6_K)
LANYARD_MATVEC_COLUMNS(LANYARD_MATVEC_FLOAT, f32, false)
LANYARD_MATVEC_COLUMNS(LANYARD_MATVEC_FLOAT, f16, true)

}  // namespace lanyard::ops::cuda
