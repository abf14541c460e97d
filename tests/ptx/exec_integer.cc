// Integer arithmetic and comparison, moves, selection.
#include "tests/ptx/exec_lanes.h"

namespace lanyard::ptx::LANYARD_PTX_ISA {

namespace {

// Signed overflow wraps: sums and products are computed in unsigned types.
struct Add {
  template <typename T>
  T operator()(T a, T b) const {
    return static_cast<T>(a + b);
  }
};
struct Sub {
  template <typename T>
  T operator()(T a, T b) const {
    return static_cast<T>(a - b);
  }
};
struct MulLo {
  template <typename T>
  T operator()(T a, T b) const {
    if constexpr (sizeof(T) < 4)
      return static_cast<T>(uint32_t{a} * uint32_t{b});
    else
      return a * b;
  }
};
struct MadLo {
  template <typename T>
  T operator()(T a, T b, T c) const {
    return static_cast<T>(MulLo()(a, b) + c);
  }
};
struct Neg {
  template <typename T>
  T operator()(T a) const {
    return static_cast<T>(T{0} - a);
  }
};
struct Abs {
  template <typename T>
  T operator()(T a) const {
    using U = std::make_unsigned_t<T>;
    return static_cast<T>(a < 0 ? static_cast<U>(U{0} - static_cast<U>(a)) : static_cast<U>(a));
  }
};
struct Min {
  template <typename T>
  T operator()(T a, T b) const {
    return b < a ? b : a;
  }
};
struct Max {
  template <typename T>
  T operator()(T a, T b) const {
    return a < b ? b : a;
  }
};
struct Sad {
  template <typename T>
  std::make_unsigned_t<T> operator()(T a, T b, std::make_unsigned_t<T> c) const {
    using U = std::make_unsigned_t<T>;
    return static_cast<U>(c + (a < b ? static_cast<U>(static_cast<U>(b) - static_cast<U>(a))
                                     : static_cast<U>(static_cast<U>(a) - static_cast<U>(b))));
  }
};
template <typename T>
struct Twice;
template <>
struct Twice<uint16_t> {
  using type = uint32_t;
};
template <>
struct Twice<int16_t> {
  using type = int32_t;
};
template <>
struct Twice<uint32_t> {
  using type = uint64_t;
};
template <>
struct Twice<int32_t> {
  using type = int64_t;
};
__extension__ typedef __int128 Int128;
__extension__ typedef unsigned __int128 Uint128;
template <>
struct Twice<uint64_t> {
  using type = Uint128;
};
template <>
struct Twice<int64_t> {
  using type = Int128;
};

struct MulWide {
  template <typename T>
  auto operator()(T a, T b) const {
    using W = typename Twice<T>::type;
    return static_cast<W>(static_cast<W>(a) * static_cast<W>(b));
  }
};
struct MadWide {
  template <typename T>
  auto operator()(T a, T b, typename Twice<T>::type c) const {
    using W = typename Twice<T>::type;
    using U = std::make_unsigned_t<W>;
    return static_cast<W>(static_cast<U>(MulWide()(a, b)) + static_cast<U>(c));
  }
};
struct MulHi {
  template <typename T>
  T operator()(T a, T b) const {
    return static_cast<T>(MulWide()(a, b) >> (8 * sizeof(T)));
  }
};
struct MadHi {
  template <typename T>
  T operator()(T a, T b, T c) const {
    using U = std::make_unsigned_t<T>;
    return static_cast<T>(static_cast<U>(MulHi()(a, b)) + static_cast<U>(c));
  }
};
struct Mul24 {
  uint32_t operator()(uint32_t a, uint32_t b) const { return (a & 0xffffffu) * (b & 0xffffffu); }
};
struct Copy {
  template <typename T>
  T operator()(T a) const {
    return a;
  }
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
    return a != b;
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

// A division by zero has no defined result: the machine refuses it.
template <typename T, bool kRemainder>
void Divide(Warp& w, const Op& op, uint32_t mask) {
  using S = typename Lane<T>::Storage;
  const S* a = w.R<S>(op.src[0]);
  const S* b = w.R<S>(op.src[1]);
  S* d = w.R<S>(op.dst);
  for (uint32_t i = 0; i < 32; ++i) {
    if ((mask >> i & 1u) == 0) continue;
    const T x = Lane<T>::Load(a[i]), y = Lane<T>::Load(b[i]);
    if (y == 0) {
      Fail(w, op, static_cast<int>(i), "an integer division by zero, whose result is not defined");
      return;
    }
    // The most negative value by -1 wraps.
    const bool wraps = std::is_signed_v<T> && y == static_cast<T>(-1);
    const T quotient = wraps ? Neg()(static_cast<T>(static_cast<std::make_unsigned_t<T>>(x)))
                             : static_cast<T>(x / y);
    d[i] = Lane<T>::Save(kRemainder ? (wraps ? T{0} : static_cast<T>(x % y)) : quotient);
  }
}

template <typename T>
void Select(Warp& w, const Op& op, uint32_t mask) {
  const T* a = w.R<T>(op.src[0]);
  const T* b = w.R<T>(op.src[1]);
  const uint32_t p = w.P(op.src[2]) ^ ((op.flags & kNegateSource) != 0 ? kAllLanes : 0);
  SetLanes(w.R<T>(op.dst), mask, [&](uint32_t i) { return (p >> i & 1u) != 0 ? a[i] : b[i]; });
}
struct Slct {
  template <typename T>
  T operator()(T a, T b, int32_t c) const {
    return c >= 0 ? a : b;
  }
};

struct Dp {
  template <typename A, typename B>
  static int32_t Four(uint32_t a, uint32_t b, uint32_t c) {
    int32_t sum = 0;
    for (uint32_t j = 0; j < 32; j += 8)
      sum += int32_t{static_cast<A>(a >> j)} * int32_t{static_cast<B>(b >> j)};
    return static_cast<int32_t>(c + static_cast<uint32_t>(sum));
  }
};
template <typename A, typename B>
struct Dp4 {
  uint32_t operator()(uint32_t a, uint32_t b, uint32_t c) const {
    return static_cast<uint32_t>(Dp::Four<A, B>(a, b, c));
  }
};
// Two 16-bit values of a by the low or high two bytes of b.
template <typename A, typename B, int kShift>
struct Dp2 {
  uint32_t operator()(uint32_t a, uint32_t b, uint32_t c) const {
    int64_t sum = 0;
    for (uint32_t j = 0; j < 2; ++j)
      sum += int64_t{static_cast<A>(a >> (16 * j))} * static_cast<B>(b >> (kShift + 8 * j));
    return c + static_cast<uint32_t>(sum);
  }
};

// Rows whose result does not depend on the sign: under .s, .u and (for moves) .b and .f.
template <typename U>
void AddRing(OpTable* t, const char* type) {
  const bool wide = sizeof(U) == 8;
  const auto row = [&](const char* name, Handler run, const char* narrow,
                       const char* wide_signature) {
    const OpSpec spec = {name, run, wide ? wide_signature : narrow, kPlain, 0, 0, type};
    t->Add(&spec, 1);
  };
  row("add", Map2<Add, U, U, U>, "www", "lll");
  row("sub", Map2<Sub, U, U, U>, "www", "lll");
  row("mul.lo", Map2<MulLo, U, U, U>, "www", "lll");
  row("mad.lo", Map3<MadLo, U, U, U, U>, "wwww", "llll");
  row("neg", Map1<Neg, U, U>, "ww", "ll");
  row("mov", Map1<Copy, U, U>, "ww", "ll");
}

template <typename T>
void AddOrdered(OpTable* t, const char* type) {
  using U = std::make_unsigned_t<T>;
  const bool wide = sizeof(T) == 8;
  const auto row = [&](const char* name, Handler run, const char* narrow,
                       const char* wide_signature) {
    const OpSpec spec = {name, run, wide ? wide_signature : narrow, kPlain, 0, 0, type};
    t->Add(&spec, 1);
  };
  row("min", Map2<Min, T, T, T>, "www", "lll");
  row("max", Map2<Max, T, T, T>, "www", "lll");
  row("mul.hi", Map2<MulHi, T, T, T>, "www", "lll");
  row("mad.hi", Map3<MadHi, T, T, T, T>, "wwww", "llll");
  row("sad", Map3<Sad, U, T, T, U>, "wwww", "llll");
  row("div", Divide<T, false>, "www", "lll");
  row("rem", Divide<T, true>, "www", "lll");
  row("setp.eq", Compare<Eq, T>, "pww", "pll");
  row("setp.ne", Compare<Ne, T>, "pww", "pll");
  row("setp.lt", Compare<Lt, T>, "pww", "pll");
  row("setp.le", Compare<Le, T>, "pww", "pll");
  row("setp.gt", Compare<Gt, T>, "pww", "pll");
  row("setp.ge", Compare<Ge, T>, "pww", "pll");
  if constexpr (std::is_signed_v<T>) {
    row("abs", Map1<Abs, T, T>, "ww", "ll");
  } else {
    row("setp.lo", Compare<Lt, T>, "pww", "pll");
    row("setp.ls", Compare<Le, T>, "pww", "pll");
    row("setp.hi", Compare<Gt, T>, "pww", "pll");
    row("setp.hs", Compare<Ge, T>, "pww", "pll");
  }
  if constexpr (sizeof(T) < 8) {
    using W = typename Twice<T>::type;
    row("mul.wide", Map2<MulWide, W, T, T>, sizeof(T) == 4 ? "lww" : "www", "");
    row("mad.wide", Map3<MadWide, W, T, T, W>, sizeof(T) == 4 ? "lwwl" : "wwww", "");
  }
}

constexpr Handler kCopy32 = Map1<Copy, uint32_t, uint32_t>,
                  kCopy64 = Map1<Copy, uint64_t, uint64_t>;
constexpr Handler kSelect32 = Select<uint32_t>, kSelect64 = Select<uint64_t>;

constexpr OpSpec kRows[] = {
    {"mov.b16", Map1<Copy, uint16_t, uint16_t>, "ww"},
    {"mov.f16", Map1<Copy, uint16_t, uint16_t>, "ww"},
    {"mov.b32", kCopy32, "ww"},
    {"mov.f32", kCopy32, "ww"},
    {"mov.f16x2", kCopy32, "ww"},
    {"mov.b64", kCopy64, "ll"},
    {"mov.f64", kCopy64, "ll"},
    {"selp.b16", kSelect32, "hhhp"},
    {"selp.u16", kSelect32, "hhhp"},
    {"selp.s16", kSelect32, "hhhp"},
    {"selp.f16", kSelect32, "hhhp"},
    {"selp.b32", kSelect32, "wwwp"},
    {"selp.u32", kSelect32, "wwwp"},
    {"selp.s32", kSelect32, "wwwp"},
    {"selp.f32", kSelect32, "wwwp"},
    {"selp.b64", kSelect64, "lllp"},
    {"selp.u64", kSelect64, "lllp"},
    {"selp.s64", kSelect64, "lllp"},
    {"selp.f64", kSelect64, "lllp"},
    {"slct.b32.s32", Map3<Slct, uint32_t, uint32_t, uint32_t, int32_t>, "wwww"},
    {"slct.u32.s32", Map3<Slct, uint32_t, uint32_t, uint32_t, int32_t>, "wwww"},
    {"slct.s32.s32", Map3<Slct, uint32_t, uint32_t, uint32_t, int32_t>, "wwww"},
    {"slct.f32.s32", Map3<Slct, uint32_t, uint32_t, uint32_t, int32_t>, "wwww"},
    {"slct.b64.s32", Map3<Slct, uint64_t, uint64_t, uint64_t, int32_t>, "lllw"},
    {"setp.eq.b16", Compare<Eq, uint16_t>, "pww"},
    {"setp.ne.b16", Compare<Ne, uint16_t>, "pww"},
    {"setp.eq.b32", Compare<Eq, uint32_t>, "pww"},
    {"setp.ne.b32", Compare<Ne, uint32_t>, "pww"},
    {"setp.eq.b64", Compare<Eq, uint64_t>, "pll"},
    {"setp.ne.b64", Compare<Ne, uint64_t>, "pll"},
    {"mul24.lo.u32", Map2<Mul24, uint32_t, uint32_t, uint32_t>, "www"},
    {"dp4a.s32.s32", Map3<Dp4<int8_t, int8_t>, uint32_t, uint32_t, uint32_t, uint32_t>, "wwww",
     kDp4a, 0, 61},
    {"dp4a.s32.u32", Map3<Dp4<int8_t, uint8_t>, uint32_t, uint32_t, uint32_t, uint32_t>, "wwww",
     kDp4a, 0, 61},
    {"dp4a.u32.s32", Map3<Dp4<uint8_t, int8_t>, uint32_t, uint32_t, uint32_t, uint32_t>, "wwww",
     kDp4a, 0, 61},
    {"dp4a.u32.u32", Map3<Dp4<uint8_t, uint8_t>, uint32_t, uint32_t, uint32_t, uint32_t>, "wwww",
     kDp4a, 0, 61},
    {"dp2a.lo.s32.s32", Map3<Dp2<int16_t, int8_t, 0>, uint32_t, uint32_t, uint32_t, uint32_t>,
     "wwww", kDp4a, 0, 61},
    {"dp2a.hi.s32.s32", Map3<Dp2<int16_t, int8_t, 16>, uint32_t, uint32_t, uint32_t, uint32_t>,
     "wwww", kDp4a, 0, 61},
    {"dp2a.lo.s32.u32", Map3<Dp2<int16_t, uint8_t, 0>, uint32_t, uint32_t, uint32_t, uint32_t>,
     "wwww", kDp4a, 0, 61},
    {"dp2a.hi.s32.u32", Map3<Dp2<int16_t, uint8_t, 16>, uint32_t, uint32_t, uint32_t, uint32_t>,
     "wwww", kDp4a, 0, 61},
    {"dp2a.lo.u32.s32", Map3<Dp2<uint16_t, int8_t, 0>, uint32_t, uint32_t, uint32_t, uint32_t>,
     "wwww", kDp4a, 0, 61},
    {"dp2a.hi.u32.s32", Map3<Dp2<uint16_t, int8_t, 16>, uint32_t, uint32_t, uint32_t, uint32_t>,
     "wwww", kDp4a, 0, 61},
    {"dp2a.lo.u32.u32", Map3<Dp2<uint16_t, uint8_t, 0>, uint32_t, uint32_t, uint32_t, uint32_t>,
     "wwww", kDp4a, 0, 61},
    {"dp2a.hi.u32.u32", Map3<Dp2<uint16_t, uint8_t, 16>, uint32_t, uint32_t, uint32_t, uint32_t>,
     "wwww", kDp4a, 0, 61},
};

}  // namespace

void AddIntegerRows(OpTable* t) {
  AddRing<uint16_t>(t, ".u16");
  AddRing<uint16_t>(t, ".s16");
  AddRing<uint32_t>(t, ".u32");
  AddRing<uint32_t>(t, ".s32");
  AddRing<uint64_t>(t, ".u64");
  AddRing<uint64_t>(t, ".s64");
  AddOrdered<uint16_t>(t, ".u16");
  AddOrdered<int16_t>(t, ".s16");
  AddOrdered<uint32_t>(t, ".u32");
  AddOrdered<int32_t>(t, ".s32");
  AddOrdered<uint64_t>(t, ".u64");
  AddOrdered<int64_t>(t, ".s64");
  t->Add(kRows, sizeof(kRows) / sizeof(kRows[0]));
}

}  // namespace lanyard::ptx::LANYARD_PTX_ISA
