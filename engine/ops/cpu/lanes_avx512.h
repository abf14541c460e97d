// Sixteen f32 lanes as one AVX-512 register. Only *_avx512.cc files include it. The contract is
// that of lanes_avx2.h.
#pragma once

#include <immintrin.h>

#include <cstdint>

namespace lanyard::ops {
namespace {

struct LanesAvx512 {
  using F = __m512;
  // The rows of queries that one step of attention shares, chosen by the number of registers.
  static constexpr int kScoreRows = 6;
  static constexpr int kValueRows = 4;
  static constexpr int kValueVecs = 4;

  static F Set(float x) { return _mm512_set1_ps(x); }
  static F Load(const float* p) { return _mm512_loadu_ps(p); }
  static void Store(float* p, F x) { _mm512_storeu_ps(p, x); }
  static __mmask16 MaskN(int n) { return static_cast<__mmask16>((1u << n) - 1); }
  static F LoadN(const float* p, int n) { return _mm512_maskz_loadu_ps(MaskN(n), p); }
  static void StoreN(float* p, F x, int n) { _mm512_mask_storeu_ps(p, MaskN(n), x); }
  static F LoadF16(const uint16_t* p) {
    return _mm512_cvtph_ps(_mm256_loadu_si256(reinterpret_cast<const __m256i*>(p)));
  }
  static void StoreF16(uint16_t* p, F x) {
    _mm256_storeu_si256(reinterpret_cast<__m256i*>(p),
                        _mm512_cvtps_ph(x, _MM_FROUND_TO_NEAREST_INT));
  }
  static F RoundF16(F x) { return _mm512_cvtph_ps(_mm512_cvtps_ph(x, _MM_FROUND_TO_NEAREST_INT)); }
  static F LoadI8(const int8_t* p) {
    return _mm512_cvtepi32_ps(
        _mm512_cvtepi8_epi32(_mm_loadu_si128(reinterpret_cast<const __m128i*>(p))));
  }
  static F Add(F x, F y) { return _mm512_add_ps(x, y); }
  static F Sub(F x, F y) { return _mm512_sub_ps(x, y); }
  static F Mul(F x, F y) { return _mm512_mul_ps(x, y); }
  static F Div(F x, F y) { return _mm512_div_ps(x, y); }
  static F Fma(F x, F y, F z) { return _mm512_fmadd_ps(x, y, z); }
  static F Max(F x, F y) { return _mm512_max_ps(x, y); }
  static F Min(F x, F y) { return _mm512_min_ps(x, y); }
  static F Abs(F x) { return _mm512_abs_ps(x); }
  static F Neg(F x) { return _mm512_xor_ps(x, _mm512_set1_ps(-0.0f)); }
  static F Range(int lo, int hi, F x, F y) {
    const uint32_t below_hi = hi >= 16 ? 0xffffu : hi <= 0 ? 0u : (1u << hi) - 1;
    const uint32_t below_lo = lo >= 16 ? 0xffffu : lo <= 0 ? 0u : (1u << lo) - 1;
    return _mm512_mask_blend_ps(static_cast<__mmask16>(below_hi & ~below_lo), y, x);
  }
  template <int kOp>
  static F Select(F x, F y, F then, F other) {
    return _mm512_mask_blend_ps(_mm512_cmp_ps_mask(x, y, kOp), other, then);
  }
  static F IfLess(F x, F y, F then, F other) { return Select<_CMP_LT_OQ>(x, y, then, other); }
  static F IfGreater(F x, F y, F then, F other) { return Select<_CMP_GT_OQ>(x, y, then, other); }
  static F IfNan(F x, F then, F other) { return Select<_CMP_UNORD_Q>(x, x, then, other); }
  static bool AllFinite(F x) {
    return _mm512_cmp_ps_mask(Abs(x), _mm512_set1_ps(__builtin_inff()), _CMP_LT_OQ) == 0xffff;
  }
  static F AddExponent(F p, F t) {
    return _mm512_castsi512_ps(
        _mm512_add_epi32(_mm512_castps_si512(p), _mm512_slli_epi32(_mm512_castps_si512(t), 23)));
  }
  static F SwapPairs(F x) { return _mm512_permute_ps(x, 0xb1); }
  static float Sum(F x) {
    const __m256 t8 = _mm256_add_ps(_mm512_castps512_ps256(x), _mm512_extractf32x8_ps(x, 1));
    const __m128 t4 = _mm_add_ps(_mm256_castps256_ps128(t8), _mm256_extractf128_ps(t8, 1));
    const __m128 t2 = _mm_add_ps(t4, _mm_movehl_ps(t4, t4));
    return _mm_cvtss_f32(_mm_add_ss(t2, _mm_shuffle_ps(t2, t2, 1)));
  }
  static float HMax(F x) {
    const __m256 t8 = _mm256_max_ps(_mm512_castps512_ps256(x), _mm512_extractf32x8_ps(x, 1));
    const __m128 t4 = _mm_max_ps(_mm256_castps256_ps128(t8), _mm256_extractf128_ps(t8, 1));
    const __m128 t2 = _mm_max_ps(t4, _mm_movehl_ps(t4, t4));
    return _mm_cvtss_f32(_mm_max_ss(t2, _mm_shuffle_ps(t2, t2, 1)));
  }
};

}  // namespace
}  // namespace lanyard::ops
