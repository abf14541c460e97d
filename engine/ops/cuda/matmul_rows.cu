// Puts rows of activations into the form that products take: QuantiseBlock of engine/ops/quant.cc,
// or floats in blocks.
#include "engine/ops/cuda/matmul_device.cuh"

namespace lanyard::ops::cuda {
namespace {

constexpr uint32_t kLanesOfBlock = 8;  // four elements each

struct BlockPlace {
  bool inside;
  bool real;  // the row exists and is not padding
  uint32_t row, block;
  uint64_t unit;  // (group, position)
  uint32_t column;
};

LANYARD_DEVICE BlockPlace PlaceOf(const AssignRowsArgs& a) {
  const uint32_t index = (BlockX() * BlockSizeX() + ThreadX()) / kLanesOfBlock;
  BlockPlace place;
  place.inside = index < a.groups * a.columns * a.n_blocks;
  place.row = index / a.n_blocks;
  place.block = index % a.n_blocks;
  place.real = place.inside && place.row < a.rows;
  const uint32_t p = place.block % kDealtPartials;
  const uint32_t position = DealtFirst(a.n_blocks, p) + place.block / kDealtPartials;
  place.unit = static_cast<uint64_t>(place.row / a.columns) * a.n_blocks + position;
  place.column = place.row % a.columns;
  return place;
}

// Loads four elements of a row from `at` on, with zeros beyond k and for padding.
LANYARD_DEVICE void LoadElements(const AssignRowsArgs& a, const BlockPlace& place, uint32_t at,
                                 float x[4]) {
  const float* row = a.x + place.row * a.stride;
  const bool aligned = (__builtin_bit_cast(uint64_t, a.x) % 16 == 0) && a.stride % 4 == 0;
  if (place.real && aligned && at + 4 <= a.k) {
    const Vec4f v = *reinterpret_cast<const Vec4f*>(row + at);
    x[0] = v.x;
    x[1] = v.y;
    x[2] = v.z;
    x[3] = v.w;
    return;
  }
  LANYARD_UNROLL for (uint32_t i = 0; i < 4; ++i) x[i] =
      place.real && at + i < a.k ? row[at + i] : 0.0f;
}

LANYARD_DEVICE uint32_t Max(uint32_t a, uint32_t b) { return a > b ? a : b; }

}  // namespace

LANYARD_KERNEL assign_rows_q8(const AssignRowsArgs a) {
  const uint32_t lane = ThreadX() % kLanesOfBlock;
  const BlockPlace place = PlaceOf(a);
  float x[4];
  LoadElements(a, place, place.block * kBlockElements + 4 * lane, x);
  uint32_t amax_bits = 0;
  LANYARD_UNROLL for (int i = 0; i < 4; ++i) amax_bits = Max(amax_bits, BitsOf(x[i]) & 0x7fffffffu);
  LANYARD_UNROLL for (uint32_t mask = 1; mask < kLanesOfBlock; mask *= 2) {
    amax_bits = Max(amax_bits, ShuffleXor(amax_bits, mask));
  }
  const bool finite = amax_bits < 0x7f800000u;
  const bool usable = finite && FloatOf(amax_bits) >= 0x1p-100f;
  const float amax = usable ? FloatOf(amax_bits) : 1.0f;
  const float inverse = Div(127.0f, amax);
  uint32_t packed = 0;
  LANYARD_UNROLL for (int i = 0; i < 4; ++i) {
    // Rounds to nearest even; the low byte of the sum's bits is the integer's.
    const float rounded = Add(Mul(x[i], inverse), 12582912.0f);
    packed |= (BitsOf(rounded) & 0xffu) << (8 * i);
  }
  if (!usable) packed = 0;
  uint32_t sum = static_cast<uint32_t>(Dp4a(static_cast<int32_t>(packed), 0x01010101, 0));
  LANYARD_UNROLL for (uint32_t mask = 1; mask < kLanesOfBlock; mask *= 2) sum +=
      ShuffleXor(sum, mask);
  if (!place.inside) return;
  uint8_t* q = a.q + place.unit * a.columns * kBlockElements;
  *reinterpret_cast<uint32_t*>(q + (lane / 4 * a.columns + place.column) * 16 + lane % 4 * 4) =
      packed;
  if (lane != 0) return;
  const float unusable = finite ? 0.0f : FloatOf(0x7fc00000u);
  const float d = usable ? Div(amax, 127.0f) : unusable;
  a.d[place.unit * a.columns + place.column] = d;
  a.s[place.unit * a.columns + place.column] =
      usable ? Mul(static_cast<float>(static_cast<int32_t>(sum)), d) : unusable;
}

LANYARD_KERNEL assign_rows_f32(const AssignRowsArgs a) {
  const uint32_t lane = ThreadX() % kLanesOfBlock;
  const BlockPlace place = PlaceOf(a);
  if (!place.inside) return;
  float x[4];
  LoadElements(a, place, place.block * kBlockElements + 4 * lane, x);
  auto* out = reinterpret_cast<Vec4f*>(a.q) + (place.unit * kLanesOfBlock + lane) * a.columns +
              place.column;
  *out = {x[0], x[1], x[2], x[3]};
}

}  // namespace lanyard::ops::cuda
