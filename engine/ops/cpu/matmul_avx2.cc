// In AVX2 a ymm lane is an output row, half a tile at a time. maddubs multiplies unsigned by signed
// bytes and adds pairs in 16 bits, saturating: how many of those sums may be added before they are
// widened depends on the format's largest weight.
#include <immintrin.h>

#include "engine/ops/matmul_impl.h"

namespace lanyard::ops {
namespace {

constexpr int kMaxColumns = 6;
constexpr int kPrefetchBytes = 4096;

typedef int32_t __attribute__((may_alias)) AliasedInt;
typedef float __attribute__((may_alias)) AliasedFloat;

// The byte offsets in a record of C columns.
template <int C>
struct Record {
  static constexpr int kScale = C * 32;
  static constexpr int kSum = C * 36;
  static constexpr int kTimes8 = C * 40;
  static constexpr int kTimes16 = C * 44;
  static constexpr int kLow32 = C * 52;
  static constexpr int kHigh32 = C * 56;
  static constexpr int kBytes = C * kQuantRecordBytes;
};

inline __m256i BroadcastInt(const uint8_t* p) {
  return _mm256_set1_epi32(*reinterpret_cast<const AliasedInt*>(p));
}
inline __m256 BroadcastFloat(const uint8_t* p) {
  return _mm256_set1_ps(*reinterpret_cast<const AliasedFloat*>(p));
}
inline __m256i Load(const uint8_t* p) {
  return _mm256_loadu_si256(reinterpret_cast<const __m256i*>(p));
}
inline __m256 LoadHalf(const uint8_t* p) {
  return _mm256_cvtph_ps(_mm_loadu_si128(reinterpret_cast<const __m128i*>(p)));
}
inline __m256i LoadU8(const uint8_t* p) {
  return _mm256_cvtepu8_epi32(_mm_loadl_epi64(reinterpret_cast<const __m128i*>(p)));
}
inline __m256i LoadS8(const uint8_t* p) {
  return _mm256_cvtepi8_epi32(_mm_loadl_epi64(reinterpret_cast<const __m128i*>(p)));
}

// Unpacks the nibble lines of a half tile; p is the half's first byte.
inline void Nibbles(const uint8_t* p, __m256i w[8]) {
  const __m256i mask = _mm256_set1_epi8(0x0f);
#pragma GCC unroll 8
  for (int j = 0; j < 4; ++j) {
    const __m256i both = Load(p + 64 * j);
    w[j] = _mm256_and_si256(both, mask);
    w[j + 4] = _mm256_and_si256(_mm256_srli_epi16(both, 4), mask);
  }
}
inline __m256i With(__m256i w, __m256i shifted, __m256i mask) {
  return _mm256_or_si256(w, _mm256_and_si256(shifted, mask));
}

// kAdds is the number of products of four groups' pairs that fit 16 bits together: kAdds * 2 *
// largest weight * 127 < 2^15.
template <TensorType T>
struct Format;
template <>
struct Format<TensorType::kQ4_0> {
  static constexpr int kBlockBytes = 288, kHeaderBytes = 0, kAdds = 8;
  static constexpr bool kMin = false;
  template <int C>
  static constexpr int Correction() {
    return Record<C>::kTimes8;
  }
  static void Unpack(const uint8_t* p, int half, __m256i w[8]) { Nibbles(p + 32 + 32 * half, w); }
};
template <>
struct Format<TensorType::kQ4_1> {
  static constexpr int kBlockBytes = 320, kHeaderBytes = 0, kAdds = 8;
  static constexpr bool kMin = true;
  template <int C>
  static constexpr int Correction() {
    return -1;
  }
  static void Unpack(const uint8_t* p, int half, __m256i w[8]) { Nibbles(p + 64 + 32 * half, w); }
};
template <>
struct Format<TensorType::kQ5_0> {
  static constexpr int kBlockBytes = 352, kHeaderBytes = 0, kAdds = 4;
  static constexpr bool kMin = false;
  template <int C>
  static constexpr int Correction() {
    return Record<C>::kTimes16;
  }
  static void Unpack(const uint8_t* p, int half, __m256i w[8]) {
    const __m256i high = Load(p + 32 + 32 * half);
    const __m256i bit = _mm256_set1_epi8(0x10);
    Nibbles(p + 96 + 32 * half, w);
    w[0] = With(w[0], _mm256_slli_epi32(high, 4), bit);
    w[1] = With(w[1], _mm256_slli_epi32(high, 3), bit);
    w[2] = With(w[2], _mm256_slli_epi32(high, 2), bit);
    w[3] = With(w[3], _mm256_slli_epi32(high, 1), bit);
    w[4] = With(w[4], high, bit);
    w[5] = With(w[5], _mm256_srli_epi32(high, 1), bit);
    w[6] = With(w[6], _mm256_srli_epi32(high, 2), bit);
    w[7] = With(w[7], _mm256_srli_epi32(high, 3), bit);
  }
};
template <>
struct Format<TensorType::kQ8_0> {
  static constexpr int kBlockBytes = 544, kHeaderBytes = 0, kAdds = 1;
  static constexpr bool kMin = false;
  template <int C>
  static constexpr int Correction() {
    return -1;
  }  // back to signed bytes
  static void Unpack(const uint8_t* p, int half, __m256i w[8]) {
    const __m256i sign = _mm256_set1_epi8(static_cast<char>(0x80));
#pragma GCC unroll 8
    for (int j = 0; j < 8; ++j) w[j] = _mm256_xor_si256(Load(p + 32 + 64 * j + 32 * half), sign);
  }
};
template <>
struct Format<TensorType::kQ4_K> {
  static constexpr int kBlockBytes = 288, kHeaderBytes = 64, kAdds = 8;
  static constexpr bool kMin = true;
  template <int C>
  static constexpr int Correction() {
    return -1;
  }
  static void Unpack(const uint8_t* p, int half, __m256i w[8]) { Nibbles(p + 32 + 32 * half, w); }
};
template <>
struct Format<TensorType::kQ6_K> {
  static constexpr int kBlockBytes = 416, kHeaderBytes = 32, kAdds = 2;
  static constexpr bool kMin = false;
  template <int C>
  static constexpr int Correction() {
    return Record<C>::kLow32;
  }
  static void Unpack(const uint8_t* p, int half, __m256i w[8]) {
    const __m256i pair = _mm256_set1_epi8(0x30);
    Nibbles(p + 160 + 32 * half, w);
#pragma GCC unroll 2
    for (int h = 0; h < 2; ++h) {
      const __m256i high = Load(p + 32 + 64 * h + 32 * half);
      w[4 * h] = With(w[4 * h], _mm256_slli_epi32(high, 4), pair);
      w[4 * h + 1] = With(w[4 * h + 1], _mm256_slli_epi32(high, 2), pair);
      w[4 * h + 2] = With(w[4 * h + 2], high, pair);
      w[4 * h + 3] = With(w[4 * h + 3], _mm256_srli_epi32(high, 2), pair);
    }
  }
};

template <TensorType T>
inline void Scales(const uint8_t* header, int64_t supers, int64_t super, const uint8_t* p, int half,
                   __m256* d, __m256* m) {
  if constexpr (T == TensorType::kQ4_K) {
    *d = _mm256_mul_ps(LoadHalf(header + super * 32 + 16 * half),
                       _mm256_cvtepi32_ps(LoadU8(p + 8 * half)));
    *m = _mm256_mul_ps(LoadHalf(header + (supers + super) * 32 + 16 * half),
                       _mm256_cvtepi32_ps(LoadU8(p + 16 + 8 * half)));
    *m = _mm256_xor_ps(*m, _mm256_set1_ps(-0.0f));
  } else if constexpr (T == TensorType::kQ6_K) {
    *d = LoadHalf(header + super * 32 + 16 * half);
  } else {
    *d = LoadHalf(p + 16 * half);
    if constexpr (T == TensorType::kQ4_1) *m = LoadHalf(p + 32 + 16 * half);
  }
}

// Sums w times the column's bytes over N groups, in 32 bits. N is a multiple of kAdds.
template <TensorType T, int N>
inline __m256i Dot(const __m256i* w, const uint8_t* q) {
  constexpr int kAdds = Format<T>::kAdds;
  const __m256i ones = _mm256_set1_epi16(1);
  __m256i sum = _mm256_setzero_si256();
#pragma GCC unroll 8
  for (int first = 0; first < N; first += kAdds) {
    __m256i pairs = _mm256_setzero_si256();
#pragma GCC unroll 8
    for (int j = first; j < first + kAdds; ++j) {
      const __m256i a = BroadcastInt(q + 4 * j);
      const __m256i product =
          T == TensorType::kQ8_0
              ? _mm256_maddubs_epi16(_mm256_abs_epi8(w[j]), _mm256_sign_epi8(a, w[j]))
              : _mm256_maddubs_epi16(w[j], a);
      pairs = j == first ? product : _mm256_add_epi16(pairs, product);
    }
    const __m256i wide = _mm256_madd_epi16(pairs, ones);
    sum = first == 0 ? wide : _mm256_add_epi32(sum, wide);
  }
  return sum;
}

// Computes one block of half a tile times C columns.
template <TensorType T, int C>
inline void BlockStep(const uint8_t* tile, int64_t supers, int64_t super, const uint8_t* w,
                      const uint8_t* act, int half, __m256 acc[C]) {
  __m256i bytes[8];
  __m256 d, m = _mm256_setzero_ps();
  Format<T>::Unpack(w, half, bytes);
  Scales<T>(tile, supers, super, w, half, &d, &m);
#pragma GCC unroll 8
  for (int c = 0; c < C; ++c) {
    constexpr int kCorrection = Format<T>::template Correction<C>();
    __m256i sum;
    if constexpr (T == TensorType::kQ6_K) {
      const __m256i low = _mm256_add_epi32(Dot<T, 4>(bytes, act + 32 * c),
                                           BroadcastInt(act + Record<C>::kLow32 + 4 * c));
      const __m256i high = _mm256_add_epi32(Dot<T, 4>(bytes + 4, act + 32 * c + 16),
                                            BroadcastInt(act + Record<C>::kHigh32 + 4 * c));
      sum = _mm256_add_epi32(_mm256_mullo_epi32(low, LoadS8(w + 8 * half)),
                             _mm256_mullo_epi32(high, LoadS8(w + 16 + 8 * half)));
    } else {
      sum = Dot<T, 8>(bytes, act + 32 * c);
      if constexpr (kCorrection >= 0)
        sum = _mm256_add_epi32(sum, BroadcastInt(act + kCorrection + 4 * c));
    }
    const __m256 scale = _mm256_mul_ps(d, BroadcastFloat(act + Record<C>::kScale + 4 * c));
    acc[c] = _mm256_fmadd_ps(_mm256_cvtepi32_ps(sum), scale, acc[c]);
    if constexpr (Format<T>::kMin) {
      acc[c] = _mm256_fmadd_ps(m, BroadcastFloat(act + Record<C>::kSum + 4 * c), acc[c]);
    }
  }
}

// Computes H halves, from `half` on, in one walk.
template <TensorType T, int C, int H>
inline void QuantisedTile(const uint8_t* tile, const ProductArgs& a, int half, __m256 total[H][C]) {
  const int64_t supers = a.n_blocks / 8;
  const uint8_t* w = tile + supers * Format<T>::kHeaderBytes;
  const uint8_t* act = a.act;
  for (int64_t p = 0; p < 8; ++p) {
    __m256 acc[H][C];
#pragma GCC unroll 8
    for (int i = 0; i < H * C; ++i) acc[i / C][i % C] = _mm256_setzero_ps();
    for (int64_t b = p; b < a.n_blocks; b += 8) {
#pragma GCC unroll 9
      for (int line = 0; line < (Format<T>::kBlockBytes + 63) / 64; ++line) {
        _mm_prefetch(reinterpret_cast<const char*>(w) + kPrefetchBytes + 64 * line, _MM_HINT_T0);
      }
#pragma GCC unroll 2
      for (int h = 0; h < H; ++h) BlockStep<T, C>(tile, supers, b / 8, w, act, half + h, acc[h]);
      w += Format<T>::kBlockBytes;
      act += Record<C>::kBytes;
    }
#pragma GCC unroll 8
    for (int i = 0; i < H * C; ++i) {
      total[i / C][i % C] = _mm256_add_ps(total[i / C][i % C], acc[i / C][i % C]);
    }
  }
}

template <TensorType T, int C>
inline void FloatTile(const uint8_t* tile, const ProductArgs& a, __m256 total[2][C]) {
  constexpr int kHalfBytes = T == TensorType::kF32 ? 32 : 16;  // one element of 8 rows
  const uint8_t* w = tile;
  const uint8_t* act = a.act;
  for (int64_t p = 0; p < 8; ++p) {
    __m256 acc[2][C];
#pragma GCC unroll 8
    for (int i = 0; i < 2 * C; ++i) acc[i / C][i % C] = _mm256_setzero_ps();
    for (int64_t b = p; b < a.n_blocks; b += 8) {
      for (int i = 0; i < 32; ++i) {
        const bool f32 = T == TensorType::kF32;
        const __m256 w0 = f32 ? _mm256_castsi256_ps(Load(w)) : LoadHalf(w);
        const __m256 w1 =
            f32 ? _mm256_castsi256_ps(Load(w + kHalfBytes)) : LoadHalf(w + kHalfBytes);
#pragma GCC unroll 8
        for (int c = 0; c < C; ++c) {
          const __m256 x = BroadcastFloat(act + 4 * c);
          acc[0][c] = _mm256_fmadd_ps(w0, x, acc[0][c]);
          acc[1][c] = _mm256_fmadd_ps(w1, x, acc[1][c]);
        }
        w += 2 * kHalfBytes;
        act += 4 * C;
      }
    }
#pragma GCC unroll 8
    for (int i = 0; i < 2 * C; ++i) {
      total[i / C][i % C] = _mm256_add_ps(total[i / C][i % C], acc[i / C][i % C]);
    }
  }
}

template <int C>
inline void Store(const ProductArgs& a, int64_t row, const __m256 total[C]) {
  const int64_t left = a.n_out - row;
  if (left <= 0) return;
  const __m256i lanes = _mm256_setr_epi32(0, 1, 2, 3, 4, 5, 6, 7);
  const __m256i mask =
      _mm256_cmpgt_epi32(_mm256_set1_epi32(left >= 8 ? 8 : static_cast<int>(left)), lanes);
#pragma GCC unroll 8
  for (int c = 0; c < C; ++c) _mm256_maskstore_ps(a.out + c * a.out_stride + row, mask, total[c]);
}

template <TensorType T, int C>
void Product(const ProductArgs& a) {
  constexpr bool kFloat = T == TensorType::kF32 || T == TensorType::kF16;
  constexpr int H = kFloat || C <= 2 ? 2 : 1;
  const uint8_t* tile = a.tiles;
  for (int64_t t = a.tile_begin; t < a.tile_end; ++t, tile += a.tile_bytes) {
    for (int half = 0; half < 2; half += H) {
      __m256 total[H][C];
#pragma GCC unroll 8
      for (int i = 0; i < H * C; ++i) total[i / C][i % C] = _mm256_setzero_ps();
      if constexpr (kFloat) {
        FloatTile<T, C>(tile, a, total);
      } else {
        QuantisedTile<T, C, H>(tile, a, half, total);
      }
      for (int h = 0; h < H; ++h) Store<C>(a, t * kTileRows + 8 * (half + h), total[h]);
    }
  }
}

template <TensorType T, int C>
ProductFn OfColumns(int columns) {
  if constexpr (C > 1) {
    if (columns < C) return OfColumns<T, C - 1>(columns);
  }
  return Product<T, C>;
}

struct Products {
  template <TensorType T>
  static ProductFn Of(int columns) {
    return OfColumns<T, kMaxColumns>(columns);
  }
};

inline int32_t ReduceAdd(__m256i v) {
  __m128i s = _mm_add_epi32(_mm256_castsi256_si128(v), _mm256_extracti128_si256(v, 1));
  s = _mm_add_epi32(s, _mm_shuffle_epi32(s, 0x4e));
  s = _mm_add_epi32(s, _mm_shuffle_epi32(s, 0xb1));
  return _mm_cvtsi128_si32(s);
}
inline uint32_t ReduceMax(__m256i v) {
  __m128i s = _mm_max_epu32(_mm256_castsi256_si128(v), _mm256_extracti128_si256(v, 1));
  s = _mm_max_epu32(s, _mm_shuffle_epi32(s, 0x4e));
  s = _mm_max_epu32(s, _mm_shuffle_epi32(s, 0xb1));
  return static_cast<uint32_t>(_mm_cvtsi128_si32(s));
}

struct BlockSums {
  int32_t lo, hi;
  float d;
};

// This is QuantiseBlock of quant.cc.
inline BlockSums QuantiseBlock(const float* x, uint8_t* q) {
  const __m256i magnitude = _mm256_set1_epi32(0x7fffffff);
  __m256i max = _mm256_setzero_si256();
#pragma GCC unroll 8
  for (int i = 0; i < 4; ++i) {
    max = _mm256_max_epu32(
        max, _mm256_and_si256(_mm256_castps_si256(_mm256_loadu_ps(x + 8 * i)), magnitude));
  }
  const uint32_t amax_bits = ReduceMax(max);
  if (amax_bits >= 0x7f800000u || amax_bits < 0x0d800000u) {  // 2^-100
    _mm256_storeu_si256(reinterpret_cast<__m256i*>(q), _mm256_setzero_si256());
    return {0, 0, amax_bits >= 0x7f800000u ? __builtin_nanf("") : 0.0f};
  }
  float amax;
  __builtin_memcpy(&amax, &amax_bits, 4);
  const __m256 inverse = _mm256_set1_ps(127.0f / amax);
  __m256i v[4];
#pragma GCC unroll 8
  for (int i = 0; i < 4; ++i)
    v[i] = _mm256_cvtps_epi32(_mm256_mul_ps(_mm256_loadu_ps(x + 8 * i), inverse));
  const __m256i bytes =
      _mm256_packs_epi16(_mm256_packs_epi32(v[0], v[1]), _mm256_packs_epi32(v[2], v[3]));
  _mm256_storeu_si256(
      reinterpret_cast<__m256i*>(q),
      _mm256_permutevar8x32_epi32(bytes, _mm256_setr_epi32(0, 4, 1, 5, 2, 6, 3, 7)));
  return {ReduceAdd(_mm256_add_epi32(v[0], v[1])), ReduceAdd(_mm256_add_epi32(v[2], v[3])),
          amax / 127.0f};
}

void Quantise(const float* x, int64_t k, int columns, int column, uint8_t* record) {
  const int64_t n_blocks = k / 32;
  for (int64_t p = 0; p < 8; ++p) {
    for (int64_t b = p; b < n_blocks; b += 8, record += columns * kQuantRecordBytes) {
      const BlockSums block = QuantiseBlock(x + b * 32, record + 32 * column);
      auto* floats = reinterpret_cast<AliasedFloat*>(record + 32 * columns) + column;
      auto* ints = reinterpret_cast<AliasedInt*>(record + 40 * columns) + column;
      const int32_t sum = block.lo + block.hi;
      floats[0] = block.d;
      floats[columns] = static_cast<float>(sum) * block.d;
      ints[0] = -8 * sum;
      ints[columns] = -16 * sum;
      ints[2 * columns] = -128 * sum;
      ints[3 * columns] = -32 * block.lo;
      ints[4 * columns] = -32 * block.hi;
    }
  }
}

}  // namespace

const KernelTable& Avx2Kernels() {
  static constexpr KernelTable kTable = {kMaxColumns, FindProduct<Products>, Quantise};
  return kTable;
}

}  // namespace lanyard::ops
