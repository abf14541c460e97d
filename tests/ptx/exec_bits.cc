// Logic, shifts, bit fields, permutations.
#include "tests/ptx/exec_lanes.h"

namespace lanyard::ptx::LANYARD_PTX_ISA {

namespace {

struct And {
  template <typename T>
  T operator()(T a, T b) const {
    return static_cast<T>(a & b);
  }
};
struct Or {
  template <typename T>
  T operator()(T a, T b) const {
    return static_cast<T>(a | b);
  }
};
struct Xor {
  template <typename T>
  T operator()(T a, T b) const {
    return static_cast<T>(a ^ b);
  }
};
struct Not {
  template <typename T>
  T operator()(T a) const {
    return static_cast<T>(~a);
  }
};
struct Cnot {
  template <typename T>
  T operator()(T a) const {
    return static_cast<T>(a == 0);
  }
};

// Amounts beyond the width are clamped to it: nothing (or only the sign) is left.
struct Shl {
  template <typename T>
  T operator()(T a, uint32_t n) const {
    if constexpr (sizeof(T) < 4)
      return n > 15 ? T{0} : static_cast<T>(uint32_t{a} << n);
    else
      return n >= 8 * sizeof(T) ? T{0} : static_cast<T>(a << (n & (8 * sizeof(T) - 1)));
  }
};
struct Shr {
  template <typename T>
  T operator()(T a, uint32_t n) const {
    constexpr uint32_t kLast = 8 * sizeof(T) - 1;
    if constexpr (std::is_signed_v<T>)
      return static_cast<T>(a >> (n > kLast ? kLast : n));
    else
      return n > kLast ? T{0} : static_cast<T>(a >> (n & kLast));
  }
};
struct ShfLeftWrap {
  uint32_t operator()(uint32_t a, uint32_t b, uint32_t c) const {
    return static_cast<uint32_t>(((uint64_t{b} << 32 | a) << (c & 31u)) >> 32);
  }
};
struct ShfRightWrap {
  uint32_t operator()(uint32_t a, uint32_t b, uint32_t c) const {
    return static_cast<uint32_t>((uint64_t{b} << 32 | a) >> (c & 31u));
  }
};
struct ShfLeftClamp {
  uint32_t operator()(uint32_t a, uint32_t b, uint32_t c) const {
    return static_cast<uint32_t>(((uint64_t{b} << 32 | a) << (c > 32 ? 32 : c)) >> 32);
  }
};
struct ShfRightClamp {
  uint32_t operator()(uint32_t a, uint32_t b, uint32_t c) const {
    return static_cast<uint32_t>((uint64_t{b} << 32 | a) >> (c > 32 ? 32 : c));
  }
};

template <typename T>
struct Bfe {
  T operator()(T a, uint32_t position, uint32_t length) const {
    using U = std::make_unsigned_t<T>;
    constexpr uint32_t kBits = 8 * sizeof(T);
    const uint32_t p = position & 255u, n = length & 255u;
    if (n == 0) return 0;
    const uint32_t top = p + n - 1 < kBits - 1 ? p + n - 1 : kBits - 1;
    const bool sign = std::is_signed_v<T> && (static_cast<U>(a) >> top & 1u) != 0;
    const U shifted = p < kBits ? static_cast<U>(static_cast<U>(a) >> p) : U{0};
    const uint32_t in_range = p < kBits ? kBits - p : 0;  // bits that exist from p on
    const uint32_t taken = n < in_range ? n : in_range;
    const U keep = taken >= kBits ? static_cast<U>(~U{0}) : static_cast<U>((U{1} << taken) - 1);
    return static_cast<T>(sign ? (shifted & keep) | static_cast<U>(~keep) : shifted & keep);
  }
};

template <typename T>
void Bfi(Warp& w, const Op& op, uint32_t mask) {
  constexpr uint32_t kBits = 8 * sizeof(T);
  const T* a = w.R<T>(op.src[0]);
  const T* b = w.R<T>(op.src[1]);
  const uint32_t* c = w.R<uint32_t>(op.src[2]);
  const uint32_t* d = w.R<uint32_t>(op.src[3]);
  SetLanes(w.R<T>(op.dst), mask, [&](uint32_t i) {
    const uint32_t p = c[i] & 255u, n = d[i] & 255u;
    if (p >= kBits || n == 0) return b[i];
    const T low = n >= kBits ? static_cast<T>(~T{0}) : static_cast<T>((T{1} << n) - 1);
    const T field = static_cast<T>(low << p);
    return static_cast<T>((b[i] & ~field) | ((a[i] << p) & field));
  });
}

struct Brev32 {
  uint32_t operator()(uint32_t x) const {
    x = (x >> 1 & 0x55555555u) | (x & 0x55555555u) << 1;
    x = (x >> 2 & 0x33333333u) | (x & 0x33333333u) << 2;
    x = (x >> 4 & 0x0f0f0f0fu) | (x & 0x0f0f0f0fu) << 4;
    return __builtin_bswap32(x);
  }
};
struct Brev64 {
  uint64_t operator()(uint64_t x) const {
    return uint64_t{Brev32()(static_cast<uint32_t>(x))} << 32 |
           Brev32()(static_cast<uint32_t>(x >> 32));
  }
};
struct Clz32 {
  uint32_t operator()(uint32_t x) const {
    return x == 0 ? 32u : static_cast<uint32_t>(__builtin_clz(x));
  }
};
struct Clz64 {
  uint32_t operator()(uint64_t x) const {
    return x == 0 ? 64u : static_cast<uint32_t>(__builtin_clzll(x));
  }
};
struct Popc32 {
  uint32_t operator()(uint32_t x) const { return static_cast<uint32_t>(__builtin_popcount(x)); }
};
struct Popc64 {
  uint32_t operator()(uint64_t x) const { return static_cast<uint32_t>(__builtin_popcountll(x)); }
};
// Position of the highest bit that differs from the sign, or ~0; .shiftamt: how far to shift it to
// the top.
template <typename T, bool kShiftAmount>
struct Bfind {
  uint32_t operator()(T a) const {
    using U = std::make_unsigned_t<T>;
    const U x = a < 0 ? static_cast<U>(~a) : static_cast<U>(a);
    if (x == 0) return ~0u;
    const uint32_t position = 63u - static_cast<uint32_t>(__builtin_clzll(x));
    return kShiftAmount ? static_cast<uint32_t>(8 * sizeof(T)) - 1 - position : position;
  }
};

struct Prmt {
  uint32_t operator()(uint32_t a, uint32_t b, uint32_t selector) const {
    const uint64_t bytes = uint64_t{b} << 32 | a;
    uint32_t result = 0;
    for (uint32_t i = 0; i < 4; ++i) {
      const uint32_t s = selector >> (4 * i) & 15u;
      uint32_t byte = static_cast<uint32_t>(bytes >> (8 * (s & 7u))) & 255u;
      if ((s & 8u) != 0) byte = (byte & 128u) != 0 ? 255u : 0u;
      result |= byte << (8 * i);
    }
    return result;
  }
};

// op.imm: the truth table; bit (a<<2 | b<<1 | c).
void Lop3(Warp& w, const Op& op, uint32_t mask) {
  const uint32_t* a = w.R<uint32_t>(op.src[0]);
  const uint32_t* b = w.R<uint32_t>(op.src[1]);
  const uint32_t* c = w.R<uint32_t>(op.src[2]);
  uint32_t table[8];
  for (uint32_t i = 0; i < 8; ++i)
    table[i] = (w.R<uint32_t>(op.src[3])[0] >> i & 1u) != 0 ? kAllLanes : 0;
  SetLanes(w.R<uint32_t>(op.dst), mask, [&](uint32_t i) {
    const uint32_t x = a[i], y = b[i], z = c[i];
    return (~x & ~y & ~z & table[0]) | (~x & ~y & z & table[1]) | (~x & y & ~z & table[2]) |
           (~x & y & z & table[3]) | (x & ~y & ~z & table[4]) | (x & ~y & z & table[5]) |
           (x & y & ~z & table[6]) | (x & y & z & table[7]);
  });
}

// Predicates: op.mode 0 and, 1 or, 2 xor, 3 not, 4 mov.
void Predicates(Warp& w, const Op& op, uint32_t mask) {
  const uint32_t a = w.P(op.src[0]), b = w.P(op.src[1]);
  uint32_t result = a & b;
  if (op.mode == 1) result = a | b;
  if (op.mode == 2) result = a ^ b;
  if (op.mode == 3) result = ~a;
  if (op.mode == 4) result = a;
  w.P(op.dst) = (w.P(op.dst) & ~mask) | (result & mask);
}

using U16 = uint16_t;
using U32 = uint32_t;
using U64 = uint64_t;

constexpr OpSpec kRows[] = {
    {"and.b16", Map2<And, U16, U16, U16>, "www"},
    {"or.b16", Map2<Or, U16, U16, U16>, "www"},
    {"xor.b16", Map2<Xor, U16, U16, U16>, "www"},
    {"not.b16", Map1<Not, U16, U16>, "ww"},
    {"and.b32", Map2<And, U32, U32, U32>, "www"},
    {"or.b32", Map2<Or, U32, U32, U32>, "www"},
    {"xor.b32", Map2<Xor, U32, U32, U32>, "www"},
    {"not.b32", Map1<Not, U32, U32>, "ww"},
    {"and.b64", Map2<And, U64, U64, U64>, "lll"},
    {"or.b64", Map2<Or, U64, U64, U64>, "lll"},
    {"xor.b64", Map2<Xor, U64, U64, U64>, "lll"},
    {"not.b64", Map1<Not, U64, U64>, "ll"},
    {"cnot.b32", Map1<Cnot, U32, U32>, "ww"},
    {"cnot.b64", Map1<Cnot, U64, U64>, "ll"},
    {"and.pred", Predicates, "ppp", kPlain, 0},
    {"or.pred", Predicates, "ppp", kPlain, 1},
    {"xor.pred", Predicates, "ppp", kPlain, 2},
    {"not.pred", Predicates, "pp", kPlain, 3},
    {"mov.pred", Predicates, "pp", kPlain, 4},
    {"shl.b16", Map2<Shl, U16, U16, U32>, "wws"},
    {"shl.b32", Map2<Shl, U32, U32, U32>, "wws"},
    {"shl.b64", Map2<Shl, U64, U64, U32>, "lls"},
    {"shr.b16", Map2<Shr, U16, U16, U32>, "wws"},
    {"shr.u16", Map2<Shr, U16, U16, U32>, "wws"},
    {"shr.s16", Map2<Shr, int16_t, int16_t, U32>, "wws"},
    {"shr.b32", Map2<Shr, U32, U32, U32>, "wws"},
    {"shr.u32", Map2<Shr, U32, U32, U32>, "wws"},
    {"shr.s32", Map2<Shr, int32_t, int32_t, U32>, "wws"},
    {"shr.b64", Map2<Shr, U64, U64, U32>, "lls"},
    {"shr.u64", Map2<Shr, U64, U64, U32>, "lls"},
    {"shr.s64", Map2<Shr, int64_t, int64_t, U32>, "lls"},
    {"shf.l.wrap.b32", Map3<ShfLeftWrap, U32, U32, U32, U32>, "wwww"},
    {"shf.r.wrap.b32", Map3<ShfRightWrap, U32, U32, U32, U32>, "wwww"},
    {"shf.l.clamp.b32", Map3<ShfLeftClamp, U32, U32, U32, U32>, "wwww"},
    {"shf.r.clamp.b32", Map3<ShfRightClamp, U32, U32, U32, U32>, "wwww"},
    {"bfe.u32", Map3<Bfe<U32>, U32, U32, U32, U32>, "wwww"},
    {"bfe.s32", Map3<Bfe<int32_t>, int32_t, int32_t, U32, U32>, "wwww"},
    {"bfe.u64", Map3<Bfe<U64>, U64, U64, U32, U32>, "llww"},
    {"bfe.s64", Map3<Bfe<int64_t>, int64_t, int64_t, U32, U32>, "llww"},
    {"bfi.b32", Bfi<U32>, "wwwww"},
    {"bfi.b64", Bfi<U64>, "lllww"},
    {"brev.b32", Map1<Brev32, U32, U32>, "ww"},
    {"brev.b64", Map1<Brev64, U64, U64>, "ll"},
    {"clz.b32", Map1<Clz32, U32, U32>, "ww"},
    {"clz.b64", Map1<Clz64, U32, U64>, "wl"},
    {"popc.b32", Map1<Popc32, U32, U32>, "ww"},
    {"popc.b64", Map1<Popc64, U32, U64>, "wl"},
    {"bfind.u32", Map1<Bfind<U32, false>, U32, U32>, "ww"},
    {"bfind.s32", Map1<Bfind<int32_t, false>, U32, int32_t>, "ww"},
    {"bfind.u64", Map1<Bfind<U64, false>, U32, U64>, "wl"},
    {"bfind.s64", Map1<Bfind<int64_t, false>, U32, int64_t>, "wl"},
    {"bfind.shiftamt.u32", Map1<Bfind<U32, true>, U32, U32>, "ww"},
    {"bfind.shiftamt.s32", Map1<Bfind<int32_t, true>, U32, int32_t>, "ww"},
    {"bfind.shiftamt.u64", Map1<Bfind<U64, true>, U32, U64>, "wl"},
    {"prmt.b32", Map3<Prmt, U32, U32, U32, U32>, "wwww"},
    {"lop3.b32", Lop3, "wwwww"},
};

}  // namespace

void AddBitRows(OpTable* t) { t->Add(kRows, sizeof(kRows) / sizeof(kRows[0])); }

}  // namespace lanyard::ptx::LANYARD_PTX_ISA
