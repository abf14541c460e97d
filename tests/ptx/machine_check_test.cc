// Each check of the machine with a kernel that it must catch, and the good twin of it that must
// pass.
#include <numeric>

#include "tests/ptx/machine_testing.h"

namespace lanyard::ptx {
namespace {

class Checks : public ::testing::Test {
 protected:
  absl::Status Run(const std::string& body, std::vector<uint64_t> params, Shape shape = {}) {
    return RunText(&machine_, KernelText(body, static_cast<int>(params.size())), params, shape);
  }
  uint64_t Words(size_t n, const char* name) {
    std::vector<uint32_t> values(n);
    std::iota(values.begin(), values.end(), 0u);
    return memory_.Upload(values, name);
  }
  Memory memory_;
  Machine machine_{&memory_};
};

constexpr const char* kThread = R"(
  ld.param.u64 %rd1, [p0]; ld.param.u64 %rd2, [p1];
  mov.u32 %r30, %ctaid.x; mov.u32 %r31, %ntid.x; mov.u32 %r32, %tid.x;
  mad.lo.s32 %r1, %r30, %r31, %r32;
  mul.wide.u32 %rd3, %r1, 4; add.s64 %rd4, %rd1, %rd3; add.s64 %rd5, %rd2, %rd3;
)";

TEST_F(Checks, Bounds) {
  const std::string copy =
      std::string(kThread) + "ld.global.u32 %r2, [%rd4]; st.global.u32 [%rd5], %r2; ret;";
  const uint64_t in = Words(40, "input"), out = memory_.Alloc(64 * 4, "output");
  EXPECT_OK(Run(copy, {Words(64, "whole"), out}, {2, 32}));
  const absl::Status status = Run(copy, {in, out}, {2, 32});
  EXPECT_FAILS(status, "kernel k, PTX line");
  EXPECT_FAILS(status, "ld.global.u32 %r2, [%rd4];");
  EXPECT_FAILS(status, "block (1,0,0), thread (8,0,0): out of bounds: global address");
  EXPECT_FAILS(status, "(input + 160, 0 bytes past its end, 160 bytes)");
  EXPECT_FAILS(Run(copy, {Words(64, "whole"), in}, {2, 32}), "out of bounds");
  EXPECT_FAILS(Run(copy, {in - 4, out}), "4 bytes before input");
  EXPECT_FAILS(Run(copy, {0, out}), "no allocation near");
  // A vector that begins inside and ends outside.
  EXPECT_FAILS(Run("ld.param.u64 %rd1, [p0]; ld.global.v4.u32 {%r1, %r2, %r3, %r4}, [%rd1+144+0]; "
                   "ld.global.v2.u32 {%r1, %r2}, [%rd1+160]; ret;",
                   {in}),
               "past its end");
  EXPECT_FAILS(
      Run(".shared .align 4 .b8 s[64]; mov.u32 %r1, s; st.shared.u32 [%r1+64], 1; ret;", {}),
      "out of bounds: shared address 64 of 64 bytes");
  EXPECT_FAILS(Run("mov.u32 %r1, 0; st.shared.u32 [%r1], 1; ret;", {}),
               "out of bounds: shared address -1024 of 0 bytes");
  EXPECT_FAILS(
      Run(".local .align 4 .b8 d[16]; mov.u64 %rd1, d; st.local.u32 [%rd1+16], 1; ret;", {}),
      "out of bounds: local address 16 of 16 bytes");
}

TEST_F(Checks, UseAfterFree) {
  const uint64_t in = Words(32, "gone"), out = memory_.Alloc(128, "output");
  const std::string copy =
      std::string(kThread) + "ld.global.u32 %r2, [%rd4]; st.global.u32 [%rd5], %r2; ret;";
  EXPECT_OK(Run(copy, {in, out}));
  ASSERT_OK(memory_.Free(in));
  EXPECT_FAILS(Run(copy, {in, out}), "use after free: global address");
  EXPECT_FAILS(Run(copy, {in, out}), "gone");
}

TEST_F(Checks, Alignment) {
  const uint64_t in = Words(64, "input");
  EXPECT_OK(Run("ld.param.u64 %rd1, [p0]; ld.global.v2.u32 {%r1, %r2}, [%rd1+8]; ret;", {in}));
  EXPECT_FAILS(Run("ld.param.u64 %rd1, [p0]; ld.global.v2.u32 {%r1, %r2}, [%rd1+4]; ret;", {in}),
               "a misaligned access");
  EXPECT_FAILS(Run("ld.param.u64 %rd1, [p0]; ld.global.u16 %h1, [%rd1+3]; ret;", {in}),
               "a misaligned access");
  EXPECT_FAILS(Run(".shared .align 16 .b8 s[64]; mov.u32 %r1, s; mov.u32 %r2, 1; st.shared.v4.u32 "
                   "[%r1+8], {%r2, %r2, %r2, %r2}; ret;",
                   {}),
               "a misaligned access");
}

TEST_F(Checks, MemoryThatNobodyWrote) {
  const uint64_t fresh = memory_.Alloc(128, "fresh"), out = memory_.Alloc(128, "output");
  const std::string copy =
      std::string(kThread) + "ld.global.u32 %r2, [%rd4]; st.global.u32 [%rd5], %r2; ret;";
  EXPECT_FAILS(Run(copy, {fresh, out}),
               "thread (0,0,0): a read of memory that nobody wrote: global address");
  ASSERT_OK(memory_.Set(fresh, 0, 124));
  EXPECT_FAILS(Run(copy, {fresh, out}), "thread (31,0,0): a read of memory that nobody wrote");
  ASSERT_OK(memory_.Set(fresh + 124, 0, 4));
  EXPECT_OK(Run(copy, {fresh, out}));
  EXPECT_TRUE(memory_.IsInitialised(out, 128)) << "what a kernel writes is written";
  // A store of a byte does not make the word written.
  const uint64_t bytes = memory_.Alloc(4, "bytes");
  EXPECT_OK(Run("ld.param.u64 %rd1, [p0]; st.global.u8 [%rd1], 1; ret;", {bytes}));
  EXPECT_FAILS(Run("ld.param.u64 %rd1, [p0]; ld.global.u32 %r1, [%rd1]; ret;", {bytes}),
               "nobody wrote");
  EXPECT_OK(Run("ld.param.u64 %rd1, [p0]; ld.global.u8 %r1, [%rd1]; ret;", {bytes}));
  // An atomic reads, too.
  EXPECT_FAILS(Run("ld.param.u64 %rd1, [p0]; red.global.add.u32 [%rd1], 1; ret;", {bytes}),
               "nobody wrote");
  // Shared memory is unwritten again in the next block, local memory in the next thread.
  EXPECT_FAILS(Run(".shared .align 4 .b8 s[64]; ld.shared.u32 %r1, [s]; ret;", {}),
               "nobody wrote: shared address 0");
  EXPECT_FAILS(Run(".shared .align 4 .b8 s[64]; mov.u32 %r2, %ctaid.x; setp.eq.u32 %p1, %r2, 0; "
                   "@%p1 st.shared.u32 [s], 1;"
                   "ld.shared.u32 %r1, [s]; ret;",
                   {}, {2, 32}),
               "nobody wrote");
  EXPECT_FAILS(
      Run(".local .align 4 .b8 d[16]; mov.u64 %rd1, d; ld.local.u32 %r1, [%rd1]; ret;", {}),
      "nobody wrote: local address 0");
  EXPECT_FAILS(Run(".local .align 4 .b8 d[16]; mov.u32 %r2, %tid.x; setp.lt.u32 %p1, %r2, 9; @%p1 "
                   "st.local.u32 [d], 1;"
                   "ld.local.u32 %r1, [d]; ret;",
                   {}),
               "thread (9,0,0): a read of memory that nobody wrote");
  MachineOptions options;
  options.check_initialised = false;
  Machine lenient(&memory_, options);
  const uint64_t other = memory_.Alloc(4, "other");
  EXPECT_OK(RunText(&lenient,
                    KernelText("ld.param.u64 %rd1, [p0]; ld.global.u32 %r1, [%rd1]; ret;", 1),
                    {other}));
}

TEST_F(Checks, ConstantMemoryIsNotWritten) {
  EXPECT_FAILS(RunText(&machine_,
                       KernelText("mov.u64 %rd1, c; st.global.u32 [%rd1], 1; ret;", 0, 80,
                                  ".const .u32 c = 5;"),
                       {}),
               "a write to constant memory");
}

// A block turns its 64 numbers around through shared memory.
std::string Turn(const char* first, const char* second) {
  return absl::StrCat(kThread, R"(
  .shared .align 4 .b8 s[256];
  mov.u32 %r5, s; shl.b32 %r6, %r32, 2; add.u32 %r7, %r5, %r6; sub.u32 %r8, 252, %r6;
  add.u32 %r8, %r5, %r8;
  ld.global.u32 %r2, [%rd4];
  st.shared.u32 [%r7], %r2;
)",
                      first, "\n ld.shared.u32 %r3, [%r8];\n", second, R"(
  st.shared.u32 [%r7], %r3;
  ld.shared.u32 %r4, [%r7];
  st.global.u32 [%rd5], %r4; ret;)");
}

TEST_F(Checks, SharedRaces) {
  const uint64_t in = Words(128, "input"), out = memory_.Alloc(512, "output");
  for (uint64_t seed = 1; seed < 6; ++seed) {
    machine_.set_seed(seed);
    EXPECT_OK(Run(Turn("bar.sync 0;", "bar.sync 0;"), {in, out}, {2, 64}));
    EXPECT_FAILS(Run(Turn("bar.sync 0;", ""), {in, out}, {2, 64}),
                 "a data race, ");  // which of the two accesses comes first depends on the seed
    EXPECT_FALSE(Run(Turn("", "bar.sync 0;"), {in, out}, {2, 64})
                     .ok());  // a race, or a read of what is not written yet
  }
  // Half of a warp writes what the other half reads: lanes are no order, bar.warp.sync is. (A block
  // of one warp.)
  const std::string one_warp = R"(
  .shared .align 4 .b8 s[128]; mov.u32 %r1, %tid.x; mov.u32 %r5, s; shl.b32 %r6, %r1, 2;
  add.u32 %r7, %r5, %r6;
  xor.b32 %r8, %r6, 64; add.u32 %r8, %r5, %r8;
  st.shared.u32 [%r7], %r1;
  SYNC
  ld.shared.u32 %r2, [%r8]; ret;)";
  const auto with = [&](const char* sync) {
    return std::string(one_warp).replace(one_warp.find("SYNC"), 4, sync);
  };
  EXPECT_OK(Run(with("bar.warp.sync -1;"), {}));
  EXPECT_OK(Run(with("bar.sync 0;"), {}));
  EXPECT_FAILS(Run(with(""), {}),
               "a data race, read after write, with thread (16,0,0) of the same warp (no "
               "bar.warp.sync between): shared address 64");
  EXPECT_FAILS(Run(with("membar.cta;"), {}), "a data race");
  MachineOptions options;
  options.check_races_in_warp = false;
  Machine lenient(&memory_, options);
  EXPECT_OK(RunText(&lenient, KernelText(with(""), 0), {}));
  // Two lanes, one place: equal values are no race, different ones are.
  EXPECT_OK(Run(".shared .align 4 .b8 s[4]; st.shared.u32 [s], 3; ret;", {}, {1, 96}));
  EXPECT_FAILS(
      Run(".shared .align 4 .b8 s[4]; mov.u32 %r1, %tid.x; st.shared.u32 [s], %r1; ret;", {}),
      "a data race, write after write");
  EXPECT_FAILS(Run(".shared .align 4 .b8 s[4]; mov.u32 %r1, %tid.x; shr.u32 %r1, %r1, 5; "
                   "st.shared.u32 [s], %r1; ret;",
                   {}, {1, 64}),
               "a data race, write after write");
  // Bytes of one word belong to different threads without a race.
  EXPECT_OK(
      Run(".shared .align 4 .b8 s[64]; mov.u32 %r1, %tid.x; mov.u32 %r2, s; add.u32 %r2, %r2, %r1; "
          "st.shared.u8 [%r2], %r1;"
          "ld.shared.u8 %r3, [%r2]; bar.sync 0; ld.shared.u32 %r4, [s]; ret;",
          {}, {1, 64}));
  EXPECT_FAILS(Run(".shared .align 4 .b8 s[64]; mov.u32 %r1, %tid.x; mov.u32 %r2, s; add.u32 %r2, "
                   "%r2, %r1; st.shared.u8 [%r2], %r1;"
                   "and.b32 %r2, %r2, -4; ld.shared.u32 %r4, [%r2]; ret;",
                   {}, {1, 64}),
               "a data race, read after write");
  // A barrier of some warps orders only these.
  const std::string pairs =
      Turn("shr.u32 %r9, %r32, 5; and.b32 %r9, %r9, 1; add.u32 %r9, %r9, 1; bar.sync %r9, 32;",
           "bar.sync 0;");
  EXPECT_FALSE(Run(pairs, {in, out}, {1, 64}).ok());
}

TEST_F(Checks, ATreeNeedsABarrierAtEveryLevel) {
  const auto tree = [](const char* barrier) {
    std::string body = std::string(kThread) + R"(
  .shared .align 4 .b8 s[1024]; mov.u32 %r5, s; shl.b32 %r6, %r32, 2; add.u32 %r7, %r5, %r6;
  ld.global.u32 %r2, [%rd4]; st.shared.u32 [%r7], %r2; bar.sync 0;
  mov.u32 %r8, 128;
LOOP:
  setp.ge.u32 %p1, %r32, %r8; @%p1 bra SKIP;
  shl.b32 %r9, %r8, 2; add.u32 %r9, %r7, %r9;
  ld.shared.u32 %r10, [%r9]; ld.shared.u32 %r11, [%r7]; add.u32 %r11, %r11, %r10;
  st.shared.u32 [%r7], %r11;
SKIP:
  )";
    return absl::StrCat(body, barrier, R"(
  shr.u32 %r8, %r8, 1; setp.ne.u32 %p2, %r8, 0; @%p2 bra LOOP;
  setp.ne.u32 %p3, %r32, 0; @%p3 ret;
  ld.shared.u32 %r12, [s]; st.global.u32 [%rd2], %r12; ret;)");
  };
  const uint64_t in = Words(256, "input"), out = memory_.Alloc(4, "output");
  EXPECT_OK(Run(tree("bar.sync 0;"), {in, out}, {1, 256}));
  EXPECT_EQ(memory_.Download<uint32_t>(out, 1)->at(0), 255u * 128);
  EXPECT_FAILS(Run(tree(""), {in, out}, {1, 256}), "a data race");
  EXPECT_FAILS(Run(tree("setp.lt.u32 %p4, %r8, 33; @!%p4 bar.sync 0;"), {in, out}, {1, 256}),
               "of the same warp");
}

TEST_F(Checks, GlobalRaces) {
  const uint64_t out = memory_.Alloc(64 * 4, "output");
  const auto run = [&](const std::string& body, Shape shape) {
    const uint64_t in = Words(64, "input");
    const absl::Status status = Run(std::string(kThread) + body, {in, out}, shape);
    memory_.Free(in).IgnoreError();
    return status;
  };
  // In place, each thread its own word.
  EXPECT_OK(run("ld.global.u32 %r2, [%rd4]; add.u32 %r2, %r2, 1; st.global.u32 [%rd4], %r2; ret;",
                {2, 32}));
  // The neighbour's word, of another block, warp, lane; ordered by a barrier inside of a block.
  const char* kNext =
      "ld.global.u32 %r2, [%rd4]; xor.b32 %r3, %r1, 32; mul.wide.u32 %rd6, %r3, 4; add.s64 %rd7, "
      "%rd1, %rd6;";
  EXPECT_FAILS(run(absl::StrCat(kNext, "st.global.u32 [%rd7], %r2; ret;"), {2, 32}),
               "with another block of the launch: global address");
  EXPECT_FAILS(run(absl::StrCat(kNext, "st.global.u32 [%rd7], %r2; ret;"), {1, 64}),
               "a data race, ");
  EXPECT_OK(run(absl::StrCat(kNext, "bar.sync 0; st.global.u32 [%rd7], %r2; ret;"), {1, 64}));
  EXPECT_FAILS(run(absl::StrCat(kNext, "bar.sync 0; st.global.u32 [%rd7], %r2; ret;"), {2, 32}),
               "another block");
  EXPECT_FAILS(
      run(absl::StrCat(kNext,
                       "ld.global.u32 %r4, [%rd7]; bar.sync 0; st.global.u32 [%rd4], %r4; ret;"),
          {2, 32}),
      "another block");
  // All write one word: the same value is no race.
  EXPECT_OK(run("st.global.u32 [%rd2], 9; ret;", {3, 64}));
  EXPECT_FAILS(run("st.global.u32 [%rd2], %r30; ret;", {3, 64}),
               "a data race, write after write, with another block");
  EXPECT_FAILS(run("st.global.u32 [%rd2], %r1; ret;", {1, 32}), "of the same warp");
  // Atomics among themselves are fine; a plain access beside them is not.
  EXPECT_OK(run("red.global.add.u32 [%rd1], 1; ret;", {3, 64}));
  EXPECT_FAILS(run("red.global.add.u32 [%rd1], 1; ld.global.u32 %r2, [%rd1]; ret;", {3, 64}),
               "a data race");
  // What one launch wrote the next may read; equal words of rows in bytes.
  EXPECT_OK(run("st.global.u32 [%rd5], %r1; ret;", {2, 32}));
  EXPECT_OK(
      run("xor.b32 %r3, %r1, 33; mul.wide.u32 %rd6, %r3, 4; add.s64 %rd7, %rd2, %rd6; "
          "ld.global.u32 %r2, [%rd7]; ret;",
          {2, 32}));
  EXPECT_OK(run("cvt.u64.u32 %rd6, %r1; add.s64 %rd7, %rd2, %rd6; st.global.u8 [%rd7], %r1; ret;",
                {2, 33}));
  MachineOptions options;
  options.check_races = false;
  Machine lenient(&memory_, options);
  EXPECT_OK(RunText(&lenient,
                    KernelText(std::string(kThread) + "st.global.u32 [%rd2], %r30; ret;", 2),
                    {out, out}, {3, 64}));
}

TEST_F(Checks, RacesThroughPointersFromMemory) {
  // The machine follows where stores may go; an address that was loaded may go anywhere.
  const uint64_t data = Words(64, "data");
  const std::vector<uint64_t> pointer(1, data);
  const uint64_t table = memory_.Upload(pointer, "table");
  EXPECT_FAILS(Run(R"(
  ld.param.u64 %rd1, [p0]; ld.global.u64 %rd2, [%rd1]; ld.param.u64 %rd3, [p1];
  mov.u32 %r1, %tid.x; mov.u32 %r2, %ctaid.x; ld.global.u32 %r3, [%rd3];
  st.global.u32 [%rd2], %r2; ret;)",
                   {table, data}, {2, 32}),
               "a data race");
}

TEST_F(Checks, LaunchLimits) {
  const auto module = ParseKernel("ret;", 1, 80);
  ASSERT_TRUE(module.ok()) << module.status();
  const Kernel& k = *(*module)->Find("k");
  const uint8_t params[8] = {};
  const auto launch = [&](Dim3 grid, Dim3 block, uint32_t shared = 0, uint32_t opt_in = 0) {
    return machine_.Launch(k, {grid, block, shared, opt_in}, params);
  };
  EXPECT_OK(launch({65535, 1, 1}, {1, 1, 1}));
  EXPECT_OK(launch({1, 1, 1}, {1024, 1, 1}, 49152));
  EXPECT_FAILS(launch({1, 1, 1}, {1025, 1, 1}), "the most is 1024 x 1024 x 64 and 1024 threads");
  EXPECT_FAILS(launch({1, 1, 1}, {1, 1, 65}), "1024 threads");
  EXPECT_FAILS(launch({1, 1, 1}, {64, 32, 1}), "1024 threads");
  EXPECT_FAILS(launch({0, 1, 1}, {1, 1, 1}), "no threads");
  EXPECT_FAILS(launch({1, 65536, 1}, {1, 1, 1}), "65535");
  EXPECT_FAILS(launch({1, 1, 1}, {32, 1, 1}, 49153), "without opting in to more than 48 KiB");
  EXPECT_OK(launch({1, 1, 1}, {32, 1, 1}, 101376, 101376));
  EXPECT_FAILS(launch({1, 1, 1}, {32, 1, 1}, 101377, 200000), "a block of sm_86 may have 101376");
  EXPECT_FAILS(machine_.Launch(k, {}, std::span<const uint8_t>(params, 4)),
               "4 bytes of parameters, the kernel has 8");
  MachineOptions old;
  old.sm = 75;
  Machine card(&memory_, old);
  EXPECT_FAILS(card.Launch(k, {}, params), "the module is for sm_80, the card is sm_75");
  const auto limited = Module::Parse(
      ".version 7.5\n.target sm_75\n.address_size 64\n.entry k() .maxntid 128, 1, 1 .minnctapersm "
      "2 { ret; }");
  ASSERT_TRUE(limited.ok()) << limited.status();
  EXPECT_EQ((*limited)->Find("k")->max_threads(), 128u);
  EXPECT_EQ((*limited)->Find("k")->min_blocks(), 2u);
  EXPECT_FAILS(
      machine_.Launch(*(*limited)->Find("k"), {{}, {129, 1, 1}}, std::span<const uint8_t>()),
      "compiled for 128");
}

TEST_F(Checks, SourceLinesAreNamed) {
  const std::string body =
      ".loc 1 77 3\n  ld.param.u64 %rd1, [p0];\n.loc 1 78 9\n  ld.global.u32 %r1, [%rd1];\n ret;";
  EXPECT_FAILS(RunText(&machine_, KernelText(body, 1, 80, ".file 1 \"kernels/rows.cu\""), {0}),
               "(kernels/rows.cu:78): ld.global.u32 %r1, [%rd1];");
}

TEST_F(Checks, TrapEndsTheLaunch) { EXPECT_FAILS(Run("trap;", {}), "trap"); }

TEST_F(Checks, AfterAFailureTheMachineGoesOn) {
  EXPECT_FALSE(Run("trap;", {}).ok());
  EXPECT_OK(Run("ret;", {}));
}

TEST(OccupancyTest, VendorFigures) {
  // 256 threads, 32 registers: 65536 / (32 * 256) = 8 blocks, and 48 warps of sm_86 hold 6.
  EXPECT_EQ(ComputeOccupancy(86, 256, 32, 0).blocks, 6u);
  EXPECT_STREQ(ComputeOccupancy(86, 256, 32, 0).limited_by, "threads");
  EXPECT_EQ(ComputeOccupancy(80, 256, 64, 0).blocks, 4u);
  EXPECT_STREQ(ComputeOccupancy(80, 256, 64, 0).limited_by, "registers");
  EXPECT_EQ(ComputeOccupancy(75, 128, 32, 32768).blocks, 2u);
  EXPECT_STREQ(ComputeOccupancy(75, 128, 32, 32768).limited_by, "shared memory");
  EXPECT_EQ(ComputeOccupancy(86, 32, 16, 0).blocks, 16u);
  EXPECT_STREQ(ComputeOccupancy(86, 32, 16, 0).limited_by, "blocks");
  EXPECT_EQ(ComputeOccupancy(86, 1024, 128, 0).blocks, 0u);
}

}  // namespace
}  // namespace lanyard::ptx
