// mma.sync. Integer products are exact. f16 products are exact too; their sum is taken in f32, one
// fma a product, k ascending, from c: that is not what a card does (no vendor says what it does),
// so such a kernel has no bits to compare.
#include "tests/ptx/exec_lanes.h"
#include "tests/ptx/half.h"

namespace lanyard::ptx::LANYARD_PTX_ISA {

namespace {

bool AllHere(Warp& w, const Op& op, uint32_t mask) {
  if (!Arrive(w, op, mask, kAllLanes)) return false;
  if (mask != kAllLanes) {
    FailLanes(w, op, mask);
    return false;
  }
  ++w.launch->counters->mma;
  return true;
}

// The bytes of a lane's register as four 16-bit values in 64 bits.
inline uint64_t Widen(uint32_t bytes, bool is_signed) {
#ifdef __AVX2__
  const __m128i v = _mm_cvtsi32_si128(static_cast<int>(bytes));
  return static_cast<uint64_t>(
      _mm_cvtsi128_si64(is_signed ? _mm_cvtepi8_epi16(v) : _mm_cvtepu8_epi16(v)));
#else
  uint64_t wide = 0;
  for (uint32_t j = 0; j < 4; ++j) {
    const auto byte = static_cast<uint8_t>(bytes >> (8 * j));
    const auto value =
        is_signed ? static_cast<int16_t>(static_cast<int8_t>(byte)) : static_cast<int16_t>(byte);
    wide |= uint64_t{static_cast<uint16_t>(value)} << (16 * j);
  }
  return wide;
#endif
}

// kRows 8 or 16, kDepth 16 or 32 (bytes). Registers in aux: d, a, b, c. A lane is row/column lane /
// 4 and four bytes at lane % 4 * 4; op.mode: bit 0 a signed, bit 1 b signed.
template <uint32_t kRows, uint32_t kDepth>
void Integer(Warp& w, const Op& op, uint32_t mask) {
  if (!AllHere(w, op, mask)) return;
  constexpr uint32_t kHalves = kDepth / 16, kParts = kRows / 8;
  const uint32_t* aux = w.launch->program->aux.data() + op.target;
  const uint32_t* d = aux;
  const uint32_t* a = d + 2 * kParts;
  const uint32_t* b = a + kParts * kHalves;
  const uint32_t* c = b + kHalves;
  alignas(64) int16_t rows[kRows][kDepth];
  // Pairs along k of all 8 columns beside one another: what a 16-bit multiply-add of pairs wants.
  alignas(64) int16_t pairs[kDepth / 2][8][2];
  for (uint32_t i = 0; i < 32; ++i) {
    const uint32_t g = i >> 2, t = i & 3u;
    for (uint32_t h = 0; h < kHalves; ++h) {
      for (uint32_t p = 0; p < kParts; ++p) {
        const uint64_t wide = Widen(w.R<uint32_t>(a[h * kParts + p])[i], op.mode & 1);
        __builtin_memcpy(&rows[g + 8 * p][16 * h + 4 * t], &wide, 8);
      }
      const uint64_t wide = Widen(w.R<uint32_t>(b[h])[i], op.mode & 2);
      const auto low = static_cast<uint32_t>(wide), high = static_cast<uint32_t>(wide >> 32);
      __builtin_memcpy(pairs[8 * h + 2 * t][g], &low, 4);
      __builtin_memcpy(pairs[8 * h + 2 * t + 1][g], &high, 4);
    }
  }
  alignas(64) uint32_t sums[kRows][8];
  for (uint32_t m = 0; m < kRows; ++m) {
#ifdef __AVX2__
    __m256i total = _mm256_setzero_si256();
    for (uint32_t k = 0; k < kDepth / 2; ++k) {
      int32_t pair;
      __builtin_memcpy(&pair, &rows[m][2 * k], 4);
      const __m256i other = _mm256_load_si256(reinterpret_cast<const __m256i*>(pairs[k]));
      total = _mm256_add_epi32(total, _mm256_madd_epi16(_mm256_set1_epi32(pair), other));
    }
    _mm256_store_si256(reinterpret_cast<__m256i*>(sums[m]), total);
#else
    for (uint32_t n = 0; n < 8; ++n) {
      int32_t total = 0;
      for (uint32_t k = 0; k < kDepth / 2; ++k)
        total += rows[m][2 * k] * pairs[k][n][0] + rows[m][2 * k + 1] * pairs[k][n][1];
      sums[m][n] = static_cast<uint32_t>(total);
    }
#endif
  }
  for (uint32_t p = 0; p < kParts; ++p) {
    for (uint32_t j = 0; j < 2; ++j) {
      const uint32_t* from = w.R<uint32_t>(c[2 * p + j]);
      uint32_t* to = w.R<uint32_t>(d[2 * p + j]);
      for (uint32_t i = 0; i < 32; ++i) to[i] = from[i] + sums[(i >> 2) + 8 * p][2 * (i & 3u) + j];
    }
  }
}

// m16n8k16 (kDepth 16) and m16n8k8 of f16 into f32.
template <uint32_t kDepth>
void Halves(Warp& w, const Op& op, uint32_t mask) {
  if (!AllHere(w, op, mask)) return;
  constexpr uint32_t kHalves = kDepth / 8;
  const uint32_t* d = w.launch->program->aux.data() + op.target;
  const uint32_t* a = d + 4;
  const uint32_t* b = a + 2 * kHalves;
  const uint32_t* c = b + kHalves;
  float rows[16][kDepth], columns[8][kDepth];
  for (uint32_t i = 0; i < 32; ++i) {
    const uint32_t g = i >> 2, t = i & 3u;
    for (uint32_t h = 0; h < kHalves; ++h) {
      for (uint32_t j = 0; j < 2; ++j) {
        const uint32_t k = 8 * h + 2 * t + j;
        for (uint32_t p = 0; p < 2; ++p) {
          rows[g + 8 * p][k] =
              HalfToFloat(static_cast<uint16_t>(w.R<uint32_t>(a[2 * h + p])[i] >> (16 * j)));
        }
        columns[g][k] = HalfToFloat(static_cast<uint16_t>(w.R<uint32_t>(b[h])[i] >> (16 * j)));
      }
    }
  }
  for (uint32_t p = 0; p < 2; ++p) {
    for (uint32_t j = 0; j < 2; ++j) {
      const float* from = w.R<float>(c[2 * p + j]);
      float* to = w.R<float>(d[2 * p + j]);
      for (uint32_t i = 0; i < 32; ++i) {
        float total = from[i];
        for (uint32_t k = 0; k < kDepth; ++k)
          total = __builtin_fmaf(rows[(i >> 2) + 8 * p][k], columns[2 * (i & 3u) + j][k], total);
        to[i] = total != total ? BitsToFloat(kFloatNan) : total;
      }
    }
  }
}

}  // namespace

void AddMmaHandlers(OpTable* t) {
  t->special.mma_s8_8x16 = Integer<8, 16>;
  t->special.mma_s8_16x16 = Integer<16, 16>;
  t->special.mma_s8_16x32 = Integer<16, 32>;
  t->special.mma_f16_8 = Halves<8>;
  t->special.mma_f16_16 = Halves<16>;
}

}  // namespace lanyard::ptx::LANYARD_PTX_ISA
