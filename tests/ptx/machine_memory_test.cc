// Memory: spaces, vectors, atomics, asynchronous copies, matrices; the Memory class; counters.
#include <bit>
#include <numeric>
#include <random>

#include "tests/ptx/half.h"
#include "tests/ptx/machine_testing.h"

namespace lanyard::ptx {
namespace {

class MachineMemory : public ::testing::Test {
 protected:
  absl::Status Run(const std::string& body, std::vector<uint64_t> params, Shape shape = {},
                   std::string_view before = "", int sm = 80) {
    counters_ = Counters();
    return RunText(&machine_, KernelText(body, static_cast<int>(params.size()), sm, before), params,
                   shape, &counters_);
  }
  template <typename T>
  std::vector<T> Get(uint64_t address, size_t n) {
    auto values = memory_.Download<T>(address, n);
    EXPECT_TRUE(values.ok()) << values.status();
    return values.ok() ? *values : std::vector<T>(n);
  }
  Memory memory_;
  Machine machine_{&memory_};
  Counters counters_;
};

constexpr const char* kThreadIndex = R"(
  ld.param.u64 %rd1, [p0];
  ld.param.u64 %rd2, [p1];
  mov.u32 %r30, %ctaid.x; mov.u32 %r31, %ntid.x; mov.u32 %r32, %tid.x;
  mad.lo.s32 %r1, %r30, %r31, %r32;
)";

TEST_F(MachineMemory, VectorsAndSubWords) {
  std::vector<uint32_t> in(4 * 32);
  std::iota(in.begin(), in.end(), 0x80818283u);
  const uint64_t a = memory_.Upload(in, "in"), out = memory_.Alloc(32 * 32, "out");
  ASSERT_OK(Run(std::string(kThreadIndex) + R"(
  mul.wide.u32 %rd3, %r1, 16; add.s64 %rd4, %rd1, %rd3;
  mul.wide.u32 %rd3, %r1, 32; add.s64 %rd5, %rd2, %rd3;
  ld.global.nc.v4.u32 {%r2, %r3, %r4, %r5}, [%rd4];
  st.global.v2.u32 [%rd5], {%r5, %r4};
  ld.global.v2.u64 {%rd6, %rd7}, [%rd4];
  st.global.u64 [%rd5+8], %rd7;
  ld.global.s8 %r6, [%rd4+1];
  st.global.u32 [%rd5+16], %r6;
  ld.global.u16 %h1, [%rd4+2];
  st.global.u16 [%rd5+20], %h1;
  ld.global.s8 %h2, [%rd4+3];
  st.global.u16 [%rd5+22], %h2;
  ld.global.v4.u8 {%h3, %h4, %h5, %h6}, [%rd4+4];
  st.global.v4.u8 [%rd5+24], {%h6, %h5, %h4, %h3};
  ld.global.s16 %rd8, [%rd4+8];
  st.global.u32 [%rd5+28], %rd8;
  ret;)",
                {a, out}));
  const auto got = Get<uint32_t>(out, 32 * 8);
  for (uint32_t i = 0; i < 32; ++i) {
    const uint32_t* v = &in[4 * i];
    const auto s8 = [](uint32_t x) { return static_cast<uint32_t>(static_cast<int8_t>(x)); };
    EXPECT_EQ(got[8 * i], v[3]);
    EXPECT_EQ(got[8 * i + 1], v[2]);
    EXPECT_EQ(got[8 * i + 2], v[2]);
    EXPECT_EQ(got[8 * i + 3], v[3]);
    EXPECT_EQ(got[8 * i + 4], s8(v[0] >> 8));
    EXPECT_EQ(got[8 * i + 5], (v[0] >> 16) | (s8(v[0] >> 24) & 0xffffu) << 16);
    EXPECT_EQ(got[8 * i + 6], __builtin_bswap32(v[1]));
    EXPECT_EQ(got[8 * i + 7], static_cast<uint32_t>(static_cast<int16_t>(v[2])));
  }
}

TEST_F(MachineMemory, ParametersOfAStruct) {
  const std::string text = R"(.version 7.5
.target sm_75
.address_size 64
.visible .entry k(.param .align 8 .b8 args[40], .param .u8 tail) {
  .reg .b64 %rd<9>; .reg .b32 %r<9>; .reg .f32 %f<3>; .reg .b16 %h<3>;
  ld.param.u64 %rd1, [args];
  ld.param.v2.u32 {%r1, %r2}, [args+8];
  ld.param.f32 %f1, [args+16];
  ld.param.s16 %r3, [args+20];
  ld.param.u8 %h1, [tail];
  mov.b64 %rd2, args;
  mov.u32 %r4, %tid.x;
  mul.wide.u32 %rd3, %r4, 4;
  add.s64 %rd4, %rd2, %rd3;
  ld.param.u32 %r5, [%rd4+24];
  mov.b32 %r6, %f1;
  add.u32 %r1, %r1, %r2; add.u32 %r1, %r1, %r3; add.u32 %r1, %r1, %r6;
  cvt.u32.u16 %r7, %h1; add.u32 %r1, %r1, %r7;
  add.u32 %r1, %r1, %r5;
  add.s64 %rd5, %rd1, %rd3;
  st.global.u32 [%rd5], %r1;
  ret;
})";
  const auto module = Module::Parse(text);
  ASSERT_TRUE(module.ok()) << module.status();
  const Kernel& k = *(*module)->Find("k");
  EXPECT_EQ(k.param_bytes(), 41u);
  EXPECT_EQ(k.params().size(), 2u);
  EXPECT_EQ(k.params()[1].offset_bytes, 40u);
  struct {
    uint64_t out;
    uint32_t a = 5, b = 6;
    float f = 1.0f;
    int16_t c = -3, pad = 0;
    uint32_t table[4] = {100, 200, 300, 400};
    uint8_t tail = 9;
  } args;
  args.out = memory_.Alloc(16, "out");
  LaunchConfig config;
  config.block = {4, 1, 1};
  const std::span<const uint8_t> bytes(reinterpret_cast<const uint8_t*>(&args), 41);
  ASSERT_OK(machine_.Launch(k, config, bytes));
  const auto got = Get<uint32_t>(args.out, 4);
  for (uint32_t i = 0; i < 4; ++i) EXPECT_EQ(got[i], 5 + 6 + 0x3f800000 - 3 + 9 + (i + 1) * 100);
  config.block = {5, 1, 1};  // the fifth reads beyond the parameters
  EXPECT_FAILS(machine_.Launch(k, config, bytes), "out of bounds: param address");
  EXPECT_FAILS(machine_.Launch(k, config, bytes.first(40)),
               "40 bytes of parameters, the kernel has 41");
}

TEST_F(MachineMemory, GenericAddressesConstantsAndVariables) {
  const uint64_t out = memory_.Alloc(64 * 4, "out");
  const std::string before = R"(
.const .align 4 .u32 table[4] = {10, 20, 0x1e, 40};
.global .align 4 .f32 scale = 0f40000000;
.visible .global .align 8 .b8 buffer[256];
)";
  ASSERT_OK(Run(R"(
  .shared .align 8 .b8 tile[128];
  .local .align 4 .b8 depot[16];
  ld.param.u64 %rd1, [p0];
  mov.u32 %r1, %tid.x;
  and.b32 %r2, %r1, 3; shl.b32 %r2, %r2, 2; cvt.u64.u32 %rd2, %r2;
  mov.u64 %rd3, table; add.s64 %rd3, %rd3, %rd2; ld.const.u32 %r3, [%rd3];
  ld.const.u32 %r4, [table+4];
  ld.global.f32 %f1, [scale]; cvt.rzi.u32.f32 %r5, %f1;
  // shared, by a generic address
  mov.u64 %rd4, tile; cvta.shared.u64 %rd5, %rd4;
  mul.wide.u32 %rd6, %r1, 4; add.s64 %rd7, %rd5, %rd6;
  st.u32 [%rd7], %r1; ld.u32 %r6, [%rd7];
  isspacep.shared %p1, %rd7; isspacep.global %p2, %rd7; selp.u32 %r10, 1000, 0, %p1;
  selp.u32 %r11, 5000, 0, %p2;
  cvta.to.shared.u64 %rd8, %rd7; ld.shared.u32 %r7, [%rd8];
  // local, each lane its own
  mov.u64 %rd9, depot; cvta.local.u64 %rd10, %rd9; add.s64 %rd11, %rd10, %rd2;
  st.u32 [%rd11], %r1; cvta.to.local.u64 %rd12, %rd11; ld.local.u32 %r8, [%rd12];
  // a variable
  mov.u64 %rd13, buffer; add.s64 %rd14, %rd13, %rd6; st.global.u32 [%rd14], %r1;
  ld.global.u32 %r9, [%rd14];
  add.u32 %r3, %r3, %r4; add.u32 %r3, %r3, %r5; add.u32 %r3, %r3, %r6; add.u32 %r3, %r3, %r7;
  add.u32 %r3, %r3, %r8;
  add.u32 %r3, %r3, %r9; add.u32 %r3, %r3, %r10; add.u32 %r3, %r3, %r11;
  add.s64 %rd15, %rd1, %rd6; st.global.u32 [%rd15], %r3; ret;)",
                {out}, {1, 32}, before));
  const auto got = Get<uint32_t>(out, 32);
  for (uint32_t i = 0; i < 32; ++i) EXPECT_EQ(got[i], (i % 4 + 1) * 10 + 20 + 2 + 4 * i + 1000);
  EXPECT_EQ(memory_.live_allocations(), 1u) << "the module's variables went with it";
}

TEST_F(MachineMemory, VariablesLiveAsLongAsTheirModule) {
  const auto module = Module::Parse(KernelText(
      "ld.global.u32 %r1, [count]; add.u32 %r1, %r1, 1; st.global.u32 [count], %r1; ret;", 0, 75,
      ".global .u32 count = 41;"));
  ASSERT_TRUE(module.ok()) << module.status();
  for (int i = 0; i < 2; ++i) {
    LaunchConfig one;
    EXPECT_OK(machine_.Launch(*(*module)->Find("k"), one, std::span<const uint8_t>()));
  }
  const auto address = machine_.Global(**module, "count");
  ASSERT_TRUE(address.ok());
  EXPECT_EQ(Get<uint32_t>(*address, 1)[0], 43u);
  EXPECT_FALSE(machine_.Global(**module, "other").ok());
  machine_.Unload(**module);
  EXPECT_EQ(memory_.live_allocations(), 0u);
}

TEST_F(MachineMemory, DynamicSharedMemoryFollowsTheStatic) {
  const uint64_t out = memory_.Alloc(64 * 4, "out");
  const std::string body = R"(
  .shared .align 4 .b8 fixed[8];
  ld.param.u64 %rd1, [p0]; mov.u32 %r1, %tid.x;
  mov.u32 %r2, dyn; shl.b32 %r3, %r1, 2; add.u32 %r4, %r2, %r3;
  st.shared.u32 [%r4], %r1; mov.u32 %r5, fixed; setp.lt.u32 %p1, %r1, 2; add.u32 %r6, %r5, %r3;
  @%p1 st.shared.u32 [%r6], 7;
  bar.sync 0;
  xor.b32 %r7, %r3, 4; add.u32 %r7, %r2, %r7; ld.shared.u32 %r8, [%r7];
  mul.wide.u32 %rd2, %r1, 4; add.s64 %rd3, %rd1, %rd2; st.global.u32 [%rd3], %r8; ret;)";
  const std::string before = ".extern .shared .align 16 .b8 dyn[];";
  ASSERT_OK(Run(body, {out}, {1, 64, 256}, before));
  const auto got = Get<uint32_t>(out, 64);
  for (uint32_t i = 0; i < 64; ++i) EXPECT_EQ(got[i], i ^ 1u);
  EXPECT_FAILS(Run(body, {out}, {1, 64, 252}, before), "out of bounds: shared address");
}

TEST_F(MachineMemory, Atomics) {
  struct Case {
    const char* op;
    uint32_t start, want;
  };
  for (const Case& c : {Case{"add.u32", 5, 5 + 496}, Case{"max.u32", 3, 31}, Case{"min.s32", 7, 0},
                        Case{"or.b32", 32, 63}, Case{"and.b32", 0xffff, 0}, Case{"xor.b32", 1, 1},
                        Case{"inc.u32", 0, 0}, Case{"exch.b32", 99, 0}}) {
    SCOPED_TRACE(c.op);
    for (const char* space : {"global", "shared"}) {
      const std::vector<uint32_t> start(1, c.start);
      const uint64_t word = memory_.Upload(start, "word"), old = memory_.Alloc(32 * 4, "old");
      const bool shared = std::string_view(space) == "shared";
      ASSERT_OK(
          Run(absl::StrCat(kThreadIndex, R"(
  .shared .align 4 .b8 w[4];
  ld.global.u32 %r9, [%rd1]; mov.u64 %rd9, w;
  setp.eq.u32 %p1, %r1, 0; @%p1 st.shared.u32 [w], %r9; bar.sync 0;
)",
                           shared ? "mov.u64 %rd8, %rd9;" : "mov.u64 %rd8, %rd1;", "atom.", space,
                           ".", c.op, R"( %r2, [%rd8], %r1;
  mul.wide.u32 %rd3, %r1, 4; add.s64 %rd4, %rd2, %rd3; st.global.u32 [%rd4], %r2;
  bar.sync 0;
)",
                           shared ? "ld.shared.u32 %r9, [w]; @%p1 st.global.u32 [%rd1], %r9;" : "",
                           "ret;"),
              {word, old}));
      if (std::string_view(c.op) == "exch.b32" || std::string_view(c.op) == "inc.u32") {
        EXPECT_LT(Get<uint32_t>(word, 1)[0], 32u);
      } else {
        EXPECT_EQ(Get<uint32_t>(word, 1)[0], c.want);
      }
      EXPECT_EQ(counters_.atomics, 32u);
    }
  }
  // 64 bits, compare and swap, floats, and red from many blocks.
  const std::vector<uint64_t> zero(2, 0);
  const uint64_t words = memory_.Upload(zero, "words");
  ASSERT_OK(Run(R"(
  ld.param.u64 %rd1, [p0]; mov.u32 %r1, %ctaid.x; cvt.u64.u32 %rd2, %r1;
  red.global.add.u64 [%rd1], %rd2;
  atom.global.cas.b32 %r2, [%rd1+8], 0, 17;
  atom.global.cas.b32 %r2, [%rd1+8], 5, 18;
  red.global.add.f32 [%rd1+12], 0f3F800000; ret;)",
                {words}, {50, 32}));
  EXPECT_EQ(Get<uint64_t>(words, 1)[0], 32u * 1225u);
  EXPECT_EQ(Get<uint32_t>(words + 8, 1)[0], 17u);
  EXPECT_EQ(Get<float>(words + 12, 1)[0], 1600.0f);
}

// --- Tensor cores

template <typename T>
void LoadLanes(std::string* body, const char* reg, int first, int count, int offset_bytes) {
  for (int i = 0; i < count; ++i) {
    absl::StrAppend(body, "ld.global.", sizeof(T) == 4 ? "b32" : "b64", " ", reg, first + i,
                    ", [%rd5+", offset_bytes + 4 * i, "];\n");
  }
}

TEST_F(MachineMemory, IntegerMma) {
  struct Case {
    const char* shape;
    uint32_t rows, depth, a, b, c;
    bool a_signed, b_signed;
  };
  std::mt19937 random(3);
  OnEveryIsa([&] {
    for (const Case& k : {Case{"m8n8k16", 8, 16, 1, 1, 2, true, true},
                          Case{"m16n8k16", 16, 16, 2, 1, 4, true, false},
                          Case{"m16n8k32", 16, 32, 4, 2, 4, true, true},
                          Case{"m16n8k32", 16, 32, 4, 2, 4, false, true}}) {
      SCOPED_TRACE(k.shape);
      std::vector<uint8_t> a(k.rows * k.depth), b(k.depth * 8);
      std::vector<int32_t> c(k.rows * 8);
      for (auto& x : a) x = static_cast<uint8_t>(random());
      for (auto& x : b) x = static_cast<uint8_t>(random());
      for (auto& x : c) x = static_cast<int32_t>(random() % 100000);
      a[0] = b[0] = 0x80;
      // Fragments as the PTX manual's figures give them: element e of a lane's registers.
      std::vector<uint32_t> lanes(32 * 16, 0);
      auto* bytes = reinterpret_cast<uint8_t*>(lanes.data());
      for (uint32_t lane = 0; lane < 32; ++lane) {
        const uint32_t group = lane / 4, in_group = lane % 4;
        for (uint32_t e = 0; e < 4 * k.a; ++e) {
          uint32_t row = group, column = in_group * 4 + e % 4;
          if (k.rows == 16) row = (k.a == 4 ? e / 4 % 2 == 0 : e < 4) ? group : group + 8;
          if (k.a == 4 && e >= 8) column += 16;
          bytes[lane * 64 + e] = a[row * k.depth + column];
        }
        for (uint32_t e = 0; e < 4 * k.b; ++e)
          bytes[lane * 64 + 16 + e] = b[(in_group * 4 + e % 4 + (e >= 4 ? 16 : 0)) * 8 + group];
        for (uint32_t e = 0; e < k.c; ++e) {
          lanes[lane * 16 + 8 + e] =
              static_cast<uint32_t>(c[(group + (e >= 2 ? 8 : 0)) * 8 + in_group * 2 + e % 2]);
        }
      }
      const uint64_t in = memory_.Upload(lanes, "lanes"), out = memory_.Alloc(32 * 16, "out");
      std::string body = std::string(kThreadIndex) +
                         "mul.wide.u32 %rd3, %r1, 64; add.s64 %rd5, %rd1, %rd3; mul.wide.u32 %rd3, "
                         "%r1, 16; add.s64 %rd6, %rd2, %rd3;";
      LoadLanes<uint32_t>(&body, "%r", 10, 4, 0);
      LoadLanes<uint32_t>(&body, "%r", 14, 2, 16);
      LoadLanes<uint32_t>(&body, "%r", 16, 4, 32);
      const char* d = k.c == 4 ? "{%r20,%r21,%r22,%r23}" : "{%r20,%r21}";
      const char* ra = k.a == 4 ? "{%r10,%r11,%r12,%r13}" : k.a == 2 ? "{%r10,%r11}" : "{%r10}";
      const char* rb = k.b == 2 ? "{%r14,%r15}" : "{%r14}";
      const char* rc = k.c == 4 ? "{%r16,%r17,%r18,%r19}" : "{%r16,%r17}";
      absl::StrAppend(&body, "mma.sync.aligned.", k.shape, ".row.col.s32.",
                      k.a_signed ? "s8" : "u8", ".", k.b_signed ? "s8" : "u8", ".s32 ", d, ", ", ra,
                      ", ", rb, ", ", rc, ";\nst.global.v2.u32 [%rd6], {%r20, %r21};\n");
      if (k.c == 4) body += "st.global.v2.u32 [%rd6+8], {%r22, %r23};";
      ASSERT_OK(Run(body + "ret;", {in, out}));
      EXPECT_EQ(counters_.mma, 1u);
      for (uint32_t lane = 0; lane < 32; ++lane) {
        const auto got = Get<int32_t>(out + lane * 16, k.c);
        for (uint32_t e = 0; e < k.c; ++e) {
          const uint32_t m = lane / 4 + (e >= 2 ? 8 : 0), n = lane % 4 * 2 + e % 2;
          int32_t want = c[m * 8 + n];
          for (uint32_t i = 0; i < k.depth; ++i) {
            const uint8_t x = a[m * k.depth + i], y = b[i * 8 + n];
            want += (k.a_signed ? int{static_cast<int8_t>(x)} : int{x}) *
                    (k.b_signed ? int{static_cast<int8_t>(y)} : int{y});
          }
          ASSERT_EQ(got[e], want) << "row " << m << " column " << n;
        }
      }
    }
  });
}

TEST_F(MachineMemory, HalfMmaSumsInOrder) {
  std::mt19937 random(4);
  std::vector<uint16_t> a(16 * 16), b(16 * 8);
  std::vector<float> c(16 * 8);
  const auto some = [&] {
    return DoubleToHalf(static_cast<double>(random() % 2001) / 250.0 - 4.0, Rounding::kNearest);
  };
  for (auto& x : a) x = some();
  for (auto& x : b) x = some();
  for (auto& x : c) x = static_cast<float>(random() % 100) / 7.0f;
  std::vector<uint32_t> lanes(32 * 16, 0);
  auto* halves = reinterpret_cast<uint16_t*>(lanes.data());
  for (uint32_t lane = 0; lane < 32; ++lane) {
    const uint32_t group = lane / 4, in_group = lane % 4;
    for (uint32_t e = 0; e < 8; ++e) {
      const uint32_t row = e % 4 < 2 ? group : group + 8,
                     column = in_group * 2 + e % 2 + (e >= 4 ? 8 : 0);
      halves[lane * 32 + e] = a[row * 16 + column];
    }
    for (uint32_t e = 0; e < 4; ++e)
      halves[lane * 32 + 8 + e] = b[(in_group * 2 + e % 2 + (e >= 2 ? 8 : 0)) * 8 + group];
    for (uint32_t e = 0; e < 4; ++e) {
      lanes[lane * 16 + 8 + e] =
          std::bit_cast<uint32_t>(c[(group + (e >= 2 ? 8 : 0)) * 8 + in_group * 2 + e % 2]);
    }
  }
  const uint64_t in = memory_.Upload(lanes, "lanes"), out = memory_.Alloc(32 * 16, "out");
  std::string body = std::string(kThreadIndex) +
                     "mul.wide.u32 %rd3, %r1, 64; add.s64 %rd5, %rd1, %rd3; mul.wide.u32 %rd3, "
                     "%r1, 16; add.s64 %rd6, %rd2, %rd3;";
  LoadLanes<uint32_t>(&body, "%r", 10, 4, 0);
  LoadLanes<uint32_t>(&body, "%r", 14, 2, 16);
  LoadLanes<uint32_t>(&body, "%f", 16, 4, 32);
  body +=
      "mma.sync.aligned.m16n8k16.row.col.f32.f16.f16.f32 {%f20,%f21,%f22,%f23}, "
      "{%r10,%r11,%r12,%r13}, {%r14,%r15}, {%f16,%f17,%f18,%f19};"
      "st.global.v4.f32 [%rd6], {%f20, %f21, %f22, %f23}; ret;";
  ASSERT_OK(Run(body, {in, out}));
  for (uint32_t lane = 0; lane < 32; ++lane) {
    const auto got = Get<float>(out + lane * 16, 4);
    for (uint32_t e = 0; e < 4; ++e) {
      const uint32_t m = lane / 4 + (e >= 2 ? 8 : 0), n = lane % 4 * 2 + e % 2;
      float want = c[m * 8 + n];
      for (uint32_t i = 0; i < 16; ++i)
        want = std::fma(HalfToFloat(a[m * 16 + i]), HalfToFloat(b[i * 8 + n]), want);
      ASSERT_EQ(got[e], want);
    }
  }
}

TEST_F(MachineMemory, LoadMatrix) {
  std::vector<uint16_t> tile(32 * 8);
  std::iota(tile.begin(), tile.end(), uint16_t{1});
  const uint64_t in = memory_.Upload(tile, "tile"), out = memory_.Alloc(32 * 16, "out");
  for (const bool transposed : {false, true}) {
    ASSERT_OK(
        Run(absl::StrCat(kThreadIndex, R"(
  .shared .align 16 .b8 s[512];
  mul.wide.u32 %rd3, %r1, 16; add.s64 %rd4, %rd1, %rd3;
  ld.global.v4.u32 {%r2, %r3, %r4, %r5}, [%rd4];
  mov.u32 %r6, s; shl.b32 %r7, %r1, 4; add.u32 %r6, %r6, %r7;
  st.shared.v4.u32 [%r6], {%r2, %r3, %r4, %r5};
  bar.sync 0;
  ldmatrix.sync.aligned.m8n8.x4)",
                         transposed ? ".trans" : "", R"(.shared.b16 {%r10, %r11, %r12, %r13}, [%r6];
  add.s64 %rd5, %rd2, %rd3; st.global.v4.u32 [%rd5], {%r10, %r11, %r12, %r13}; ret;)"),
            {in, out}));
    const auto got = Get<uint16_t>(out, 32 * 8);
    for (uint32_t lane = 0; lane < 32; ++lane) {
      for (uint32_t m = 0; m < 4; ++m) {
        for (uint32_t j = 0; j < 2; ++j) {
          const uint32_t row = transposed ? lane % 4 * 2 + j : lane / 4,
                         column = transposed ? lane / 4 : lane % 4 * 2 + j;
          ASSERT_EQ(got[lane * 8 + 2 * m + j], tile[(8 * m + row) * 8 + column]);
        }
      }
    }
  }
  EXPECT_EQ(counters_.ldmatrix, 1u);
}

// --- Asynchronous copies

std::string AsyncBody(const char* wait, const char* barrier = "bar.sync 0;") {
  return absl::StrCat(kThreadIndex, R"(
  .shared .align 16 .b8 s[2048];
  mul.wide.u32 %rd3, %r32, 16; add.s64 %rd4, %rd1, %rd3;
  mov.u32 %r6, s; shl.b32 %r7, %r32, 4; add.u32 %r6, %r6, %r7;
  cp.async.cg.shared.global [%r6], [%rd4], 16;
  cp.async.commit_group;
  cp.async.ca.shared.global [%r6+1024], [%rd4], 8;
  cp.async.ca.shared.global [%r6+1032], [%rd4+8], 8, 0;
  cp.async.commit_group;
)",
                      wait, barrier, R"(
  xor.b32 %r8, %r7, 512; mov.u32 %r9, s; add.u32 %r8, %r9, %r8;
  ld.shared.v4.u32 {%r2, %r3, %r4, %r5}, [%r8+OFFSET];
  add.s64 %rd5, %rd2, %rd3; st.global.v4.u32 [%rd5], {%r2, %r3, %r4, %r5}; ret;)");
}
std::string At(std::string text, const char* offset) {
  return text.replace(text.find("OFFSET"), 6, offset);
}

TEST_F(MachineMemory, AsyncCopiesArriveAtTheWait) {
  std::vector<uint32_t> values(64 * 4);
  std::iota(values.begin(), values.end(), 1u);
  const uint64_t in = memory_.Upload(values, "in"), out = memory_.Alloc(64 * 16, "out");
  ASSERT_OK(Run(At(AsyncBody("cp.async.wait_group 1;"), "0"), {in, out}, {1, 64}));
  auto got = Get<uint32_t>(out, 64 * 4);
  for (uint32_t i = 0; i < 64; ++i) EXPECT_EQ(got[4 * i], values[4 * (i ^ 32u)]);
  ASSERT_OK(Run(At(AsyncBody("cp.async.wait_all;"), "1024"), {in, out}, {1, 64}));
  got = Get<uint32_t>(out, 64 * 4);
  for (uint32_t i = 0; i < 64; ++i) {
    EXPECT_EQ(got[4 * i + 1], values[4 * (i ^ 32u) + 1]);
    EXPECT_EQ(got[4 * i + 2], 0u) << "a source size of 0 gives zeros";
  }
  EXPECT_EQ(counters_.async_copies, 64u * 3);
  // The second group is still under way after wait_group 1; without a wait nothing has arrived.
  EXPECT_FAILS(Run(At(AsyncBody("cp.async.wait_group 1;"), "1024"), {in, out}, {1, 64}),
               "cp.async is still filling");
  EXPECT_FAILS(Run(At(AsyncBody(""), "0"), {in, out}, {1, 64}), "cp.async is still filling");
  // A wait is for one's own copies: other warps' need the barrier.
  EXPECT_FALSE(Run(At(AsyncBody("cp.async.wait_all;", ""), "0"), {in, out}, {1, 64}).ok());
}

// --- Counters

TEST_F(MachineMemory, SectorsAndConflicts) {
  const std::vector<uint32_t> in(32 * 32, 1);
  const uint64_t a = memory_.Upload(in, "in"), out = memory_.Alloc(32 * 32 * 4, "out");
  const auto stride = [&](int bytes) {
    EXPECT_OK(Run(
        absl::StrCat(
            kThreadIndex, "mul.wide.u32 %rd3, %r1, ", bytes,
            "; add.s64 %rd4, %rd1, %rd3; ld.global.u32 %r2, [%rd4];",
            "mul.wide.u32 %rd3, %r1, 4; add.s64 %rd4, %rd2, %rd3; st.global.u32 [%rd4], %r2; ret;"),
        {a, out}));
    EXPECT_EQ(counters_.global_write_sectors, 4u);
    EXPECT_EQ(counters_.global_read_bytes, 128u);
    EXPECT_EQ(counters_.global_load_requests, 1u);
    return counters_.global_read_sectors;
  };
  EXPECT_EQ(stride(4), 4u);
  EXPECT_EQ(stride(0), 1u);
  EXPECT_EQ(stride(8), 8u);
  EXPECT_EQ(stride(32), 32u);
  EXPECT_EQ(stride(128), 32u);
  EXPECT_NEAR(counters_.ReadEfficiency(), 0.125, 1e-9);
  const auto shared = [&](int bytes, const char* type, const char* registers) {
    const bool wide = std::string_view(type) == "v4.u32";
    EXPECT_OK(
        Run(absl::StrCat(
                ".shared .align 16 .b8 s[8192]; mov.u32 %r1, %tid.x; mov.u32 %r2, s; mad.lo.u32 "
                "%r2, %r1, ",
                bytes,
                ", %r2; mov.u32 %r3, 1; mov.u32 %r4, 1; mov.u32 %r5, 1; mov.u32 %r6, 1; st.shared.",
                type, " [%r2], ", wide ? "{%r3, %r4, %r5, %r6}" : registers, "; ret;"),
            {}));
    return counters_.shared_conflicts;
  };
  EXPECT_EQ(shared(4, "u32", "%r3"), 0u);
  EXPECT_EQ(shared(8, "u32", "%r3"), 1u);
  EXPECT_EQ(shared(128, "u32", "%r3"), 31u);
  EXPECT_EQ(shared(132, "u32", "%r3"), 0u);
  EXPECT_EQ(shared(0, "u32", "%r3"), 0u);
  EXPECT_EQ(shared(16, "v4.u32", ""), 0u);
  EXPECT_EQ(shared(32, "v4.u32", ""),
            4u);  // two rows of a quarter's eight lanes meet, in each of the four quarters
}

TEST_F(MachineMemory, InstructionCounts) {
  ASSERT_OK(
      Run("mov.u32 %r1, %tid.x; setp.lt.u32 %p1, %r1, 10; mov.f32 %f1, 0f3F800000; @%p1 add.rn.f32 "
          "%f2, %f1, %f1;"
          "dp4a.s32.s32 %r2, %r1, %r1, %r1; ret;",
          {}));
  EXPECT_EQ(counters_.warp_instructions, 6u);
  EXPECT_EQ(counters_.lane_instructions, 5u * 32 + 10);
  EXPECT_EQ(counters_.fp32, 10u);
  EXPECT_EQ(counters_.dp4a, 32u);
  EXPECT_EQ(counters_.blocks, 1u);
  EXPECT_THAT(counters_.ToString(),
              ::testing::HasSubstr("1 launches, 1 blocks, 6 warp instructions"));
}

// --- The Memory class

TEST(DeviceMemory, KnowsItsAllocations) {
  Memory m;
  const uint64_t a = m.Alloc(100, "a"), empty = m.Alloc(0, "empty");
  EXPECT_EQ(a % 256, 0u);
  EXPECT_NE(empty, 0u);
  EXPECT_EQ(m.live_bytes(), 100u);
  EXPECT_FALSE(m.IsInitialised(a, 1));
  const uint8_t bytes[4] = {1, 2, 3, 4};
  ASSERT_OK(m.Write(a + 10, bytes, 4));
  EXPECT_TRUE(m.IsInitialised(a + 10, 4));
  EXPECT_FALSE(m.IsInitialised(a + 10, 5));
  uint8_t back[8];
  EXPECT_OK(m.Read(a + 10, back, 4));
  EXPECT_FAILS(m.Read(a + 8, back, 4), "was never written");
  EXPECT_FAILS(m.Write(a + 98, bytes, 4), "not within one live allocation");
  EXPECT_FAILS(m.Write(a - 1, bytes, 1), "1 bytes before a");
  // A copy carries what is not initialised.
  const uint64_t b = m.Alloc(100, "b");
  ASSERT_OK(m.Set(b, 7, 100));
  ASSERT_OK(m.Copy(b, a, 20));
  EXPECT_TRUE(m.IsInitialised(b + 10, 4));
  EXPECT_FALSE(m.IsInitialised(b, 1));
  EXPECT_TRUE(m.IsInitialised(b + 20, 80));
  ASSERT_OK(m.MarkUninitialised(b, 100));
  EXPECT_FALSE(m.IsInitialised(b + 50, 1));
  ASSERT_OK(m.MarkInitialised(b, 100));
  EXPECT_TRUE(m.IsInitialised(b, 100));
  ASSERT_OK(m.Free(a));
  EXPECT_FAILS(m.Free(a), "not the beginning of live memory");
  EXPECT_FAILS(m.Free(b + 1), "not the beginning of live memory");
  EXPECT_FAILS(m.Read(a + 10, back, 4), "freed");
  EXPECT_EQ(m.live_bytes(), 100u);
}

TEST(DeviceMemory, ForgetsOldFreedMemory) {
  Memory m;
  for (int i = 0; i < 300; ++i) ASSERT_OK(m.Free(m.Alloc(1 << 20, "block")));
  EXPECT_EQ(m.live_allocations(), 0u);
  const uint64_t large = m.Alloc(size_t{100} << 20, "large");
  ASSERT_OK(m.Free(large));
  EXPECT_FAILS(m.CheckRange(large, 1), "freed");
}

}  // namespace
}  // namespace lanyard::ptx
