// Every arithmetic instruction against C++, on edge values and random ones, with full and with
// partial masks.
#include <bit>
#include <cmath>
#include <limits>
#include <random>

#include "tests/ptx/half.h"
#include "tests/ptx/machine_testing.h"

namespace lanyard::ptx {
namespace {

constexpr uint32_t kThreads = 64, kBlocks = 16, kCount = kThreads * kBlocks;

struct Input {
  uint64_t a, b, c;
};

std::vector<Input> Inputs() {
  static const uint64_t kEdges[] = {0,
                                    1,
                                    2,
                                    3,
                                    31,
                                    32,
                                    33,
                                    63,
                                    64,
                                    0x7f,
                                    0x80,
                                    0xff,
                                    0x7fff,
                                    0x8000,
                                    0xffff,
                                    0x7fffffff,
                                    0x80000000,
                                    0x80000001,
                                    0xffffffff,
                                    0x100000000,
                                    0x7fffffffffffffff,
                                    0x8000000000000000,
                                    0xffffffffffffffff,
                                    0x3f800000,
                                    0xbf800000,
                                    0x7f800000,
                                    0xff800000,
                                    0x7fc00000,
                                    0x00000001,
                                    0x007fffff,
                                    0x00800000,
                                    0x3ff0000000000000,
                                    0x7ff0000000000000,
                                    0xfff8000000000001,
                                    0x4b000001,
                                    0x4f000000,
                                    0xcf000000,
                                    0x3fffffff,
                                    0x3effffff,
                                    0x3f000000,
                                    0x40200000};
  std::mt19937_64 random(7);
  std::vector<Input> inputs(kCount);
  const auto one = [&]() -> uint64_t {
    switch (random() % 4) {
      case 0:
        return kEdges[random() % std::size(kEdges)];
      case 1:
        return random();
      case 2:
        return std::bit_cast<uint32_t>(
            static_cast<float>(static_cast<double>(random() % 2000001) / 1000.0 - 1000.0));
      default:
        return std::bit_cast<uint64_t>(static_cast<double>(random() % 2000001) / 1000.0 - 1000.0);
    }
  };
  for (Input& in : inputs) in = {one(), one(), one()};
  return inputs;
}

// The result (%rd9, or %r9 zero-extended, or %p9 as 0/1) of the instruction on a, b, c in %rd1.. ,
// %r1.., %h1.., %f1.., %fd1.. . In odd blocks only every third lane executes it; the others keep
// 0x5a.
std::vector<uint64_t> Results(std::string_view instruction, char result,
                              const std::vector<Input>& inputs) {
  const std::string store = result == 'l'   ? "mov.u64 %rd10, %rd9;"
                            : result == 'd' ? "mov.b64 %rd10, %fd9;"
                            : result == 'f' ? "mov.b32 %r10, %f9; cvt.u64.u32 %rd10, %r10;"
                            : result == 'h' ? "cvt.u64.u16 %rd10, %h9;"
                            : result == 'p' ? "selp.u64 %rd10, 1, 0, %p9;"
                                            : "cvt.u64.u32 %rd10, %r9;";
  const std::string body = absl::StrCat(R"(
  ld.param.u64 %rd20, [p0];
  ld.param.u64 %rd21, [p1];
  mov.u32 %r20, %ctaid.x;
  mov.u32 %r21, %ntid.x;
  mov.u32 %r22, %tid.x;
  mad.lo.s32 %r23, %r20, %r21, %r22;
  mul.wide.u32 %rd22, %r23, 24;
  add.s64 %rd20, %rd20, %rd22;
  mul.wide.u32 %rd22, %r23, 8;
  add.s64 %rd21, %rd21, %rd22;
  ld.global.u64 %rd1, [%rd20];
  ld.global.u64 %rd2, [%rd20+8];
  ld.global.u64 %rd3, [%rd20+16];
  cvt.u32.u64 %r1, %rd1; cvt.u32.u64 %r2, %rd2; cvt.u32.u64 %r3, %rd3;
  cvt.u16.u64 %h1, %rd1; cvt.u16.u64 %h2, %rd2; cvt.u16.u64 %h3, %rd3;
  mov.b32 %f1, %r1; mov.b32 %f2, %r2; mov.b32 %f3, %r3;
  mov.b64 %fd1, %rd1; mov.b64 %fd2, %rd2; mov.b64 %fd3, %rd3;
  and.b32 %r24, %r3, 1;
  setp.ne.u32 %p1, %r24, 0;
  mov.u64 %rd9, 0x5a; mov.u32 %r9, 0x5a; mov.u16 %h9, 0x5a; mov.b32 %f9, %r9; mov.b64 %fd9, %rd9;
  setp.ne.u32 %p9, %r22, %r22;
  and.b32 %r25, %r20, 1;
  rem.u32 %r26, %r22, 3;
  setp.eq.u32 %p2, %r25, 0;
  setp.eq.u32 %p3, %r26, 0;
  or.pred %p4, %p2, %p3;
  @!%p4 bra SKIP;
  )",
                                        AbslView(instruction), "\nSKIP:\n", store,
                                        "\n  st.global.u64 [%rd21], %rd10;\n  ret;\n");
  Memory memory;
  Machine machine(&memory);
  const uint64_t in = memory.Upload(inputs, "in"), out = memory.Alloc(kCount * 8, "out");
  EXPECT_OK(RunText(&machine, KernelText(body), {in, out}, {kBlocks, kThreads}));
  const auto values = memory.Download<uint64_t>(out, kCount);
  EXPECT_TRUE(values.ok());
  return values.ok() ? *values : std::vector<uint64_t>(kCount);
}

using Reference = std::function<uint64_t(uint64_t a, uint64_t b, uint64_t c)>;
struct Case {
  const char* instruction;
  char result;
  Reference reference;
};

void Check(const std::vector<Case>& cases,
           const std::function<void(std::vector<Input>*)>& change = nullptr) {
  std::vector<Input> inputs = Inputs();
  if (change) change(&inputs);
  OnEveryIsa([&] {
    for (const Case& c : cases) {
      SCOPED_TRACE(c.instruction);
      const std::vector<uint64_t> got = Results(c.instruction, c.result, inputs);
      int wrong = 0;
      for (uint32_t i = 0; i < kCount && wrong < 3; ++i) {
        const bool runs = i / kThreads % 2 == 0 || i % kThreads % 3 == 0;
        const uint64_t want = runs              ? c.reference(inputs[i].a, inputs[i].b, inputs[i].c)
                              : c.result == 'p' ? 0
                                                : 0x5a;
        if (got[i] == want) continue;
        ++wrong;
        ADD_FAILURE() << absl::StrFormat("thread %d: a %x b %x c %x: %x, expected %x", i,
                                         inputs[i].a, inputs[i].b, inputs[i].c, got[i], want);
      }
    }
  });
}

uint32_t U(uint64_t v) { return static_cast<uint32_t>(v); }
int32_t S(uint64_t v) { return static_cast<int32_t>(v); }
int64_t L(uint64_t v) { return static_cast<int64_t>(v); }
uint16_t H(uint64_t v) { return static_cast<uint16_t>(v); }
int16_t HS(uint64_t v) { return static_cast<int16_t>(v); }
float F(uint64_t v) { return std::bit_cast<float>(U(v)); }
double D(uint64_t v) { return std::bit_cast<double>(v); }
uint64_t Bits(float f) { return f != f ? kFloatNan : std::bit_cast<uint32_t>(f); }
uint64_t Bits(double d) { return d != d ? kDoubleNan : std::bit_cast<uint64_t>(d); }
__extension__ typedef __int128 Wide;
__extension__ typedef unsigned __int128 UWide;

TEST(MachineArith, Integers32) {
  Check(
      {{"add.s32 %r9, %r1, %r2;", 'w', [](auto a, auto b, auto) { return U(a + b); }},
       {"sub.u32 %r9, %r1, %r2;", 'w', [](auto a, auto b, auto) { return U(a - b); }},
       {"add.s32 %r9, %r1, -7;", 'w', [](auto a, auto, auto) { return U(a - 7); }},
       {"mul.lo.s32 %r9, %r1, %r2;", 'w', [](auto a, auto b, auto) { return U(a * b); }},
       {"mul.hi.s32 %r9, %r1, %r2;", 'w',
        [](auto a, auto b, auto) { return U(static_cast<uint64_t>(int64_t{S(a)} * S(b)) >> 32); }},
       {"mul.hi.u32 %r9, %r1, %r2;", 'w',
        [](auto a, auto b, auto) { return U(uint64_t{U(a)} * U(b) >> 32); }},
       {"mul.wide.s32 %rd9, %r1, %r2;", 'l',
        [](auto a, auto b, auto) { return static_cast<uint64_t>(int64_t{S(a)} * S(b)); }},
       {"mul.wide.u32 %rd9, %r1, %r2;", 'l',
        [](auto a, auto b, auto) { return uint64_t{U(a)} * U(b); }},
       {"mad.lo.s32 %r9, %r1, %r2, %r3;", 'w', [](auto a, auto b, auto c) { return U(a * b + c); }},
       {"mad.hi.u32 %r9, %r1, %r2, %r3;", 'w',
        [](auto a, auto b, auto c) { return U((uint64_t{U(a)} * U(b) >> 32) + c); }},
       {"mad.wide.s32 %rd9, %r1, %r2, %rd3;", 'l',
        [](auto a, auto b, auto c) { return static_cast<uint64_t>(int64_t{S(a)} * S(b)) + c; }},
       {"mad.wide.u32 %rd9, %r1, %r2, %rd3;", 'l',
        [](auto a, auto b, auto c) { return uint64_t{U(a)} * U(b) + c; }},
       {"min.s32 %r9, %r1, %r2;", 'w',
        [](auto a, auto b, auto) { return U(static_cast<uint64_t>(std::min(S(a), S(b)))); }},
       {"max.u32 %r9, %r1, %r2;", 'w', [](auto a, auto b, auto) { return std::max(U(a), U(b)); }},
       {"abs.s32 %r9, %r1;", 'w', [](auto a, auto, auto) { return S(a) < 0 ? U(0 - a) : U(a); }},
       {"neg.s32 %r9, %r1;", 'w', [](auto a, auto, auto) { return U(0 - a); }},
       {"sad.s32 %r9, %r1, %r2, %r3;", 'w',
        [](auto a, auto b, auto c) {
          return U(c + static_cast<uint64_t>(std::abs(int64_t{S(a)} - S(b))));
        }},
       {"sad.u32 %r9, %r1, %r2, %r3;", 'w', [](auto a, auto b, auto c) {
          return U(c + static_cast<uint64_t>(std::abs(int64_t{U(a)} - int64_t{U(b)})));
        }}});
}

TEST(MachineArith, Integers64And16) {
  Check(
      {{"add.s64 %rd9, %rd1, %rd2;", 'l', [](auto a, auto b, auto) { return a + b; }},
       {"sub.s64 %rd9, %rd1, %rd2;", 'l', [](auto a, auto b, auto) { return a - b; }},
       {"mul.lo.s64 %rd9, %rd1, %rd2;", 'l', [](auto a, auto b, auto) { return a * b; }},
       {"mul.hi.s64 %rd9, %rd1, %rd2;", 'l',
        [](auto a, auto b, auto) {
          return static_cast<uint64_t>(static_cast<UWide>(Wide{L(a)} * L(b)) >> 64);
        }},
       {"mul.hi.u64 %rd9, %rd1, %rd2;", 'l',
        [](auto a, auto b, auto) { return static_cast<uint64_t>(UWide{a} * b >> 64); }},
       {"mad.lo.s64 %rd9, %rd1, %rd2, %rd3;", 'l',
        [](auto a, auto b, auto c) { return a * b + c; }},
       {"min.u64 %rd9, %rd1, %rd2;", 'l', [](auto a, auto b, auto) { return std::min(a, b); }},
       {"max.s64 %rd9, %rd1, %rd2;", 'l',
        [](auto a, auto b, auto) { return static_cast<uint64_t>(std::max(L(a), L(b))); }},
       {"abs.s64 %rd9, %rd1;", 'l', [](auto a, auto, auto) { return L(a) < 0 ? 0 - a : a; }},
       {"neg.s64 %rd9, %rd1;", 'l', [](auto a, auto, auto) { return 0 - a; }},
       {"add.s16 %h9, %h1, %h2;", 'h', [](auto a, auto b, auto) { return H(a + b); }},
       {"sub.s16 %h9, %h1, %h2;", 'h', [](auto a, auto b, auto) { return H(a - b); }},
       {"mul.lo.s16 %h9, %h1, %h2;", 'h', [](auto a, auto b, auto) { return H(a * b); }},
       {"mul.hi.s16 %h9, %h1, %h2;", 'h',
        [](auto a, auto b, auto) { return H(static_cast<uint64_t>(HS(a) * HS(b)) >> 16); }},
       {"mul.wide.s16 %r9, %h1, %h2;", 'w',
        [](auto a, auto b, auto) { return U(static_cast<uint64_t>(HS(a) * HS(b))); }},
       {"mul.wide.u16 %r9, %h1, %h2;", 'w',
        [](auto a, auto b, auto) { return U(uint64_t{H(a)} * H(b)); }},
       {"mad.lo.u16 %h9, %h1, %h2, %h3;", 'h', [](auto a, auto b, auto c) { return H(a * b + c); }},
       {"min.s16 %h9, %h1, %h2;", 'h',
        [](auto a, auto b, auto) { return H(static_cast<uint64_t>(std::min(HS(a), HS(b)))); }},
       {"neg.s16 %h9, %h1;", 'h', [](auto a, auto, auto) { return H(0 - a); }},
       {"mov.u16 %h9, -2;", 'h', [](auto, auto, auto) { return 0xfffe; }}});
}

TEST(MachineArith, Divisions) {
  const auto nonzero = [](std::vector<Input>* inputs) {
    for (Input& in : *inputs) {
      if (H(in.b) == 0) in.b ^= 0x10003;
      if (U(in.b) == 0) in.b ^= 3;
    }
  };
  const auto signed_div = [](int64_t a, int64_t b, int64_t least) {
    return a == least && b == -1 ? least : a / b;
  };
  Check({{"div.s32 %r9, %r1, %r2;", 'w',
          [=](auto a, auto b, auto) {
            return U(static_cast<uint64_t>(signed_div(S(a), S(b), INT32_MIN)));
          }},
         {"div.u32 %r9, %r1, %r2;", 'w', [](auto a, auto b, auto) { return U(a) / U(b); }},
         {"rem.s32 %r9, %r1, %r2;", 'w',
          [](auto a, auto b, auto) {
            return S(b) == -1 ? 0 : U(static_cast<uint64_t>(S(a) % S(b)));
          }},
         {"rem.u32 %r9, %r1, %r2;", 'w', [](auto a, auto b, auto) { return U(a) % U(b); }},
         {"div.u64 %rd9, %rd1, %rd2;", 'l', [](auto a, auto b, auto) { return a / b; }},
         {"div.s64 %rd9, %rd1, %rd2;", 'l',
          [=](auto a, auto b, auto) {
            return static_cast<uint64_t>(signed_div(L(a), L(b), INT64_MIN));
          }},
         {"rem.u64 %rd9, %rd1, %rd2;", 'l', [](auto a, auto b, auto) { return a % b; }},
         {"rem.s64 %rd9, %rd1, %rd2;", 'l',
          [](auto a, auto b, auto) { return L(b) == -1 ? 0 : static_cast<uint64_t>(L(a) % L(b)); }},
         {"div.u16 %h9, %h1, %h2;", 'h', [](auto a, auto b, auto) { return H(a) / H(b); }},
         {"rem.u16 %h9, %h1, %h2;", 'h', [](auto a, auto b, auto) { return H(a) % H(b); }},
         {"div.s16 %h9, %h1, %h2;", 'h',
          [](auto a, auto b, auto) { return H(static_cast<uint64_t>(HS(a) / HS(b))); }}},
        nonzero);
}

TEST(MachineArith, BitsAndShifts) {
  const auto shl = [](uint64_t a, uint64_t n, uint64_t bits) { return n >= bits ? 0 : a << n; };
  Check(
      {{"and.b32 %r9, %r1, %r2;", 'w', [](auto a, auto b, auto) { return U(a & b); }},
       {"or.b64 %rd9, %rd1, %rd2;", 'l', [](auto a, auto b, auto) { return a | b; }},
       {"xor.b32 %r9, %r1, -1;", 'w', [](auto a, auto, auto) { return U(~a); }},
       {"not.b64 %rd9, %rd1;", 'l', [](auto a, auto, auto) { return ~a; }},
       {"not.b16 %h9, %h1;", 'h', [](auto a, auto, auto) { return H(~a); }},
       {"xor.b16 %h9, %h1, %h2;", 'h', [](auto a, auto b, auto) { return H(a ^ b); }},
       {"cnot.b32 %r9, %r1;", 'w', [](auto a, auto, auto) { return U(a) == 0; }},
       {"shl.b32 %r9, %r1, %r2;", 'w',
        [=](auto a, auto b, auto) { return U(shl(U(a), U(b), 32)); }},
       {"shl.b64 %rd9, %rd1, %r2;", 'l', [=](auto a, auto b, auto) { return shl(a, U(b), 64); }},
       {"shl.b16 %h9, %h1, %r2;", 'h',
        [=](auto a, auto b, auto) { return H(shl(H(a), U(b), 16)); }},
       {"shr.u32 %r9, %r1, %r2;", 'w',
        [](auto a, auto b, auto) { return U(b) > 31 ? 0 : U(a) >> U(b); }},
       {"shr.s32 %r9, %r1, %r2;", 'w',
        [](auto a, auto b, auto) { return U(static_cast<uint64_t>(S(a) >> std::min(U(b), 31u))); }},
       {"shr.u64 %rd9, %rd1, %r2;", 'l',
        [](auto a, auto b, auto) { return U(b) > 63 ? 0 : a >> U(b); }},
       {"shr.s64 %rd9, %rd1, %r2;", 'l',
        [](auto a, auto b, auto) { return static_cast<uint64_t>(L(a) >> std::min(U(b), 63u)); }},
       {"shr.s16 %h9, %h1, %r2;", 'h',
        [](auto a, auto b, auto) {
          return H(static_cast<uint64_t>(HS(a) >> std::min(U(b), 15u)));
        }},
       {"shr.u16 %h9, %h1, 3;", 'h', [](auto a, auto, auto) { return H(a) >> 3; }},
       {"shf.l.wrap.b32 %r9, %r1, %r2, %r3;", 'w',
        [](auto a, auto b, auto c) { return U((uint64_t{U(b)} << 32 | U(a)) << (c & 31) >> 32); }},
       {"shf.r.wrap.b32 %r9, %r1, %r2, %r3;", 'w',
        [](auto a, auto b, auto c) { return U((uint64_t{U(b)} << 32 | U(a)) >> (c & 31)); }},
       {"shf.l.clamp.b32 %r9, %r1, %r2, %r3;", 'w',
        [](auto a, auto b, auto c) {
          return U(c) >= 32 ? U(a) : U((uint64_t{U(b)} << 32 | U(a)) << U(c) >> 32);
        }},
       {"shf.r.clamp.b32 %r9, %r1, %r2, %r3;", 'w',
        [](auto a, auto b, auto c) {
          return U(c) >= 32 ? U(b) : U((uint64_t{U(b)} << 32 | U(a)) >> U(c));
        }},
       {"brev.b32 %r9, %r1;", 'w',
        [](auto a, auto, auto) {
          uint32_t r = 0;
          for (int i = 0; i < 32; ++i) r |= (U(a) >> i & 1u) << (31 - i);
          return r;
        }},
       {"brev.b64 %rd9, %rd1;", 'l',
        [](auto a, auto, auto) {
          uint64_t r = 0;
          for (int i = 0; i < 64; ++i) r |= (a >> i & 1u) << (63 - i);
          return r;
        }},
       {"clz.b32 %r9, %r1;", 'w',
        [](auto a, auto, auto) { return static_cast<uint64_t>(std::countl_zero(U(a))); }},
       {"clz.b64 %r9, %rd1;", 'w',
        [](auto a, auto, auto) { return static_cast<uint64_t>(std::countl_zero(a)); }},
       {"popc.b32 %r9, %r1;", 'w',
        [](auto a, auto, auto) { return static_cast<uint64_t>(std::popcount(U(a))); }},
       {"popc.b64 %r9, %rd1;", 'w',
        [](auto a, auto, auto) { return static_cast<uint64_t>(std::popcount(a)); }},
       {"bfind.u32 %r9, %r1;", 'w',
        [](auto a, auto, auto) {
          return U(a) == 0 ? 0xffffffffu : 31u - static_cast<uint32_t>(std::countl_zero(U(a)));
        }},
       {"bfind.s32 %r9, %r1;", 'w', [](auto a, auto, auto) {
          const uint32_t x = S(a) < 0 ? ~U(a) : U(a);
          return x == 0 ? 0xffffffffu : 31u - static_cast<uint32_t>(std::countl_zero(x));
        }}});
}

uint64_t BitField(uint64_t a, uint32_t p, uint32_t n, uint32_t bits, bool is_signed) {
  p &= 255;
  n &= 255;
  const uint32_t msb = bits - 1;
  const uint32_t sign_at = std::min(p + n - 1, msb);
  const uint64_t sign = !is_signed || n == 0 ? 0 : a >> sign_at & 1;
  uint64_t d = 0;
  for (uint32_t i = 0; i <= msb; ++i) d |= (i < n && p + i <= msb ? a >> (p + i) & 1 : sign) << i;
  return d;
}

TEST(MachineArith, FieldsAndPermutations) {
  const auto bfi = [](uint64_t f, uint64_t b, uint32_t p, uint32_t n, uint32_t bits) {
    p &= 255;
    n &= 255;
    for (uint32_t i = 0; i < n && p + i < bits; ++i)
      b = (b & ~(uint64_t{1} << (p + i))) | (f >> i & 1) << (p + i);
    return b;
  };
  const auto prmt = [](uint32_t a, uint32_t b, uint32_t s) {
    uint32_t r = 0;
    for (uint32_t i = 0; i < 4; ++i) {
      const uint32_t n = s >> (4 * i) & 15;
      uint32_t byte = static_cast<uint32_t>((uint64_t{b} << 32 | a) >> (8 * (n & 7))) & 255;
      if ((n & 8) != 0) byte = (byte >> 7) * 255;
      r |= byte << (8 * i);
    }
    return r;
  };
  const auto lop3 = [](uint32_t a, uint32_t b, uint32_t c, uint32_t table) {
    uint32_t r = 0;
    for (int i = 0; i < 32; ++i)
      r |= (table >> ((a >> i & 1) << 2 | (b >> i & 1) << 1 | (c >> i & 1)) & 1) << i;
    return r;
  };
  Check({{"bfe.u32 %r9, %r1, %r2, %r3;", 'w',
          [](auto a, auto b, auto c) { return BitField(U(a), U(b), U(c), 32, false); }},
         {"bfe.s32 %r9, %r1, %r2, %r3;", 'w',
          [](auto a, auto b, auto c) { return BitField(U(a), U(b), U(c), 32, true); }},
         {"bfe.u32 %r9, %r1, 8, 4;", 'w', [](auto a, auto, auto) { return U(a) >> 8 & 15; }},
         {"bfe.u64 %rd9, %rd1, %r2, %r3;", 'l',
          [](auto a, auto b, auto c) { return BitField(a, U(b), U(c), 64, false); }},
         {"bfe.s64 %rd9, %rd1, %r2, %r3;", 'l',
          [](auto a, auto b, auto c) { return BitField(a, U(b), U(c), 64, true); }},
         {"bfi.b32 %r9, %r1, %r2, %r3, 7;", 'w',
          [=](auto a, auto b, auto c) { return U(bfi(U(a), U(b), U(c), 7, 32)); }},
         {"bfi.b64 %rd9, %rd1, %rd2, 5, %r3;", 'l',
          [=](auto a, auto b, auto c) { return bfi(a, b, 5, U(c), 64); }},
         {"prmt.b32 %r9, %r1, %r2, %r3;", 'w',
          [=](auto a, auto b, auto c) { return prmt(U(a), U(b), U(c)); }},
         {"prmt.b32 %r9, %r1, %r2, 0x7531;", 'w',
          [=](auto a, auto b, auto) { return prmt(U(a), U(b), 0x7531); }},
         {"lop3.b32 %r9, %r1, %r2, %r3, 0xe8;", 'w',
          [=](auto a, auto b, auto c) { return lop3(U(a), U(b), U(c), 0xe8); }},
         {"lop3.b32 %r9, %r1, %r2, %r3, 0x6a;", 'w',
          [=](auto a, auto b, auto c) { return lop3(U(a), U(b), U(c), 0x6a); }},
         {"{ .reg .b16 lo, hi; mov.b32 {lo, hi}, %r1; mov.b32 %r9, {hi, lo}; }", 'w',
          [](auto a, auto, auto) { return U(a) >> 16 | U(a) << 16; }},
         {"{ .reg .b32 lo, hi; mov.b64 {lo, hi}, %rd1; mov.b64 %rd9, {hi, lo}; }", 'l',
          [](auto a, auto, auto) { return a >> 32 | a << 32; }},
         {"{ .reg .b32 hi; mov.b64 {_, hi}, %rd1; mov.u32 %r9, hi; }", 'w',
          [](auto a, auto, auto) { return a >> 32; }},
         {"{ .reg .b16 a0, a1, a2, a3; mov.b64 {a0, a1, a2, a3}, %rd1; mov.b64 %rd9, {a3, a2, a1, "
          "a0}; }",
          'l', [](auto a, auto, auto) {
            return a >> 48 | (a >> 16 & 0xffff0000) | (a & 0xffff0000) << 16 | a << 48;
          }}});
}

template <typename A, typename B>
uint64_t Dp4(uint64_t a, uint64_t b, uint64_t c) {
  uint32_t sum = U(c);
  for (int i = 0; i < 4; ++i)
    sum += static_cast<uint32_t>(static_cast<A>(a >> (8 * i)) * static_cast<B>(b >> (8 * i)));
  return sum;
}
template <typename A, typename B>
uint64_t Dp2(uint64_t a, uint64_t b, uint64_t c, int first) {
  uint32_t sum = U(c);
  for (int i = 0; i < 2; ++i)
    sum += static_cast<uint32_t>(int64_t{static_cast<A>(a >> (16 * i))} *
                                 static_cast<B>(b >> (8 * (i + first))));
  return sum;
}

TEST(MachineArith, DotProducts) {
  Check({{"dp4a.s32.s32 %r9, %r1, %r2, %r3;", 'w', Dp4<int8_t, int8_t>},
         {"dp4a.u32.s32 %r9, %r1, %r2, %r3;", 'w', Dp4<uint8_t, int8_t>},
         {"dp4a.s32.u32 %r9, %r1, %r2, %r3;", 'w', Dp4<int8_t, uint8_t>},
         {"dp4a.u32.u32 %r9, %r1, %r2, %r3;", 'w', Dp4<uint8_t, uint8_t>},
         {"dp2a.lo.s32.s32 %r9, %r1, %r2, %r3;", 'w',
          [](auto a, auto b, auto c) { return Dp2<int16_t, int8_t>(a, b, c, 0); }},
         {"dp2a.hi.u32.u32 %r9, %r1, %r2, %r3;", 'w',
          [](auto a, auto b, auto c) { return Dp2<uint16_t, uint8_t>(a, b, c, 2); }}});
}

TEST(MachineArith, ComparisonsAndSelection) {
  Check(
      {{"setp.lt.s32 %p9, %r1, %r2;", 'p', [](auto a, auto b, auto) { return S(a) < S(b); }},
       {"setp.ge.u32 %p9, %r1, %r2;", 'p', [](auto a, auto b, auto) { return U(a) >= U(b); }},
       {"setp.hi.u32 %p9, %r1, %r2;", 'p', [](auto a, auto b, auto) { return U(a) > U(b); }},
       {"setp.eq.b32 %p9, %r1, %r2;", 'p', [](auto a, auto b, auto) { return U(a) == U(b); }},
       {"setp.le.s64 %p9, %rd1, %rd2;", 'p', [](auto a, auto b, auto) { return L(a) <= L(b); }},
       {"setp.gt.u64 %p9, %rd1, %rd2;", 'p', [](auto a, auto b, auto) { return a > b; }},
       {"setp.lt.s16 %p9, %h1, %h2;", 'p', [](auto a, auto b, auto) { return HS(a) < HS(b); }},
       {"setp.ne.u16 %p9, %h1, 255;", 'p', [](auto a, auto, auto) { return H(a) != 255; }},
       {"setp.lt.and.s32 %p9|%p8, %r1, %r2, %p1;", 'p',
        [](auto a, auto b, auto c) { return S(a) < S(b) && (c & 1); }},
       {"setp.lt.and.s32 %p8|%p9, %r1, %r2, !%p1;", 'p',
        [](auto a, auto b, auto c) { return !(S(a) < S(b)) && !(c & 1); }},
       {"setp.lt.or.s32 %p9, %r1, %r2, %p1;", 'p',
        [](auto a, auto b, auto c) { return S(a) < S(b) || (c & 1); }},
       {"setp.lt.xor.s32 %p9, %r1, %r2, %p1;", 'p',
        [](auto a, auto b, auto c) { return (S(a) < S(b)) != ((c & 1) != 0); }},
       {"selp.b32 %r9, %r1, %r2, %p1;", 'w',
        [](auto a, auto b, auto c) { return U(c & 1 ? a : b); }},
       {"selp.b64 %rd9, %rd1, 77, !%p1;", 'l', [](auto a, auto, auto c) { return c & 1 ? 77 : a; }},
       {"selp.b16 %h9, -1, %h2, %p1;", 'h',
        [](auto, auto b, auto c) { return c & 1 ? 0xffff : H(b); }},
       {"slct.b32.s32 %r9, %r1, %r2, %r3;", 'w',
        [](auto a, auto b, auto c) { return U(S(c) >= 0 ? a : b); }},
       {"xor.pred %p9, %p1, %p1; not.pred %p9, %p9; and.pred %p9, %p9, %p1;", 'p',
        [](auto, auto, auto c) { return c & 1; }},
       {"mov.pred %p9, %p1; @%p9 mov.pred %p9, 0; @!%p1 mov.pred %p9, -1;", 'p',
        [](auto, auto, auto c) { return !(c & 1); }},
       {"setp.lt.f32 %p9, %f1, %f2;", 'p', [](auto a, auto b, auto) { return F(a) < F(b); }},
       {"setp.ne.f32 %p9, %f1, %f2;", 'p',
        [](auto a, auto b, auto) { return F(a) < F(b) || F(a) > F(b); }},
       {"setp.neu.f32 %p9, %f1, %f2;", 'p', [](auto a, auto b, auto) { return !(F(a) == F(b)); }},
       {"setp.geu.f32 %p9, %f1, 0f3F800000;", 'p',
        [](auto a, auto, auto) { return !(F(a) < 1.0f); }},
       {"setp.nan.f32 %p9, %f1, %f2;", 'p',
        [](auto a, auto b, auto) { return std::isnan(F(a)) || std::isnan(F(b)); }},
       {"setp.num.f64 %p9, %fd1, %fd2;", 'p',
        [](auto a, auto b, auto) { return !std::isnan(D(a)) && !std::isnan(D(b)); }},
       {"setp.gt.f64 %p9, %fd1, %fd2;", 'p', [](auto a, auto b, auto) { return D(a) > D(b); }},
       {"testp.finite.f32 %p9, %f1;", 'p', [](auto a, auto, auto) { return std::isfinite(F(a)); }},
       {"testp.subnormal.f32 %p9, %f1;", 'p',
        [](auto a, auto, auto) { return std::fpclassify(F(a)) == FP_SUBNORMAL; }}});
}

// The number if one is a NaN; +0 above -0.
template <typename T>
T MinOf(T a, T b) {
  if (a != a) return b;
  if (b != b) return a;
  if (a == b) return std::signbit(a) ? a : b;
  return a < b ? a : b;
}

TEST(MachineArith, Floats32) {
  Check(
      {{"add.rn.f32 %f9, %f1, %f2;", 'f', [](auto a, auto b, auto) { return Bits(F(a) + F(b)); }},
       {"sub.rn.f32 %f9, %f1, %f2;", 'f', [](auto a, auto b, auto) { return Bits(F(a) - F(b)); }},
       {"mul.rn.f32 %f9, %f1, %f2;", 'f', [](auto a, auto b, auto) { return Bits(F(a) * F(b)); }},
       {"mul.f32 %f9, %f1, 0f40000000;", 'f', [](auto a, auto, auto) { return Bits(F(a) * 2.0f); }},
       {"div.rn.f32 %f9, %f1, %f2;", 'f', [](auto a, auto b, auto) { return Bits(F(a) / F(b)); }},
       {"rcp.rn.f32 %f9, %f1;", 'f', [](auto a, auto, auto) { return Bits(1.0f / F(a)); }},
       {"sqrt.rn.f32 %f9, %f1;", 'f', [](auto a, auto, auto) { return Bits(std::sqrt(F(a))); }},
       {"fma.rn.f32 %f9, %f1, %f2, %f3;", 'f',
        [](auto a, auto b, auto c) { return Bits(std::fma(F(a), F(b), F(c))); }},
       {"min.f32 %f9, %f1, %f2;", 'f',
        [](auto a, auto b, auto) { return Bits(MinOf(F(a), F(b))); }},
       {"max.f32 %f9, %f1, %f2;", 'f',
        [](auto a, auto b, auto) { return Bits(-MinOf(-F(a), -F(b))); }},
       {"min.NaN.f32 %f9, %f1, %f2;", 'f',
        [](auto a, auto b, auto) {
          return Bits(F(a) != F(a) ? F(a) : F(b) != F(b) ? F(b) : MinOf(F(a), F(b)));
        }},
       {"neg.f32 %f9, %f1;", 'f', [](auto a, auto, auto) { return U(a) ^ 0x80000000u; }},
       {"abs.f32 %f9, %f1;", 'f', [](auto a, auto, auto) { return U(a) & 0x7fffffffu; }},
       {"copysign.f32 %f9, %f1, %f2;", 'f',
        [](auto a, auto b, auto) { return (U(b) & 0x7fffffffu) | (U(a) & 0x80000000u); }}});
}

TEST(MachineArith, Floats64) {
  Check({{"add.rn.f64 %fd9, %fd1, %fd2;", 'd',
          [](auto a, auto b, auto) { return Bits(D(a) + D(b)); }},
         {"mul.rn.f64 %fd9, %fd1, %fd2;", 'd',
          [](auto a, auto b, auto) { return Bits(D(a) * D(b)); }},
         {"fma.rn.f64 %fd9, %fd1, %fd2, %fd3;", 'd',
          [](auto a, auto b, auto c) { return Bits(std::fma(D(a), D(b), D(c))); }},
         {"div.rn.f64 %fd9, %fd1, %fd2;", 'd',
          [](auto a, auto b, auto) { return Bits(D(a) / D(b)); }},
         {"sqrt.rn.f64 %fd9, %fd1;", 'd', [](auto a, auto, auto) { return Bits(std::sqrt(D(a))); }},
         {"neg.f64 %fd9, %fd1;", 'd', [](auto a, auto, auto) { return a ^ uint64_t { 1 } << 63; }},
         {"min.f64 %fd9, %fd1, %fd2;", 'd',
          [](auto a, auto b, auto) { return Bits(MinOf(D(a), D(b))); }},
         {"add.rn.f64 %fd9, %fd1, 0d3FF0000000000000;", 'd',
          [](auto a, auto, auto) { return Bits(D(a) + 1.0); }}});
}

double Half(uint64_t v) { return double{HalfToFloat(H(v))}; }

// a * b + c in whole units of 2^-48, rounded once by shifting.
uint64_t ExactHalfFma(uint16_t a, uint16_t b, uint16_t c) {
  const double p = Half(a) * Half(b), q = Half(c);
  if (!std::isfinite(p) || !std::isfinite(q) || p + q == 0)
    return DoubleToHalf(p + q, Rounding::kNearest);
  const Wide sum = static_cast<Wide>(Half(a) * 0x1p24) * static_cast<Wide>(Half(b) * 0x1p24) +
                   (static_cast<Wide>(q * 0x1p24) << 24);
  const bool negative = sum < 0;
  const UWide magnitude = static_cast<UWide>(negative ? -sum : sum);
  int bits = 0;
  while ((magnitude >> bits) != 0) ++bits;
  const int drop = std::max(bits - 11, 24);  // 2^-24 is the smallest unit
  UWide kept = magnitude >> drop;
  const UWide rest = magnitude - (kept << drop), half = UWide{1} << (drop - 1);
  if (rest > half || (rest == half && (kept & 1) != 0)) ++kept;
  const double value = std::ldexp(static_cast<double>(static_cast<uint64_t>(kept)), drop - 48);
  return DoubleToHalf(negative ? -value : value, Rounding::kNearest);
}

TEST(MachineArith, Halves) {
  const auto rn = [](double x) { return uint64_t{DoubleToHalf(x, Rounding::kNearest)}; };
  Check({{"add.rn.f16 %h9, %h1, %h2;", 'h',
          [=](auto a, auto b, auto) { return rn(Half(a) + Half(b)); }},
         {"mul.rn.f16 %h9, %h1, %h2;", 'h',
          [=](auto a, auto b, auto) { return rn(Half(a) * Half(b)); }},
         {"sub.rn.f16x2 %r9, %r1, %r2;", 'w',
          [=](auto a, auto b, auto) {
            return rn(Half(a) - Half(b)) | rn(Half(a >> 16) - Half(b >> 16)) << 16;
          }},
         {"fma.rn.f16 %h9, %h1, %h2, %h3;", 'h',
          [](auto a, auto b, auto c) { return ExactHalfFma(H(a), H(b), H(c)); }},
         {"neg.f16x2 %r9, %r1;", 'w', [](auto a, auto, auto) { return U(a) ^ 0x80008000u; }},
         {"setp.lt.f16 %p9, %h1, %h2;", 'p',
          [](auto a, auto b, auto) { return Half(a) < Half(b); }}});
}

TEST(MachineArith, HalfFmaRoundsOnce) {
  // 1 + 2^-11 lies halfway between two halves; a product of 2^-60's size decides, which a sum in
  // double would lose.
  const uint64_t tiny = 0x0001;  // 2^-24
  std::vector<Input> inputs(kCount, {tiny, 0x8001, 0});
  OnEveryIsa([&] {
    const auto got = Results(
        "mov.b16 %h5, 0x6400; mov.b16 %h6, 0x0400; fma.rn.f16 %h9, %h1, %h2, %h5;", 'h', inputs);
    EXPECT_EQ(got[0], 0x6400u);  // 1024 - 2^-48 rounds to 1024
  });
}

TEST(MachineArith, Conversions) {
  Check({{"cvt.u32.u16 %r9, %h1;", 'w', [](auto a, auto, auto) { return H(a); }},
         {"cvt.s32.s16 %r9, %h1;", 'w',
          [](auto a, auto, auto) { return U(static_cast<uint64_t>(HS(a))); }},
         {"cvt.s32.s8 %r9, %r1;", 'w',
          [](auto a, auto, auto) { return U(static_cast<uint64_t>(static_cast<int8_t>(a))); }},
         {"cvt.s64.s8 %rd9, %h1;", 'l',
          [](auto a, auto, auto) { return static_cast<uint64_t>(static_cast<int8_t>(a)); }},
         {"cvt.s16.s8 %h9, %r1;", 'h',
          [](auto a, auto, auto) { return H(static_cast<uint64_t>(static_cast<int8_t>(a))); }},
         {"cvt.s8.s32 %h9, %r1;", 'h',
          [](auto a, auto, auto) { return H(static_cast<uint64_t>(static_cast<int8_t>(a))); }},
         {"cvt.u8.u32 %r9, %r1;", 'w', [](auto a, auto, auto) { return a & 255; }},
         {"cvt.s64.s32 %rd9, %r1;", 'l',
          [](auto a, auto, auto) { return static_cast<uint64_t>(S(a)); }},
         {"cvt.u64.u32 %rd9, %r1;", 'l', [](auto a, auto, auto) { return U(a); }},
         {"cvt.u16.u64 %h9, %rd1;", 'h', [](auto a, auto, auto) { return H(a); }},
         {"cvt.sat.s8.s32 %r9, %r1;", 'w',
          [](auto a, auto, auto) { return U(static_cast<uint64_t>(std::clamp(S(a), -128, 127))); }},
         {"cvt.sat.u8.s32 %r9, %r1;", 'w',
          [](auto a, auto, auto) { return static_cast<uint64_t>(std::clamp(S(a), 0, 255)); }},
         {"cvt.sat.u16.s64 %h9, %rd1;", 'h',
          [](auto a, auto, auto) {
            return static_cast<uint64_t>(std::clamp<int64_t>(L(a), 0, 65535));
          }},
         {"cvt.rn.f32.s32 %f9, %r1;", 'f',
          [](auto a, auto, auto) { return Bits(static_cast<float>(S(a))); }},
         {"cvt.rn.f32.u32 %f9, %r1;", 'f',
          [](auto a, auto, auto) { return Bits(static_cast<float>(U(a))); }},
         {"cvt.rn.f32.s8 %f9, %r1;", 'f',
          [](auto a, auto, auto) { return Bits(static_cast<float>(static_cast<int8_t>(a))); }},
         {"cvt.rn.f32.s64 %f9, %rd1;", 'f',
          [](auto a, auto, auto) { return Bits(static_cast<float>(L(a))); }},
         {"cvt.rn.f32.u64 %f9, %rd1;", 'f',
          [](auto a, auto, auto) { return Bits(static_cast<float>(a)); }},
         {"cvt.rn.f64.s64 %fd9, %rd1;", 'd',
          [](auto a, auto, auto) { return Bits(static_cast<double>(L(a))); }},
         {"cvt.rn.f64.u32 %fd9, %r1;", 'd',
          [](auto a, auto, auto) { return Bits(static_cast<double>(U(a))); }}});
}

TEST(MachineArith, ConversionsOfFloats) {
  const auto clamp = [](double x, double low, double high) {
    return std::isnan(x) ? 0.0 : std::min(std::max(x, low), high);
  };
  const auto s32 = [=](double x) {
    return U(static_cast<uint64_t>(static_cast<int64_t>(clamp(x, -0x1p31, 0x1p31 - 1))));
  };
  Check({{"cvt.rzi.s32.f32 %r9, %f1;", 'w',
          [=](auto a, auto, auto) { return s32(std::trunc(double{F(a)})); }},
         {"cvt.rni.s32.f32 %r9, %f1;", 'w',
          [=](auto a, auto, auto) { return s32(std::nearbyint(double{F(a)})); }},
         {"cvt.rmi.s32.f32 %r9, %f1;", 'w',
          [=](auto a, auto, auto) { return s32(std::floor(double{F(a)})); }},
         {"cvt.rpi.s32.f32 %r9, %f1;", 'w',
          [=](auto a, auto, auto) { return s32(std::ceil(double{F(a)})); }},
         {"cvt.rni.s8.f32 %r9, %f1;", 'w',
          [=](auto a, auto, auto) {
            return U(static_cast<uint64_t>(
                static_cast<int64_t>(clamp(std::nearbyint(F(a)), -128, 127))));
          }},
         {"cvt.rzi.u32.f32 %r9, %f1;", 'w',
          [=](auto a, auto, auto) {
            return U(static_cast<uint64_t>(clamp(std::trunc(double{F(a)}), 0, 0x1p32 - 1)));
          }},
         {"cvt.rni.f32.f32 %f9, %f1;", 'f',
          [](auto a, auto, auto) { return Bits(std::nearbyint(F(a))); }},
         {"cvt.rmi.f32.f32 %f9, %f1;", 'f',
          [](auto a, auto, auto) { return Bits(std::floor(F(a))); }},
         {"cvt.f32.f16 %f9, %h1;", 'f', [](auto a, auto, auto) { return Bits(HalfToFloat(H(a))); }},
         {"cvt.rn.f16.f32 %h9, %f1;", 'h',
          [](auto a, auto, auto) {
            return uint64_t{DoubleToHalf(double{F(a)}, Rounding::kNearest)};
          }},
         {"cvt.rz.f16.f32 %h9, %f1;", 'h',
          [](auto a, auto, auto) { return uint64_t{DoubleToHalf(double{F(a)}, Rounding::kZero)}; }},
         {"cvt.f64.f32 %fd9, %f1;", 'd', [](auto a, auto, auto) { return Bits(double{F(a)}); }},
         {"cvt.rn.f32.f64 %f9, %fd1;", 'f',
          [](auto a, auto, auto) { return Bits(static_cast<float>(D(a))); }},
         {"cvt.sat.f32.f32 %f9, %f1;", 'f', [](auto a, auto, auto) {
            return Bits(!(F(a) > 0) ? 0.0f : F(a) > 1 ? 1.0f : F(a));
          }}});
}

// binary16 both ways, for every half and against the processor's own rounding of floats near each
// half.
TEST(MachineArith, HalfByBits) {
  for (uint32_t h = 0; h < 65536; ++h) {
    const float f = HalfToFloat(static_cast<uint16_t>(h));
    if (f != f) continue;
    ASSERT_EQ(DoubleToHalf(double{f}, Rounding::kNearest), h);
    const float above = std::nextafter(f, INFINITY);
    if (!std::isfinite(f) || !std::isfinite(above)) continue;
    ASSERT_LE(HalfToFloat(DoubleToHalf(double{above}, Rounding::kDown)), above);
    ASSERT_GE(HalfToFloat(DoubleToHalf(double{above}, Rounding::kUp)), above);
    if (!std::signbit(f) && f < 60000) {
      ASSERT_EQ(DoubleToHalf(double{above}, Rounding::kZero), h);
      ASSERT_EQ(DoubleToHalf(double{above}, Rounding::kUp), h + 1);
    }
  }
  EXPECT_EQ(DoubleToHalf(65519.99, Rounding::kNearest), 0x7bff);
  EXPECT_EQ(DoubleToHalf(65520.0, Rounding::kNearest), 0x7c00);
  EXPECT_EQ(DoubleToHalf(1e9, Rounding::kZero), 0x7bff);
  EXPECT_EQ(DoubleToHalf(-1e9, Rounding::kUp), 0xfbff);
  EXPECT_EQ(DoubleToHalf(0x1p-25, Rounding::kNearest), 0x0000);
  EXPECT_EQ(DoubleToHalf(0x1.8p-25, Rounding::kNearest), 0x0001);
}

TEST(MachineArith, DirectedRoundingsOfFloats) {
  EXPECT_EQ(DoubleToFloat(1.0 + 0x1p-30, Rounding::kUp), std::nextafter(1.0f, 2.0f));
  EXPECT_EQ(DoubleToFloat(1.0 + 0x1p-30, Rounding::kDown), 1.0f);
  EXPECT_EQ(DoubleToFloat(1e300, Rounding::kZero), std::numeric_limits<float>::max());
  EXPECT_EQ(DoubleToFloat(0x1p-150, Rounding::kUp), 0x1p-149f);
  EXPECT_EQ(DoubleToFloat(0x1.8p-149, Rounding::kNearest), 0x1p-148f);
}

TEST(MachineArith, DivisionByZeroIsRefused) {
  Memory memory;
  Machine machine(&memory);
  const std::string body = "mov.u32 %r1, %tid.x; mov.u32 %r3, 7; div.u32 %r2, %r3, %r1; ret;";
  EXPECT_FAILS(RunText(&machine, KernelText(body, 0), {}), "integer division by zero");
}

}  // namespace
}  // namespace lanyard::ptx
