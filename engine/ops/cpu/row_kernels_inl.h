// The row operations over sixteen lanes, for any lane type L (lanes_avx2.h, lanes_avx512.h). Each
// function follows the scalar reference in ops/row_kernels.cc step by step.
#pragma once

#include "base/half.h"
#include "engine/ops/cpu/math_inl.h"
#include "engine/ops/row_kernels.h"

namespace lanyard::ops {
namespace {

template <typename L>
struct RowOps {
  using F = typename L::F;

  static float InverseRms(const float* x, int64_t n, float eps) {
    F sum = L::Set(0.0f);
    int64_t i = 0;
    for (; i + 16 <= n; i += 16) {
      const F v = L::Load(x + i);
      sum = L::Fma(v, v, sum);
    }
    if (i < n) {
      const F v = L::LoadN(x + i, static_cast<int>(n - i));
      sum = L::Fma(v, v, sum);
    }
    const float mean = L::Sum(sum) / static_cast<float>(n);
    return 1.0f / __builtin_sqrtf(mean + eps);
  }

  static float MaxMagnitude(const float* x, int64_t n) {
    F max = L::Set(0.0f);
    int64_t i = 0;
    for (; i + 16 <= n; i += 16) max = L::Max(L::Abs(L::Load(x + i)), max);
    if (i < n) max = L::Max(L::Abs(L::LoadN(x + i, static_cast<int>(n - i))), max);
    return L::HMax(max);
  }

  // Makes y[i] = fn(i, lanes of the inputs at i) for all i; Fn is F(int64_t i, int lanes).
  template <typename Fn>
  static void Each(float* y, int64_t n, const Fn& fn) {
    int64_t i = 0;
    for (; i + 16 <= n; i += 16) L::Store(y + i, fn(i, 16));
    if (i < n) L::StoreN(y + i, fn(i, static_cast<int>(n - i)), static_cast<int>(n - i));
  }
  static F Get(const float* x, int lanes) { return lanes == 16 ? L::Load(x) : L::LoadN(x, lanes); }

  static void Residual(const ResidualRows& args, int64_t begin, int64_t end) {
    const int64_t n = args.n;
    for (int64_t r = begin; r < end; ++r) {
      float* x = args.x + r * n;
      if (args.delta != nullptr) {
        const float* delta = args.delta + r * n;
        if (args.delta_norm != nullptr) {
          const F scale = L::Set(InverseRms(delta, n, args.eps));
          Each(x, n, [&](int64_t i, int m) {
            const F d = L::Mul(L::Mul(Get(delta + i, m), scale), Get(args.delta_norm + i, m));
            return L::Add(Get(x + i, m), d);
          });
        } else {
          Each(x, n, [&](int64_t i, int m) { return L::Add(Get(x + i, m), Get(delta + i, m)); });
        }
      }
      if (args.round_f16) {
        const int e = HalfRowExponent(MaxMagnitude(x, n));
        const F down = L::Set(PowerOfTwo(-e));
        const F up = L::Set(PowerOfTwo(e));
        Each(x, n, [&](int64_t i, int m) {
          return L::Mul(L::RoundF16(L::Mul(Get(x + i, m), down)), up);
        });
      }
      if (args.norm != nullptr) {
        const F scale = L::Set(InverseRms(x, n, args.eps));
        Each(args.out + r * n, n, [&](int64_t i, int m) {
          return L::Mul(L::Mul(Get(x + i, m), scale), Get(args.norm + i, m));
        });
      }
    }
  }

  static int EncodeHalf(const float* x, int64_t n, uint16_t* out) {
    const int e = HalfRowExponent(MaxMagnitude(x, n));
    const float down = PowerOfTwo(-e);
    int64_t i = 0;
    for (; i + 16 <= n; i += 16) L::StoreF16(out + i, L::Mul(L::Load(x + i), L::Set(down)));
    for (; i < n; ++i) {
      const uint16_t half = FloatToHalf(x[i] * down);
      __builtin_memcpy(reinterpret_cast<uint8_t*>(out) + 2 * i, &half, 2);
    }
    return e;
  }

  static bool DecodeHalf(const uint16_t* in, int exponent, int64_t n, float* x) {
    if (exponent < kHalfRowExponentMin || exponent > kHalfRowExponentMax) return false;
    const float up = PowerOfTwo(exponent);
    bool finite = true;
    int64_t i = 0;
    for (; i + 16 <= n; i += 16) {
      const F v = L::Mul(L::LoadF16(in + i), L::Set(up));
      finite = finite && L::AllFinite(v);
      L::Store(x + i, v);
    }
    for (; i < n; ++i) {
      uint16_t half;
      __builtin_memcpy(&half, reinterpret_cast<const uint8_t*>(in) + 2 * i, 2);
      x[i] = HalfToFloat(half) * up;
      finite = finite && __builtin_isfinite(x[i]);
    }
    return finite;
  }

  static bool AllFinite(const float* x, int64_t n) {
    bool finite = true;
    int64_t i = 0;
    for (; i + 16 <= n; i += 16) finite = finite && L::AllFinite(L::Load(x + i));
    if (i < n) finite = finite && L::AllFinite(L::LoadN(x + i, static_cast<int>(n - i)));
    return finite;
  }

  static void Scale(float* x, int64_t n, float scale) {
    const F s = L::Set(scale);
    Each(x, n, [&](int64_t i, int m) { return L::Mul(Get(x + i, m), s); });
  }

  static void SiluMul(float* gate, const float* up, int64_t n) {
    Each(gate, n, [&](int64_t i, int m) {
      return L::Mul(MathOps<L>::Silu(Get(gate + i, m)), Get(up + i, m));
    });
  }

  static void GeluMul(float* gate, const float* up, int64_t n) {
    Each(gate, n, [&](int64_t i, int m) {
      return L::Mul(MathOps<L>::Gelu(Get(gate + i, m)), Get(up + i, m));
    });
  }

  static float Max(const float* x, int64_t n) {
    F max = L::Set(-__builtin_inff());
    int64_t i = 0;
    for (; i + 16 <= n; i += 16) max = L::Max(L::Load(x + i), max);
    float out = L::HMax(max);
    for (; i < n; ++i) out = x[i] > out ? x[i] : out;
    return out;
  }

  static float ExpSum(const float* x, int64_t n, float max, float scale) {
    const F m = L::Set(max), s = L::Set(scale);
    F sum = L::Set(0.0f);
    int64_t i = 0;
    for (; i + 16 <= n; i += 16) {
      sum = L::Add(sum, MathOps<L>::Exp(L::Mul(L::Sub(L::Load(x + i), m), s)));
    }
    if (i < n) {
      const int left = static_cast<int>(n - i);
      const F e = MathOps<L>::Exp(L::Mul(L::Sub(L::LoadN(x + i, left), m), s));
      sum = L::Add(sum, L::Range(0, left, e, L::Set(0.0f)));
    }
    return L::Sum(sum);
  }

  static constexpr RowKernels kTable = {Residual, EncodeHalf, DecodeHalf, AllFinite, Scale,
                                        SiluMul,  GeluMul,    Max,        ExpSum};
};

}  // namespace
}  // namespace lanyard::ops
