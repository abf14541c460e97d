// Branches, reconvergence, barriers, and what lanes of a warp do together.
#include <bit>
#include <numeric>
#include <random>

#include "tests/ptx/machine_testing.h"

namespace lanyard::ptx {
namespace {

// Every thread stores %r9 at p0 + 4 * (global thread).
constexpr const char* kStore = R"(
  ld.param.u64 %rd20, [p0];
  mov.u32 %r30, %ctaid.x; mov.u32 %r31, %ntid.x; mov.u32 %r32, %tid.x;
  mad.lo.s32 %r33, %r30, %r31, %r32;
  mul.wide.u32 %rd21, %r33, 4;
  add.s64 %rd22, %rd20, %rd21;
  st.global.u32 [%rd22], %r9;
  ret;
)";

class Flow : public ::testing::Test {
 protected:
  absl::StatusOr<std::vector<uint32_t>> Run(const std::string& body, Shape shape = {},
                                            int sm = 80) {
    const uint64_t out = memory_.Alloc(uint64_t{shape.blocks} * shape.threads * 4, "out");
    counters_ = Counters();
    RETURN_IF_ERROR(RunText(&machine_, KernelText(absl::StrCat(body, kStore), 1, sm), {out}, shape,
                            &counters_));
    return memory_.Download<uint32_t>(out, uint64_t{shape.blocks} * shape.threads);
  }
  void Expect(const std::string& body, const std::function<uint32_t(uint32_t)>& want,
              Shape shape = {}) {
    const auto got = Run(body, shape);
    ASSERT_TRUE(got.ok()) << std::string(got.status().message());
    for (uint32_t i = 0; i < got->size(); ++i) ASSERT_EQ((*got)[i], want(i)) << "thread " << i;
  }
  Memory memory_;
  Machine machine_{&memory_};
  Counters counters_;
};

TEST_F(Flow, EveryLaneLoopsItsOwnNumberOfTimes) {
  Expect(R"(
  mov.u32 %r1, %tid.x; mov.u32 %r9, 0;
LOOP:
  setp.eq.u32 %p1, %r1, 0;
  @%p1 bra DONE;
  add.u32 %r9, %r9, %r1;
  add.u32 %r1, %r1, -1;
  bra LOOP;
DONE:
)",
         [](uint32_t i) { return i % 32 * (i % 32 + 1) / 2; }, {2, 32});
  EXPECT_GT(counters_.divergent_branches, 30u);
}

TEST_F(Flow, NestedBranchesMeetAgain) {
  // After both joins all 32 lanes vote: the warp must be whole again. A block of code stands before
  // its branch, too.
  Expect(R"(
  mov.u32 %r1, %tid.x;
  bra START;
OUTOFLINE:
  add.u32 %r9, %r9, 1000;
  bra JOIN;
START:
  mov.u32 %r9, 0;
  and.b32 %r2, %r1, 1;
  setp.eq.u32 %p1, %r2, 0;
  @%p1 bra EVEN;
  and.b32 %r3, %r1, 2;
  setp.eq.u32 %p2, %r3, 0;
  @%p2 bra ODD_A;
  add.u32 %r9, %r9, 1;
  bra ODD_JOIN;
ODD_A:
  add.u32 %r9, %r9, 2;
ODD_JOIN:
  add.u32 %r9, %r9, 10;
  bra JOIN;
EVEN:
  add.u32 %r9, %r9, 100;
  setp.gt.u32 %p3, %r1, 15;
  @%p3 bra OUTOFLINE;
JOIN:
  setp.lt.u32 %p4, %r9, 0xffffffff;
  vote.sync.ballot.b32 %r8, %p4, -1;
  popc.b32 %r8, %r8;
  add.u32 %r9, %r9, %r8;
)",
         [](uint32_t i) {
           const uint32_t base =
               i % 2 == 0 ? 100u + (i > 15 ? 1000 : 0) : ((i & 2) == 0 ? 12u : 11u);
           return base + 32;
         });
}

TEST_F(Flow, EarlyExitLeavesTheOthers) {
  const uint64_t out = memory_.Alloc(32 * 4, "out");
  ASSERT_OK(memory_.Set(out, 0, 32 * 4));
  ASSERT_OK(RunText(&machine_,
                    KernelText(absl::StrCat(R"(
  mov.u32 %r1, %tid.x;
  setp.lt.u32 %p1, %r1, 20;
  @%p1 ret;
  activemask.b32 %r9;
)",
                                            kStore),
                               1),
                    {out}));
  const auto got = memory_.Download<uint32_t>(out, 32);
  ASSERT_TRUE(got.ok());
  for (uint32_t i = 0; i < 32; ++i) EXPECT_EQ((*got)[i], i < 20 ? 0 : 0xfff00000u);
}

TEST_F(Flow, LanesWaitAtASyncForThoseThatComeLater) {
  // The shuffle stands in front of the code that half of the lanes run first: the lowest pc alone
  // would lose them.
  Expect(R"(
  mov.u32 %r1, %tid.x; mov.u32 %r9, 0;
  setp.lt.u32 %p1, %r1, 16;
  @!%p1 bra LATE;
MEET:
  shfl.sync.bfly.b32 %r9, %r1, 16, 31, -1;
  bra END;
LATE:
  add.u32 %r1, %r1, 100;
  bra MEET;
END:
)",
         [](uint32_t i) { return i < 16 ? i + 116 : i - 16; });
}

TEST_F(Flow, IndexedBranch) {
  Expect(R"(
  mov.u32 %r1, %tid.x; and.b32 %r2, %r1, 3;
T: .branchtargets A, B, C, B;
  brx.idx %r2, T;
A: mov.u32 %r9, 1; bra END;
B: mov.u32 %r9, 2; bra END;
C: mov.u32 %r9, 3;
END:
)",
         [](uint32_t i) { return i % 4 == 0   ? 1u
                                 : i % 4 == 2 ? 3u
                                              : 2u; });
}

TEST_F(Flow, RandomDivergentProgramsGiveWhatOneThreadWould) {
  // A chain of data-dependent loops and branches, against the same program in C++.
  std::mt19937 random(5);
  for (int trial = 0; trial < 20; ++trial) {
    std::string body =
        "mov.u32 %r1, %tid.x; mov.u32 %r30, %ctaid.x; mad.lo.u32 %r1, %r30, 977, %r1; mov.u32 %r9, "
        "%r1;\n";
    std::vector<std::array<uint32_t, 4>> steps;
    for (int k = 0; k < 8; ++k) {
      const std::array<uint32_t, 4> s = {
          static_cast<uint32_t>(random() % 3), static_cast<uint32_t>(random() % 7 + 2),
          static_cast<uint32_t>(random() % 1000), static_cast<uint32_t>(random() % 5)};
      steps.push_back(s);
      absl::StrAppend(&body, "rem.u32 %r2, %r9, ", s[1], "; setp.eq.u32 %p1, %r2, ",
                      s[0] == 2 ? 1 : 0, ";\n");
      if (s[0] == 0) {
        absl::StrAppend(&body, "@%p1 bra T", k, ";\n mad.lo.u32 %r9, %r9, 3, ", s[2], "; bra J", k,
                        ";\nT", k, ": xor.b32 %r9, %r9, ", s[2], ";\nJ", k, ":\n");
      } else if (s[0] == 1) {
        absl::StrAppend(&body, "mov.u32 %r3, %r2;\nL", k, ": setp.eq.u32 %p2, %r3, 0;\n@%p2 bra E",
                        k, ";\n add.u32 %r9, %r9, ", s[2], "; add.u32 %r3, %r3, -1;\n bra L", k,
                        ";\nE", k, ":\n");
      } else {
        absl::StrAppend(&body, "@%p1 add.u32 %r9, %r9, ", s[2], ";\n@!%p1 shl.b32 %r9, %r9, 1;\n");
      }
    }
    const auto want = [&](uint32_t i) {
      uint32_t x = i / 96 * 977 + i % 96;
      for (const auto& s : steps) {
        const uint32_t m = x % s[1];
        if (s[0] == 0)
          x = m == 0 ? x ^ s[2] : x * 3 + s[2];
        else if (s[0] == 1)
          x += m * s[2];
        else
          x = m == 1 ? x + s[2] : x << 1;
      }
      return x;
    };
    Expect(body, want, {3, 96});
    if (HasFatalFailure()) return;
  }
}

TEST_F(Flow, Shuffles) {
  const struct {
    const char* mode;
    int b, c;
  } kCases[] = {{"idx", 5, 31},
                {"up", 3, 0},
                {"down", 7, 31},
                {"bfly", 1, 31},
                {"idx", 2, (24 << 8) | 7},
                {"down", 1, (24 << 8) | 7},
                {"up", 1, (24 << 8)},
                {"bfly", 4, (24 << 8) | 7},
                {"down", 1, 20},
                {"bfly", 16, 31}};
  for (const auto& c : kCases) {
    SCOPED_TRACE(absl::StrCat(c.mode, " ", c.b, " ", c.c));
    const std::string body = absl::StrCat(
        "mov.u32 %r1, %tid.x; mul.lo.u32 %r2, %r1, 10; shfl.sync.", c.mode, ".b32 %r3|%p1, %r2, ",
        c.b, ", ", c.c, ", -1; selp.u32 %r4, 1, 0, %p1; add.u32 %r9, %r3, %r4;\n");
    Expect(body, [&](uint32_t lane) {
      // As the PTX manual writes it.
      const int mask = c.c >> 8 & 31, most = (static_cast<int>(lane) & mask) | (c.c & 31 & ~mask),
                least = static_cast<int>(lane) & mask;
      int j = 0;
      bool p = false;
      if (std::string_view(c.mode) == "up")
        j = static_cast<int>(lane) - c.b, p = j >= most;
      else if (std::string_view(c.mode) == "down")
        j = static_cast<int>(lane) + c.b, p = j <= most;
      else if (std::string_view(c.mode) == "bfly")
        j = static_cast<int>(lane) ^ c.b, p = j <= most;
      else
        j = least | (c.b & ~mask), p = j <= most;
      if (!p) j = static_cast<int>(lane);
      return static_cast<uint32_t>(j * 10) + p;
    });
  }
}

TEST_F(Flow, ShufflesOfHalfWarpsWithTheirOwnMasks) {
  Expect(R"(
  mov.u32 %r1, %tid.x;
  setp.lt.u32 %p1, %r1, 16;
  selp.b32 %r2, 0xffff, 0xffff0000, %p1;
  @%p1 bra LOW;
  shfl.sync.bfly.b32 %r9, %r1, 8, 31, %r2;
  bra END;
LOW:
  shfl.sync.bfly.b32 %r9, %r1, 1, 31, %r2;
END:
)",
         [](uint32_t i) { return i < 16 ? i ^ 1u : i ^ 8u; });
}

TEST_F(Flow, VotesMatchesReductions) {
  Expect("mov.u32 %r1, %tid.x; setp.lt.u32 %p1, %r1, 5; vote.sync.ballot.b32 %r9, !%p1, -1;",
         [](uint32_t) { return 0xffffffe0u; });
  Expect(
      "mov.u32 %r1, %tid.x; setp.lt.u32 %p1, %r1, 32; vote.sync.all.pred %p2, %p1, -1; selp.u32 "
      "%r9, 1, 0, %p2;",
      [](uint32_t) { return 1u; });
  Expect(
      "mov.u32 %r1, %tid.x; setp.eq.u32 %p1, %r1, 32; vote.sync.any.pred %p2, %p1, -1; selp.u32 "
      "%r9, 1, 0, %p2;",
      [](uint32_t) { return 0u; });
  Expect("mov.u32 %r1, %tid.x; and.b32 %r2, %r1, 3; match.any.sync.b32 %r9, %r2, -1;",
         [](uint32_t i) { return 0x11111111u << (i % 4); });
  Expect("mov.u32 %r2, 7; match.all.sync.b32 %r3|%p1, %r2, -1; selp.u32 %r9, %r3, 0, %p1;",
         [](uint32_t) { return 0xffffffffu; });
  Expect("mov.u32 %r1, %tid.x; redux.sync.add.s32 %r9, %r1, -1;", [](uint32_t) { return 496u; });
  Expect("mov.u32 %r1, %tid.x; sub.s32 %r1, %r1, 5; redux.sync.min.s32 %r9, %r1, -1;",
         [](uint32_t) { return 0xfffffffbu; });
  Expect("mov.u32 %r1, %tid.x; sub.s32 %r1, %r1, 5; redux.sync.min.u32 %r9, %r1, -1;",
         [](uint32_t) { return 0u; });
}

TEST_F(Flow, SpecialRegisters) {
  Expect("mov.u32 %r1, %laneid; mov.u32 %r2, %warpid; mad.lo.u32 %r9, %r2, 100, %r1;",
         [](uint32_t i) { return i / 32 * 100 + i % 32; }, {1, 80});
  Expect("mov.u32 %r9, %lanemask_lt;", [](uint32_t i) { return (1u << i) - 1; });
  Expect("mov.u32 %r9, %lanemask_ge;", [](uint32_t i) { return ~((1u << i) - 1); });
  Expect(
      "mov.u32 %r1, %nctaid.x; mov.u32 %r2, %ntid.x; mad.lo.u32 %r9, %r1, 1000, %r2; mov.u32 %r3, "
      "WARP_SZ; add.u32 %r9, %r9, %r3;",
      [](uint32_t) { return 5064u; }, {5, 32});
  // The clock never goes back.
  Expect(
      "mov.u64 %rd1, %clock64; mov.u64 %rd2, %clock64; setp.gt.u64 %p1, %rd2, %rd1; selp.u32 %r9, "
      "1, 0, %p1;",
      [](uint32_t) { return 1u; });
}

constexpr const char* kReverse = R"(
  .shared .align 4 .b8 tile[1024];
  mov.u32 %r1, %tid.x; mov.u32 %r2, %ntid.x; mov.u32 %r3, tile;
  shl.b32 %r4, %r1, 2; add.u32 %r5, %r3, %r4;
  st.shared.u32 [%r5], %r1;
  BARRIER
  sub.u32 %r6, %r2, %r1; add.u32 %r6, %r6, -1;
  shl.b32 %r6, %r6, 2; add.u32 %r6, %r3, %r6;
  ld.shared.u32 %r9, [%r6];
)";
std::string WithBarrier(std::string text, const std::string& barrier) {
  return text.replace(text.find("BARRIER"), 7, barrier);
}

TEST_F(Flow, BarriersOrderWarps) {
  const auto reversed = [](uint32_t i) { return 255 - i % 256; };
  for (const char* barrier : {"bar.sync 0;", "barrier.sync 0;", "barrier.sync.aligned 3;",
                              "bar.sync 1, 256;", "bar.cta.sync 0;"}) {
    SCOPED_TRACE(barrier);
    Expect(WithBarrier(kReverse, barrier), reversed, {2, 256});
  }
  EXPECT_EQ(counters_.barriers, 16u);
  // An arrival is no wait, but orders what was done before it.
  Expect(
      WithBarrier(
          kReverse,
          "setp.lt.u32 %p1, %r1, 64; @%p1 bra W; bar.arrive 2, 128; bra X; W: bar.sync 2, 128; X:"
          " bar.sync 0;"),
      [](uint32_t i) { return 127 - i; }, {1, 128});
}

TEST_F(Flow, ExitedWarpsDoNotHoldABarrier) {
  const uint64_t out = memory_.Alloc(128 * 4, "out");
  ASSERT_OK(memory_.Set(out, 0, 128 * 4));
  EXPECT_OK(RunText(&machine_,
                    KernelText(absl::StrCat(R"(
  mov.u32 %r1, %tid.x;
  setp.gt.u32 %p1, %r1, 70;
  @%p1 ret;
  bar.sync 0;
  mov.u32 %r9, 1;
)",
                                            kStore),
                               1),
                    {out}, {1, 128}));
  const auto got = memory_.Download<uint32_t>(out, 128);
  ASSERT_TRUE(got.ok());
  EXPECT_EQ(std::accumulate(got->begin(), got->end(), 0u), 71u);
}

TEST_F(Flow, SeedsChangeTheOrderAndNothingElse) {
  // Blocks append to a list: its order is the blocks' order.
  const auto order = [&](uint64_t seed) {
    machine_.set_seed(seed);
    const std::vector<uint32_t> zero(1, 0);
    const uint64_t next = memory_.Upload(zero, "next"), list = memory_.Alloc(64 * 4, "list");
    EXPECT_OK(RunText(&machine_, KernelText(R"(
  ld.param.u64 %rd1, [p0]; ld.param.u64 %rd2, [p1];
  mov.u32 %r1, %tid.x; setp.ne.u32 %p1, %r1, 0; @%p1 ret;
  atom.global.add.u32 %r2, [%rd1], 1;
  mov.u32 %r3, %ctaid.x; mul.wide.u32 %rd3, %r2, 4; add.s64 %rd4, %rd2, %rd3;
  st.global.u32 [%rd4], %r3;
  ret;)"),
                      {next, list}, {64, 32}));
    return *memory_.Download<uint32_t>(list, 64);
  };
  const auto first = order(1), again = order(1), other = order(2);
  EXPECT_EQ(first, again);
  EXPECT_NE(first, other);
  std::vector<uint32_t> sorted = other;
  std::sort(sorted.begin(), sorted.end());
  for (uint32_t i = 0; i < 64; ++i) EXPECT_EQ(sorted[i], i);
}

TEST_F(Flow, GridsAndBlocksOfThreeDimensions) {
  const auto module = ParseKernel(R"(
  ld.param.u64 %rd1, [p0];
  mov.u32 %r1, %ctaid.z; mov.u32 %r2, %nctaid.y; mov.u32 %r3, %ctaid.y;
  mad.lo.u32 %r4, %r1, %r2, %r3;
  mov.u32 %r2, %nctaid.x; mov.u32 %r3, %ctaid.x; mad.lo.u32 %r4, %r4, %r2, %r3;
  mov.u32 %r2, %ntid.z; mov.u32 %r3, %tid.z; mad.lo.u32 %r4, %r4, %r2, %r3;
  mov.u32 %r2, %ntid.y; mov.u32 %r3, %tid.y; mad.lo.u32 %r4, %r4, %r2, %r3;
  mov.u32 %r2, %ntid.x; mov.u32 %r3, %tid.x; mad.lo.u32 %r4, %r4, %r2, %r3;
  mul.wide.u32 %rd2, %r4, 4; add.s64 %rd3, %rd1, %rd2; st.global.u32 [%rd3], %r4; ret;)",
                                  1);
  ASSERT_TRUE(module.ok()) << module.status();
  const size_t n = 2 * 3 * 4 * 5 * 6 * 7;
  const uint64_t out = memory_.Alloc(n * 4, "out");
  const uint64_t args[] = {out};
  LaunchConfig config;
  config.grid = {2, 3, 4};
  config.block = {5, 6, 7};
  ASSERT_OK(
      machine_.Launch(*(*module)->Find("k"), config, {reinterpret_cast<const uint8_t*>(args), 8}));
  const auto got = memory_.Download<uint32_t>(out, n);
  ASSERT_TRUE(got.ok()) << got.status();
  for (uint32_t i = 0; i < n; ++i) EXPECT_EQ((*got)[i], i);
}

// --- What must fail

TEST_F(Flow, AnEndlessLoopEnds) {
  MachineOptions options;
  options.max_instructions_between_barriers = 10000;
  Machine machine(&memory_, options);
  EXPECT_FAILS(RunText(&machine, KernelText("L: bra L;", 0), {}), "an endless loop");
}

TEST_F(Flow, BraUniMustBeUniform) {
  EXPECT_FAILS(Run("mov.u32 %r1, %tid.x; setp.lt.u32 %p1, %r1, 3; @%p1 bra.uni A; mov.u32 %r9, 1; "
                   "A: mov.u32 %r9, 2;")
                   .status(),
               "bra.uni where not all active lanes agree");
}

TEST_F(Flow, DivergentBarriersAreFound) {
  // Half of the warps stand at another barrier.
  EXPECT_FAILS(Run("mov.u32 %r1, %tid.x; mov.u32 %r9, 0; setp.lt.u32 %p1, %r1, 32; @%p1 bra A; "
                   "bar.sync 0; bra B; A: bar.sync 1; B:",
                   {1, 64})
                   .status(),
               "a divergent barrier");
  // The same barrier in two places of the text.
  EXPECT_FAILS(Run("mov.u32 %r1, %tid.x; mov.u32 %r9, 0; setp.lt.u32 %p1, %r1, 32; @%p1 bra A; "
                   "bar.sync 0; bra B; A: bar.sync 0; B:",
                   {1, 64})
                   .status(),
               "a divergent barrier");
  // Lanes of one warp: those with a false predicate run past it and exit or wait elsewhere.
  EXPECT_FAILS(Run("mov.u32 %r1, %tid.x; mov.u32 %r9, 0; setp.lt.u32 %p1, %r1, 16; @%p1 bar.sync "
                   "0; bar.sync 0;")
                   .status(),
               "wait for lanes 0xffff0000");
  // A count that never comes together.
  EXPECT_FAILS(Run("mov.u32 %r9, 0; bar.sync 1, 96;", {1, 64}).status(), "a divergent barrier");
  EXPECT_FAILS(Run("mov.u32 %r9, 0; bar.sync 16;").status(), "there are 16");
  EXPECT_FAILS(Run("mov.u32 %r9, 0; bar.sync 1, 33;").status(), "multiple of 32");
}

TEST_F(Flow, ShufflesWithAbsentLanesAreFound) {
  // The named lanes never come: they exit is fine, they wait elsewhere is not.
  EXPECT_FAILS(Run("mov.u32 %r1, %tid.x; mov.u32 %r9, 0; setp.lt.u32 %p1, %r1, 16; @!%p1 bra A;"
                   "shfl.sync.bfly.b32 %r9, %r1, 1, 31, -1; bra B; A: shfl.sync.bfly.b32 %r9, %r1, "
                   "2, 31, -1; B:")
                   .status(),
               "wait for lanes 0xffff0000, which do not come");
  EXPECT_FAILS(Run("mov.u32 %r1, %tid.x; mov.u32 %r9, 0; setp.lt.u32 %p1, %r1, 16; @!%p1 bra A;"
                   "shfl.sync.bfly.b32 %r9, %r1, 16, 31, 0xffff; A:")
                   .status(),
               "a shuffle reads lane 16, which does not take part");
  EXPECT_FAILS(Run("mov.u32 %r1, %tid.x; shfl.sync.bfly.b32 %r9, %r1, 1, 31, 0xffff;").status(),
               "does not name the lane itself");
  EXPECT_FAILS(
      Run("mov.u32 %r1, %tid.x; setp.lt.u32 %p1, %r1, 8; selp.b32 %r2, 0xffffffff, 0xfffffff0, %p1;"
          "setp.lt.u32 %p2, %r1, 4; @%p2 mov.u32 %r2, -1; shfl.sync.bfly.b32 %r9, %r1, 1, 31, %r2;")
          .status(),
      "member masks differ");
  // A block of 20 threads has lanes that never were: naming them is fine, reading them is not.
  EXPECT_OK(Run("mov.u32 %r1, %tid.x; shfl.sync.bfly.b32 %r9, %r1, 1, 31, -1;", {1, 20}).status());
  EXPECT_FAILS(
      Run("mov.u32 %r1, %tid.x; shfl.sync.bfly.b32 %r9, %r1, 16, 31, -1;", {1, 20}).status(),
      "which does not take part");
}

TEST_F(Flow, MmaNeedsTheWholeWarp) {
  const std::string mma =
      "mma.sync.aligned.m8n8k16.row.col.s32.s8.s8.s32 {%r5,%r6}, {%r1}, {%r2}, {%r3,%r4};";
  const std::string set =
      "mov.u32 %r1, 1; mov.u32 %r2, 1; mov.u32 %r3, 0; mov.u32 %r4, 0; mov.u32 %r10, %tid.x; "
      "setp.lt.u32 %p1, %r10, 16;";
  EXPECT_OK(Run(set + mma + "mov.u32 %r9, %r5;").status());
  EXPECT_FAILS(Run(set + "mov.u32 %r9, 0; @!%p1 bra A;" + mma + "A:").status(),
               "needs all 32 lanes of the warp");
  EXPECT_FAILS(Run(set + mma + "mov.u32 %r9, %r5;", {1, 24}).status(),
               "needs all 32 lanes of the warp");
}

TEST_F(Flow, RegistersThatNobodyWrote) {
  EXPECT_FAILS(Run("add.u32 %r9, %r1, 1;").status(),
               "reads register %r1, which was not written on this path");
  // Written on one side only; the good twin reads it only there.
  const std::string one_side =
      "mov.u32 %r1, %tid.x; setp.lt.u32 %p1, %r1, 16; @%p1 mov.u32 %r2, 5;";
  EXPECT_FAILS(Run(one_side + "add.u32 %r9, %r2, 1;").status(), "reads register %r2");
  EXPECT_OK(Run(one_side + "mov.u32 %r9, 0; @%p1 add.u32 %r9, %r2, 1;").status());
  // A copy of it is no use yet (clang copies what it does not use); a use of the copy is.
  EXPECT_FAILS(Run(one_side + "mov.u32 %r3, %r2; add.u32 %r9, %r3, 1;").status(),
               "reads register %r3");
  EXPECT_OK(Run(one_side + "mov.u32 %r3, %r2; mov.u32 %r9, 0; @%p1 add.u32 %r9, %r3, 1;").status());
  EXPECT_FAILS(Run("mov.u32 %r9, 0; @%p3 bra A; A:").status(), "reads register %p3");
}

}  // namespace
}  // namespace lanyard::ptx
