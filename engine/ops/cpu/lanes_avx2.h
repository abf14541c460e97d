// Sixteen f32 lanes as two AVX2 registers. Only *_avx2.cc files include it. The contract is that of
// lanes_avx512.h.
#pragma once

#include <immintrin.h>

#include <cstdint>

namespace lanyard::ops {
namespace {

struct LanesAvx2 {
  struct F {
    __m256 a, b;
  };
  // The rows of queries that one step of attention shares, chosen by the number of registers.
  static constexpr int kScoreRows = 2;
  static constexpr int kValueRows = 2;
  static constexpr int kValueVecs = 2;

  static F Set(float x) { return {_mm256_set1_ps(x), _mm256_set1_ps(x)}; }
  static F Load(const float* p) { return {_mm256_loadu_ps(p), _mm256_loadu_ps(p + 8)}; }
  static void Store(float* p, F x) {
    _mm256_storeu_ps(p, x.a);
    _mm256_storeu_ps(p + 8, x.b);
  }
  static __m256i Mask8(int n) {
    return _mm256_cmpgt_epi32(_mm256_set1_epi32(n), _mm256_setr_epi32(0, 1, 2, 3, 4, 5, 6, 7));
  }
  // Loads the first n lanes; the others are 0 and their memory is not touched.
  static F LoadN(const float* p, int n) {
    return {_mm256_maskload_ps(p, Mask8(n)),
            n > 8 ? _mm256_maskload_ps(p + 8, Mask8(n - 8)) : _mm256_setzero_ps()};
  }
  static void StoreN(float* p, F x, int n) {
    _mm256_maskstore_ps(p, Mask8(n), x.a);
    if (n > 8) _mm256_maskstore_ps(p + 8, Mask8(n - 8), x.b);
  }
  static F LoadF16(const uint16_t* p) {
    return {_mm256_cvtph_ps(_mm_loadu_si128(reinterpret_cast<const __m128i*>(p))),
            _mm256_cvtph_ps(_mm_loadu_si128(reinterpret_cast<const __m128i*>(p + 8)))};
  }
  static void StoreF16(uint16_t* p, F x) {
    _mm_storeu_si128(reinterpret_cast<__m128i*>(p),
                     _mm256_cvtps_ph(x.a, _MM_FROUND_TO_NEAREST_INT));
    _mm_storeu_si128(reinterpret_cast<__m128i*>(p + 8),
                     _mm256_cvtps_ph(x.b, _MM_FROUND_TO_NEAREST_INT));
  }
  static F RoundF16(F x) {
    return {_mm256_cvtph_ps(_mm256_cvtps_ph(x.a, _MM_FROUND_TO_NEAREST_INT)),
            _mm256_cvtph_ps(_mm256_cvtps_ph(x.b, _MM_FROUND_TO_NEAREST_INT))};
  }
  static F LoadI8(const int8_t* p) {
    const __m128i x = _mm_loadu_si128(reinterpret_cast<const __m128i*>(p));
    return {_mm256_cvtepi32_ps(_mm256_cvtepi8_epi32(x)),
            _mm256_cvtepi32_ps(_mm256_cvtepi8_epi32(_mm_srli_si128(x, 8)))};
  }
  static F Add(F x, F y) { return {_mm256_add_ps(x.a, y.a), _mm256_add_ps(x.b, y.b)}; }
  static F Sub(F x, F y) { return {_mm256_sub_ps(x.a, y.a), _mm256_sub_ps(x.b, y.b)}; }
  static F Mul(F x, F y) { return {_mm256_mul_ps(x.a, y.a), _mm256_mul_ps(x.b, y.b)}; }
  static F Div(F x, F y) { return {_mm256_div_ps(x.a, y.a), _mm256_div_ps(x.b, y.b)}; }
  static F Fma(F x, F y, F z) {
    return {_mm256_fmadd_ps(x.a, y.a, z.a), _mm256_fmadd_ps(x.b, y.b, z.b)};
  }
  // x > y ? x : y and x < y ? x : y; y when either is NaN.
  static F Max(F x, F y) { return {_mm256_max_ps(x.a, y.a), _mm256_max_ps(x.b, y.b)}; }
  static F Min(F x, F y) { return {_mm256_min_ps(x.a, y.a), _mm256_min_ps(x.b, y.b)}; }
  static F Abs(F x) {
    const __m256 sign = _mm256_set1_ps(-0.0f);
    return {_mm256_andnot_ps(sign, x.a), _mm256_andnot_ps(sign, x.b)};
  }
  static F Neg(F x) {
    const __m256 sign = _mm256_set1_ps(-0.0f);
    return {_mm256_xor_ps(sign, x.a), _mm256_xor_ps(sign, x.b)};
  }
  // Gives lo <= lane < hi ? x : y.
  static F Range(int lo, int hi, F x, F y) {
    const __m256i i0 = _mm256_setr_epi32(0, 1, 2, 3, 4, 5, 6, 7);
    const __m256i i1 = _mm256_add_epi32(i0, _mm256_set1_epi32(8));
    const __m256i l = _mm256_set1_epi32(lo - 1), h = _mm256_set1_epi32(hi);
    const __m256i m0 = _mm256_and_si256(_mm256_cmpgt_epi32(i0, l), _mm256_cmpgt_epi32(h, i0));
    const __m256i m1 = _mm256_and_si256(_mm256_cmpgt_epi32(i1, l), _mm256_cmpgt_epi32(h, i1));
    return {_mm256_blendv_ps(y.a, x.a, _mm256_castsi256_ps(m0)),
            _mm256_blendv_ps(y.b, x.b, _mm256_castsi256_ps(m1))};
  }
  template <int kOp>
  static F Select(F x, F y, F then, F other) {
    return {_mm256_blendv_ps(other.a, then.a, _mm256_cmp_ps(x.a, y.a, kOp)),
            _mm256_blendv_ps(other.b, then.b, _mm256_cmp_ps(x.b, y.b, kOp))};
  }
  static F IfLess(F x, F y, F then, F other) { return Select<_CMP_LT_OQ>(x, y, then, other); }
  static F IfGreater(F x, F y, F then, F other) { return Select<_CMP_GT_OQ>(x, y, then, other); }
  static F IfNan(F x, F then, F other) { return Select<_CMP_UNORD_Q>(x, x, then, other); }
  static bool AllFinite(F x) {
    const __m256 inf = _mm256_set1_ps(__builtin_inff());
    const F a = Abs(x);
    return _mm256_movemask_ps(_mm256_and_ps(_mm256_cmp_ps(a.a, inf, _CMP_LT_OQ),
                                            _mm256_cmp_ps(a.b, inf, _CMP_LT_OQ))) == 0xff;
  }
  // Adds the bits of t, shifted left by 23, to the bits of p.
  static F AddExponent(F p, F t) {
    return {_mm256_castsi256_ps(_mm256_add_epi32(_mm256_castps_si256(p.a),
                                                 _mm256_slli_epi32(_mm256_castps_si256(t.a), 23))),
            _mm256_castsi256_ps(_mm256_add_epi32(_mm256_castps_si256(p.b),
                                                 _mm256_slli_epi32(_mm256_castps_si256(t.b), 23)))};
  }
  // Lanes 2i and 2i+1 change places.
  static F SwapPairs(F x) { return {_mm256_permute_ps(x.a, 0xb1), _mm256_permute_ps(x.b, 0xb1)}; }
  // Adds lanes i and i+8, then i+4, i+2, i+1.
  static float Sum(F x) {
    const __m256 t8 = _mm256_add_ps(x.a, x.b);
    const __m128 t4 = _mm_add_ps(_mm256_castps256_ps128(t8), _mm256_extractf128_ps(t8, 1));
    const __m128 t2 = _mm_add_ps(t4, _mm_movehl_ps(t4, t4));
    return _mm_cvtss_f32(_mm_add_ss(t2, _mm_shuffle_ps(t2, t2, 1)));
  }
  static float HMax(F x) {
    const __m256 t8 = _mm256_max_ps(x.a, x.b);
    const __m128 t4 = _mm_max_ps(_mm256_castps256_ps128(t8), _mm256_extractf128_ps(t8, 1));
    const __m128 t2 = _mm_max_ps(t4, _mm_movehl_ps(t4, t4));
    return _mm_cvtss_f32(_mm_max_ss(t2, _mm_shuffle_ps(t2, t2, 1)));
  }
};

}  // namespace
}  // namespace lanyard::ops
