// f32, f64 and f16 arithmetic: IEEE 754, denormals kept, each result rounded once. A NaN result is
// the one NaN that cards make (0x7fffffff in f32), whatever payload went in.
#include "tests/ptx/exec_lanes.h"
#include "tests/ptx/half.h"

namespace lanyard::ptx::LANYARD_PTX_ISA {

namespace {

inline __attribute__((always_inline)) float Canonical(float x) {
  return x != x ? __builtin_bit_cast(float, kFloatNan) : x;
}
inline __attribute__((always_inline)) double Canonical(double x) {
  return x != x ? __builtin_bit_cast(double, kDoubleNan) : x;
}

struct Add {
  template <typename T>
  T operator()(T a, T b) const {
    return Canonical(a + b);
  }
};
struct Sub {
  template <typename T>
  T operator()(T a, T b) const {
    return Canonical(a - b);
  }
};
struct Mul {
  template <typename T>
  T operator()(T a, T b) const {
    return Canonical(a * b);
  }
};
struct Div {
  template <typename T>
  T operator()(T a, T b) const {
    return Canonical(a / b);
  }
};
struct Rcp {
  template <typename T>
  T operator()(T a) const {
    return Canonical(T{1} / a);
  }
};
struct Sqrt {
  float operator()(float a) const { return Canonical(__builtin_sqrtf(a)); }
  double operator()(double a) const { return Canonical(__builtin_sqrt(a)); }
};
struct Fma {
  float operator()(float a, float b, float c) const { return Canonical(__builtin_fmaf(a, b, c)); }
  double operator()(double a, double b, double c) const {
    return Canonical(__builtin_fma(a, b, c));
  }
};
// The sign alone changes; a NaN keeps its payload.
struct Neg {
  float operator()(float a) const {
    return __builtin_bit_cast(float, __builtin_bit_cast(uint32_t, a) ^ 0x80000000u);
  }
  double operator()(double a) const {
    return __builtin_bit_cast(double, __builtin_bit_cast(uint64_t, a) ^ uint64_t{1} << 63);
  }
};
struct Abs {
  float operator()(float a) const {
    return __builtin_bit_cast(float, __builtin_bit_cast(uint32_t, a) & 0x7fffffffu);
  }
  double operator()(double a) const {
    return __builtin_bit_cast(double, __builtin_bit_cast(uint64_t, a) & ~(uint64_t{1} << 63));
  }
};
template <typename T>
inline bool Negative(T x) {
  if constexpr (sizeof(T) == 4)
    return __builtin_bit_cast(int32_t, x) < 0;
  else
    return __builtin_bit_cast(int64_t, x) < 0;
}
// The number if one is a NaN; -0 is below +0.
struct Min {
  template <typename T>
  T operator()(T a, T b) const {
    const T smaller = a < b ? a : b < a ? b : Negative(a) ? a : b;
    return a != a ? Canonical(b) : b != b ? a : smaller;
  }
};
struct Max {
  template <typename T>
  T operator()(T a, T b) const {
    const T larger = a > b ? a : b > a ? b : Negative(a) ? b : a;
    return a != a ? Canonical(b) : b != b ? a : larger;
  }
};
struct MinNan {
  template <typename T>
  T operator()(T a, T b) const {
    return a != a || b != b ? Canonical(a + b) : Min()(a, b);
  }
};
struct MaxNan {
  template <typename T>
  T operator()(T a, T b) const {
    return a != a || b != b ? Canonical(a + b) : Max()(a, b);
  }
};
struct CopySign {
  float operator()(float a, float b) const {  // b with a's sign
    return __builtin_bit_cast(float, (__builtin_bit_cast(uint32_t, b) & 0x7fffffffu) |
                                         (__builtin_bit_cast(uint32_t, a) & 0x80000000u));
  }
  double operator()(double a, double b) const { return __builtin_copysign(b, a); }
};

struct Eq {
  template <typename T>
  bool operator()(T a, T b) const {
    return a == b;
  }
};
struct Ne {
  template <typename T>
  bool operator()(T a, T b) const {
    return a < b || a > b;
  }
};
struct Lt {
  template <typename T>
  bool operator()(T a, T b) const {
    return a < b;
  }
};
struct Le {
  template <typename T>
  bool operator()(T a, T b) const {
    return a <= b;
  }
};
struct Gt {
  template <typename T>
  bool operator()(T a, T b) const {
    return a > b;
  }
};
struct Ge {
  template <typename T>
  bool operator()(T a, T b) const {
    return a >= b;
  }
};
struct Equ {
  template <typename T>
  bool operator()(T a, T b) const {
    return !(a < b || a > b);
  }
};
struct Neu {
  template <typename T>
  bool operator()(T a, T b) const {
    return !(a == b);
  }
};
struct Ltu {
  template <typename T>
  bool operator()(T a, T b) const {
    return !(a >= b);
  }
};
struct Leu {
  template <typename T>
  bool operator()(T a, T b) const {
    return !(a > b);
  }
};
struct Gtu {
  template <typename T>
  bool operator()(T a, T b) const {
    return !(a <= b);
  }
};
struct Geu {
  template <typename T>
  bool operator()(T a, T b) const {
    return !(a < b);
  }
};
struct Num {
  template <typename T>
  bool operator()(T a, T b) const {
    return a == a && b == b;
  }
};
struct Nan {
  template <typename T>
  bool operator()(T a, T b) const {
    return a != a || b != b;
  }
};

template <typename T>
void AddRows(OpTable* t, const char* type, uint8_t tally) {
  const bool wide = sizeof(T) == 8;
  const auto row = [&](const char* name, Handler run, const char* narrow,
                       const char* wide_signature) {
    const OpSpec spec = {name, run, wide ? wide_signature : narrow, tally, 0, 0, type};
    t->Add(&spec, 1);
  };
  row("add", Map2<Add, T, T, T>, "www", "lll");
  row("add.rn", Map2<Add, T, T, T>, "www", "lll");
  row("sub", Map2<Sub, T, T, T>, "www", "lll");
  row("sub.rn", Map2<Sub, T, T, T>, "www", "lll");
  row("mul", Map2<Mul, T, T, T>, "www", "lll");
  row("mul.rn", Map2<Mul, T, T, T>, "www", "lll");
  row("fma.rn", Map3<Fma, T, T, T, T>, "wwww", "llll");
  row("mad.rn", Map3<Fma, T, T, T, T>, "wwww", "llll");
  row("div.rn", Map2<Div, T, T, T>, "www", "lll");
  row("rcp.rn", Map1<Rcp, T, T>, "ww", "ll");
  row("sqrt.rn", Map1<Sqrt, T, T>, "ww", "ll");
  row("neg", Map1<Neg, T, T>, "ww", "ll");
  row("abs", Map1<Abs, T, T>, "ww", "ll");
  row("min", Map2<Min, T, T, T>, "www", "lll");
  row("max", Map2<Max, T, T, T>, "www", "lll");
  row("min.NaN", Map2<MinNan, T, T, T>, "www", "lll");
  row("max.NaN", Map2<MaxNan, T, T, T>, "www", "lll");
  row("copysign", Map2<CopySign, T, T, T>, "www", "lll");
  row("setp.eq", Compare<Eq, T>, "pww", "pll");
  row("setp.ne", Compare<Ne, T>, "pww", "pll");
  row("setp.lt", Compare<Lt, T>, "pww", "pll");
  row("setp.le", Compare<Le, T>, "pww", "pll");
  row("setp.gt", Compare<Gt, T>, "pww", "pll");
  row("setp.ge", Compare<Ge, T>, "pww", "pll");
  row("setp.equ", Compare<Equ, T>, "pww", "pll");
  row("setp.neu", Compare<Neu, T>, "pww", "pll");
  row("setp.ltu", Compare<Ltu, T>, "pww", "pll");
  row("setp.leu", Compare<Leu, T>, "pww", "pll");
  row("setp.gtu", Compare<Gtu, T>, "pww", "pll");
  row("setp.geu", Compare<Geu, T>, "pww", "pll");
  row("setp.num", Compare<Num, T>, "pww", "pll");
  row("setp.nan", Compare<Nan, T>, "pww", "pll");
}

// f16: exact in float or double, rounded once. op(a, b, c) on lane values; kPair: two in a
// register.
struct HAdd {
  uint16_t operator()(float a, float b, float) const {
    return DoubleToHalf(double{a} + double{b}, Rounding::kNearest);
  }
};
struct HSub {
  uint16_t operator()(float a, float b, float) const {
    return DoubleToHalf(double{a} - double{b}, Rounding::kNearest);
  }
};
struct HMul {
  uint16_t operator()(float a, float b, float) const {
    return DoubleToHalf(double{a} * double{b}, Rounding::kNearest);
  }
};
struct HFma {
  uint16_t operator()(float a, float b, float c) const {
    // The product is exact in double. Of the sum, the error that double rounding would make visible
    // is kept by rounding to odd.
    const double p = double{a} * double{b}, q = double{c};
    double s = p + q;
    const double v = s - p, error = (p - (s - v)) + (q - v);
    uint64_t bits = __builtin_bit_cast(uint64_t, s);
    if (error != 0 && (bits & 1u) == 0 && s - s == 0) {
      // The odd neighbour on the error's side.
      bits = (error > 0) == (s > 0) ? bits | 1u : bits - 1;
      s = __builtin_bit_cast(double, bits);
    }
    return DoubleToHalf(s, Rounding::kNearest);
  }
};
struct HMin {
  uint16_t operator()(float a, float b, float) const {
    return DoubleToHalf(double{Min()(a, b)}, Rounding::kNearest);
  }
};
struct HMax {
  uint16_t operator()(float a, float b, float) const {
    return DoubleToHalf(double{Max()(a, b)}, Rounding::kNearest);
  }
};

template <typename F, bool kPair, int kSources>
void Half(Warp& w, const Op& op, uint32_t mask) {
  const uint32_t* a = w.R<uint32_t>(op.src[0]);
  const uint32_t* b = kSources > 1 ? w.R<uint32_t>(op.src[1]) : a;
  const uint32_t* c = kSources > 2 ? w.R<uint32_t>(op.src[2]) : a;
  uint32_t* d = w.R<uint32_t>(op.dst);
  for (uint32_t i = 0; i < 32; ++i) {
    if ((mask >> i & 1u) == 0) continue;
    uint32_t result = 0;
    for (uint32_t shift = 0; shift < (kPair ? 32u : 16u); shift += 16) {
      const auto part = [shift](uint32_t v) {
        return HalfToFloat(static_cast<uint16_t>(v >> shift));
      };
      result |= uint32_t{F()(part(a[i]), part(b[i]), part(c[i]))} << shift;
    }
    d[i] = result;
  }
}
template <typename F>
void CompareHalf(Warp& w, const Op& op, uint32_t mask) {
  const uint32_t* a = w.R<uint32_t>(op.src[0]);
  const uint32_t* b = w.R<uint32_t>(op.src[1]);
  uint32_t result = 0;
  for (uint32_t i = 0; i < 32; ++i) {
    const bool is =
        F()(HalfToFloat(static_cast<uint16_t>(a[i])), HalfToFloat(static_cast<uint16_t>(b[i])));
    result |= uint32_t{is} << i;
  }
  SetPredicates(w, op, mask, result);
}
template <uint32_t kMask, bool kXor>
struct SignBits {
  uint32_t operator()(uint32_t a) const { return kXor ? a ^ kMask : a & ~kMask; }
};

// setp-like predicates of one float: op.mode 0 finite, 1 infinite, 2 number, 3 notanumber, 4
// normal, 5 subnormal.
void TestFloat(Warp& w, const Op& op, uint32_t mask) {
  uint32_t result = 0;
  for (uint32_t i = 0; i < 32; ++i) {
    const uint32_t magnitude = w.R<uint32_t>(op.src[0])[i] & 0x7fffffffu;
    const bool is[] = {magnitude<0x7f800000u, magnitude == 0x7f800000u, magnitude <= 0x7f800000u,
                                 magnitude> 0x7f800000u,
                       magnitude >= 0x00800000u && magnitude < 0x7f800000u,
                       magnitude != 0 && magnitude < 0x00800000u};
    result |= uint32_t{is[op.mode]} << i;
  }
  w.P(op.dst) = (w.P(op.dst) & ~mask) | (result & mask);
}

constexpr OpSpec kRows[] = {
    {"testp.finite.f32", TestFloat, "pw", kPlain, 0},
    {"testp.infinite.f32", TestFloat, "pw", kPlain, 1},
    {"testp.number.f32", TestFloat, "pw", kPlain, 2},
    {"testp.notanumber.f32", TestFloat, "pw", kPlain, 3},
    {"testp.normal.f32", TestFloat, "pw", kPlain, 4},
    {"testp.subnormal.f32", TestFloat, "pw", kPlain, 5},
    {"add.f16", Half<HAdd, false, 2>, "www"},
    {"add.rn.f16", Half<HAdd, false, 2>, "www"},
    {"sub.f16", Half<HSub, false, 2>, "www"},
    {"sub.rn.f16", Half<HSub, false, 2>, "www"},
    {"mul.f16", Half<HMul, false, 2>, "www"},
    {"mul.rn.f16", Half<HMul, false, 2>, "www"},
    {"fma.rn.f16", Half<HFma, false, 3>, "wwww"},
    {"add.f16x2", Half<HAdd, true, 2>, "www"},
    {"add.rn.f16x2", Half<HAdd, true, 2>, "www"},
    {"sub.f16x2", Half<HSub, true, 2>, "www"},
    {"sub.rn.f16x2", Half<HSub, true, 2>, "www"},
    {"mul.f16x2", Half<HMul, true, 2>, "www"},
    {"mul.rn.f16x2", Half<HMul, true, 2>, "www"},
    {"fma.rn.f16x2", Half<HFma, true, 3>, "wwww"},
    {"min.f16", Half<HMin, false, 2>, "www", kPlain, 0, 80},
    {"max.f16", Half<HMax, false, 2>, "www", kPlain, 0, 80},
    {"min.f16x2", Half<HMin, true, 2>, "www", kPlain, 0, 80},
    {"max.f16x2", Half<HMax, true, 2>, "www", kPlain, 0, 80},
    {"neg.f16", Map1<SignBits<0x8000, true>, uint32_t, uint32_t>, "ww"},
    {"neg.f16x2", Map1<SignBits<0x80008000, true>, uint32_t, uint32_t>, "ww"},
    {"abs.f16", Map1<SignBits<0x8000, false>, uint32_t, uint32_t>, "ww"},
    {"abs.f16x2", Map1<SignBits<0x80008000, false>, uint32_t, uint32_t>, "ww"},
    {"setp.eq.f16", CompareHalf<Eq>, "pww"},
    {"setp.ne.f16", CompareHalf<Ne>, "pww"},
    {"setp.lt.f16", CompareHalf<Lt>, "pww"},
    {"setp.le.f16", CompareHalf<Le>, "pww"},
    {"setp.gt.f16", CompareHalf<Gt>, "pww"},
    {"setp.ge.f16", CompareHalf<Ge>, "pww"},
    {"setp.neu.f16", CompareHalf<Neu>, "pww"},
    {"setp.nan.f16", CompareHalf<Nan>, "pww"},
};

}  // namespace

void AddFloatRows(OpTable* t) {
  AddRows<float>(t, ".f32", kFp32);
  AddRows<double>(t, ".f64", kFp64);
  t->Add(kRows, sizeof(kRows) / sizeof(kRows[0]));
}

}  // namespace lanyard::ptx::LANYARD_PTX_ISA
