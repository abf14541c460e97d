// The vector twins of ops/math.h over a lane type L, operation for operation.
#pragma once

#include "engine/ops/math.h"

namespace lanyard::ops {
namespace {

template <typename L>
struct MathOps {
  using F = typename L::F;

  static F Exp(F x) {
    const F lo = L::Set(kExpMin);
    const F hi = L::Set(kExpMax);
    const F c = L::Min(L::Max(x, lo), hi);
    const F t = L::Fma(c, L::Set(kExpLog2E), L::Set(kExpMagic));
    const F n = L::Sub(t, L::Set(kExpMagic));
    F r = L::Fma(n, L::Set(-kExpLn2Hi), c);
    r = L::Fma(n, L::Set(-kExpLn2Lo), r);
    F p = L::Set(kExpC[0]);
    p = L::Fma(p, r, L::Set(kExpC[1]));
    p = L::Fma(p, r, L::Set(kExpC[2]));
    p = L::Fma(p, r, L::Set(kExpC[3]));
    p = L::Fma(p, r, L::Set(kExpC[4]));
    p = L::Fma(p, r, L::Set(kExpC[5]));
    p = L::Fma(p, L::Mul(r, r), r);
    p = L::Add(p, L::Set(1.0f));
    F y = L::AddExponent(p, t);
    y = L::IfLess(x, lo, L::Set(0.0f), y);
    y = L::IfGreater(x, hi, L::Set(__builtin_inff()), y);
    return L::IfNan(x, x, y);
  }

  static F Silu(F x) { return L::Div(x, L::Add(L::Set(1.0f), Exp(L::Neg(x)))); }

  static F Gelu(F x) {
    const F inner = L::Mul(x, L::Fma(L::Mul(x, x), L::Set(kGeluA), L::Set(1.0f)));
    return L::Div(x, L::Add(L::Set(1.0f), Exp(L::Mul(inner, L::Set(kGeluB)))));
  }
};

}  // namespace
}  // namespace lanyard::ops
