// cvt: the frequent conversions as loops over lanes, every other pair of types by one careful
// scalar function.
#include "tests/ptx/convert.h"
#include "tests/ptx/exec_lanes.h"
#include "tests/ptx/half.h"

namespace lanyard::ptx::LANYARD_PTX_ISA {

namespace {

struct Cast32 {
  template <typename T>
  float operator()(T a) const {
    return static_cast<float>(a);
  }
};

// A 16-bit destination keeps 16 of a sign-extended byte.
template <typename D, typename S>
struct CastTo {
  D operator()(S a) const { return static_cast<D>(a); }
};
template <typename D, typename S>
struct CastByte {
  int16_t operator()(S a) const { return static_cast<int16_t>(static_cast<int8_t>(a)); }
};

template <typename D, typename S>
void AddInteger(OpTable* t, const char* key, const char* suffix) {
  const bool wide_d = sizeof(D) == 8, wide_s = sizeof(S) == 8;
  const char* signature = wide_d ? (wide_s ? "ll" : "lw") : (wide_s ? "wl" : "ww");
  const OpSpec spec = {key, Map1<CastTo<D, S>, D, S>, signature, kPlain, 0, 0, suffix};
  t->Add(&spec, 1);
}
template <typename D>
void AddIntegers(OpTable* t, const char* key) {
  AddInteger<D, uint8_t>(t, key, ".u8");
  AddInteger<D, int8_t>(t, key, ".s8");
  AddInteger<D, uint16_t>(t, key, ".u16");
  AddInteger<D, int16_t>(t, key, ".s16");
  AddInteger<D, uint32_t>(t, key, ".u32");
  AddInteger<D, int32_t>(t, key, ".s32");
  AddInteger<D, uint64_t>(t, key, ".u64");
  AddInteger<D, int64_t>(t, key, ".s64");
}

#ifdef __AVX2__
void HalfToFloats(Warp& w, const Op& op, uint32_t mask) {
  const uint32_t* a = w.R<uint32_t>(op.src[0]);
  alignas(32) uint32_t result[32];
  for (int i = 0; i < 32; i += 8) {
    const __m256i v = _mm256_and_si256(_mm256_loadu_si256(reinterpret_cast<const __m256i*>(a + i)),
                                       _mm256_set1_epi32(0xffff));
    const __m256i packed = _mm256_permute4x64_epi64(_mm256_packus_epi32(v, v), 0xd8);
    const __m256 f = _mm256_cvtph_ps(_mm256_castsi256_si128(packed));
    const __m256 nan = _mm256_cmp_ps(f, f, _CMP_UNORD_Q);
    const __m256 canonical = _mm256_castsi256_ps(_mm256_set1_epi32(static_cast<int>(kFloatNan)));
    _mm256_store_ps(reinterpret_cast<float*>(result + i), _mm256_blendv_ps(f, canonical, nan));
  }
  SetLanes(w.R<uint32_t>(op.dst), mask, [&](uint32_t i) { return result[i]; });
}
void FloatsToHalf(Warp& w, const Op& op, uint32_t mask) {
  const float* a = w.R<float>(op.src[0]);
  alignas(32) uint32_t result[32];
  for (int i = 0; i < 32; i += 8) {
    const __m256 f = _mm256_loadu_ps(a + i);
    const __m256i h =
        _mm256_cvtepu16_epi32(_mm256_cvtps_ph(f, _MM_FROUND_TO_NEAREST_INT | _MM_FROUND_NO_EXC));
    const __m256i nan = _mm256_castps_si256(_mm256_cmp_ps(f, f, _CMP_UNORD_Q));
    _mm256_store_si256(reinterpret_cast<__m256i*>(result + i),
                       _mm256_blendv_epi8(h, _mm256_set1_epi32(kHalfNan), nan));
  }
  SetLanes(w.R<uint32_t>(op.dst), mask, [&](uint32_t i) { return result[i]; });
}
#else
struct ToFloat {
  float operator()(uint16_t a) const { return HalfToFloat(a); }
};
struct ToHalf {
  uint16_t operator()(float a) const { return DoubleToHalf(double{a}, Rounding::kNearest); }
};
constexpr Handler HalfToFloats = Map1<ToFloat, float, uint16_t>;
constexpr Handler FloatsToHalf = Map1<ToHalf, uint16_t, float>;
#endif

struct Widen {
  double operator()(float a) const {
    return a != a ? __builtin_bit_cast(double, kDoubleNan) : double{a};
  }
};
struct Narrow {
  float operator()(double a) const {
    return a != a ? __builtin_bit_cast(float, kFloatNan) : static_cast<float>(a);
  }
};
// Out of range is clamped, NaN is 0.
struct TruncateS32 {
  int32_t operator()(float a) const {
    const bool low = a < -0x1p31f, high = a >= 0x1p31f, nan = a != a;
    const auto inside = static_cast<int32_t>(low || high || nan ? 0.0f : a);
    return low ? INT32_MIN : high ? INT32_MAX : inside;
  }
};
// Nearest even by the sum with 1.5 * 2^23, exact below 2^22; larger ones (rare) by the slow way.
struct NearestS32 {
  int32_t operator()(float a) const {
    const bool small = __builtin_fabsf(a) < 0x1p22f;
    const float in = small ? a : 0.0f;
    const float rounded = (in + 0x1.8p23f) - 0x1.8p23f;
    return small ? static_cast<int32_t>(rounded)
                 : TruncateS32()(a >= 0x1p23f || a <= -0x1p23f ? a : __builtin_rintf(a));
  }
};

constexpr OpSpec kRows[] = {
    // A signed byte in a register of 16 bits.
    {"cvt.s8/16.s32", Map1<CastByte<int16_t, int32_t>, int16_t, int32_t>, "ww"},
    {"cvt.s8/16.u32", Map1<CastByte<int16_t, uint32_t>, int16_t, uint32_t>, "ww"},
    {"cvt.s8/16.s16", Map1<CastByte<int16_t, int16_t>, int16_t, int16_t>, "ww"},
    {"cvt.s8/16.u16", Map1<CastByte<int16_t, uint16_t>, int16_t, uint16_t>, "ww"},
    {"cvt.s8/16.s64", Map1<CastByte<int16_t, int64_t>, int16_t, int64_t>, "wl"},
    {"cvt.s8/16.u64", Map1<CastByte<int16_t, uint64_t>, int16_t, uint64_t>, "wl"},
    {"cvt.s8/16.s8", Map1<CastByte<int16_t, int8_t>, int16_t, int8_t>, "ww"},
    {"cvt.s8/16.u8", Map1<CastByte<int16_t, uint8_t>, int16_t, uint8_t>, "ww"},
    {"cvt.rn.f32.s32", Map1<Cast32, float, int32_t>, "ww"},
    {"cvt.rn.f32.u32", Map1<Cast32, float, uint32_t>, "ww"},
    {"cvt.rn.f32.s16", Map1<Cast32, float, int16_t>, "ww"},
    {"cvt.rn.f32.u16", Map1<Cast32, float, uint16_t>, "ww"},
    {"cvt.rn.f32.s8", Map1<Cast32, float, int8_t>, "ww"},
    {"cvt.rn.f32.u8", Map1<Cast32, float, uint8_t>, "ww"},
    {"cvt.rzi.s32.f32", Map1<TruncateS32, int32_t, float>, "ww"},
    {"cvt.rni.s32.f32", Map1<NearestS32, int32_t, float>, "ww"},
    {"cvt.f32.f16", HalfToFloats, "ww"},
    {"cvt.rn.f16.f32", FloatsToHalf, "ww"},
    {"cvt.f64.f32", Map1<Widen, double, float>, "lw", kFp64},
    {"cvt.rn.f32.f64", Map1<Narrow, float, double>, "wl", kFp64},
};

}  // namespace

void AddConvertRows(OpTable* t) {
  AddIntegers<uint8_t>(t, "cvt.u8");
  AddIntegers<int8_t>(t, "cvt.s8");
  AddIntegers<uint16_t>(t, "cvt.u16");
  AddIntegers<int16_t>(t, "cvt.s16");
  AddIntegers<uint32_t>(t, "cvt.u32");
  AddIntegers<int32_t>(t, "cvt.s32");
  AddIntegers<uint64_t>(t, "cvt.u64");
  AddIntegers<int64_t>(t, "cvt.s64");
  t->Add(kRows, sizeof(kRows) / sizeof(kRows[0]));
}

}  // namespace lanyard::ptx::LANYARD_PTX_ISA
