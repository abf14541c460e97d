// What the parser and the decoder take, and how they refuse.
#include <random>

#include "tests/ptx/lexer.h"
#include "tests/ptx/machine_testing.h"

namespace lanyard::ptx {
namespace {

absl::Status Parse(const std::string& body, int sm = 80) {
  return ParseKernel(body, 1, sm).status();
}

TEST(MachineParse, UnknownInstructionsNameLineAndText) {
  const absl::Status status = Parse("mov.u32 %r1, %tid.x;\n  frobnicate.u32 %r1, %r2;\n ret;");
  EXPECT_EQ(status.code(), absl::StatusCode::kUnimplemented);
  EXPECT_FAILS(status, "kernel k, PTX line 15: unknown instruction: frobnicate.u32 %r1, %r2;");
  EXPECT_FAILS(Parse("ld.global.frob.u32 %r1, [%rd1]; ret;"), "unknown modifier .frob");
  EXPECT_FAILS(Parse("call foo; ret;"), "calls of functions are not known");
  EXPECT_FAILS(Parse("mov.u32 %r1, %frob; ret;"), "%frob");
  EXPECT_FAILS(Parse("shfl.bfly.b32 %r1, %r2, 1, 31; ret;"), "without .sync");
  EXPECT_FAILS(Parse("mov.u64 %rd1, %globaltimer; ret;"), "unknown special register");
}

TEST(MachineParse, ApproximationsAreRefused) {
  EXPECT_FAILS(Parse("ex2.approx.f32 %f1, %f2; ret;"), ".approx is refused");
  EXPECT_FAILS(Parse("div.full.f32 %f1, %f2, %f3; ret;"), ".full is refused");
  EXPECT_FAILS(Parse("add.ftz.f32 %f1, %f2, %f3; ret;"), ".ftz is refused");
  EXPECT_FAILS(Parse("mul.f32 %f1, %f2, %f3; add.f32 %f1, %f1, %f4; ret;"), "ptxas may fuse them");
  EXPECT_OK(
      Parse("mov.f32 %f2, 0f3F800000; mul.rn.f32 %f1, %f2, %f2; add.f32 %f1, %f1, %f2; ret;"));
}

TEST(MachineParse, InstructionsOfNewerCardsAreRefused) {
  EXPECT_FAILS(Parse("cp.async.wait_all; ret;", 75), "needs sm_80, the module's target is sm_75");
  EXPECT_FAILS(Parse("mma.sync.aligned.m16n8k32.row.col.s32.s8.s8.s32 {%r1,%r2,%r3,%r4}, "
                     "{%r5,%r6,%r7,%r8}, {%r9,%r10}, {%r1,%r2,%r3,%r4}; ret;",
                     75),
               "needs sm_80");
  EXPECT_FAILS(
      Parse(
          "mma.sync.aligned.m8n8k16.row.col.s32.s8.s8.s32 {%r1,%r2}, {%r5}, {%r9}, {%r1,%r2}; ret;",
          61),
      "needs sm_75");
  EXPECT_FAILS(Parse("dp4a.s32.s32 %r1, %r1, %r1, %r1; ret;", 60), "needs sm_61");
}

TEST(MachineParse, OperandsMustFit) {
  EXPECT_FAILS(Parse("add.s32 %r1, %r2; ret;"), "has 2 operands, not 3");
  EXPECT_FAILS(Parse("add.s32 %r1, %rd2, %r3; ret;"),
               "register %rd2 has 64 bits, which does not fit");
  EXPECT_FAILS(Parse("add.s64 %rd1, %r2, %rd3; ret;"), "which does not fit");
  EXPECT_FAILS(Parse("add.s32 1, %r2, %r3; ret;"), "the destination must be a register");
  EXPECT_FAILS(Parse("selp.b32 %r1, %r2, %r3, %r4; ret;"), "which does not fit");
  EXPECT_FAILS(Parse("ld.global.u64 %r1, [%rd1]; ret;"), "a register that is too small");
  EXPECT_FAILS(Parse("ld.global.v4.u32 {%r1, %r2}, [%rd1]; ret;"), "does not fit .v2 or .v4");
  EXPECT_FAILS(Parse("ld.global.u32 %r1, %rd1; ret;"), "an address in [] expected");
  EXPECT_FAILS(Parse("bra NOWHERE; ret;"), "there is no label NOWHERE");
  EXPECT_FAILS(Parse("@%r1 bra A; A: ret;"), "a guard must be a predicate register");
  EXPECT_FAILS(Parse("mov.u32 %r99, 1; ret;"), "%r99");
  EXPECT_FAILS(Parse("ld.param.u64 %rd1, [p1]; ret;"), "there is no such parameter");
  EXPECT_FAILS(Parse("ld.param.u64 %rd1, [p0+8]; ret;"), "reads beyond the parameters");
  EXPECT_FAILS(Parse("cvt.f32.s32 %f1, %r1; ret;"), "needs a rounding");
  EXPECT_FAILS(Parse("cvt.s32.f32 %r1, %f1; ret;"), "needs an integer rounding");
  EXPECT_FAILS(Parse("A: A: ret;"), "the label is there twice");
  EXPECT_FAILS(Parse(""), "has no instructions");
}

TEST(MachineParse, BrokenTexts) {
  for (const char* text :
       {"", ".version", ".version 7.5", ".version x.y\n.target sm_80",
        ".version 5.0\n.target sm_80", ".version 7.5\n.target sm_80\n.address_size 32",
        ".version 7.5\n.target sm_80\n.entry k(", "/* open",
        ".version 7.5\n.target sm_80\n.entry k() {",
        ".version 7.5\n.target sm_80\n.entry k() { mov.u32 ", "\"open",
        ".version 7.5\n.target sm_80\n.entry k() { .reg .b32 %r<; ret; }",
        ".version 7.5\n.target sm_80\n#pragma once", ".version 7.5\n.target sm_80\n.global .u32 x[",
        ".version 7.5\n.target sm_80\n.global .u8 x[2] = {1, 2, 3};",
        ".version 7.5\n.target sm_80\n.extern .global .u32 x;",
        ".version 7.5\n.target sm_80\n.global .v4 .f32 x;"}) {
    EXPECT_FALSE(Module::Parse(text).ok()) << text;
  }
  // Cut anywhere, a text is an error or a module, never a crash.
  const std::string whole = KernelText(
      "ld.param.u64 %rd1, [p0]; mov.u32 %r1, %tid.x; setp.lt.u32 %p1, %r1, 3; @!%p1 bra A;\n"
      "st.global.v2.u32 [%rd1+8], {%r1, %r1};\nA: shfl.sync.up.b32 %r2|%p2, %r1, 1, 0, -1; ret;");
  for (size_t n = 0; n < whole.size(); n += 3) (void)Module::Parse(whole.substr(0, n)).ok();
}

TEST(MachineParse, MutatedTextsAreErrorsOrRun) {
  const std::string whole = KernelText(
      ".shared .align 16 .b8 s[256]; .local .align 8 .b8 d[16]; ld.param.u64 %rd1, [p0]; mov.u32 "
      "%r1, %tid.x;\n"
      "mul.wide.u32 %rd2, %r1, 4; add.s64 %rd3, %rd1, %rd2; ld.global.u32 %r2, [%rd3]; setp.lt.u32 "
      "%p1, %r1, 9;\n"
      "@!%p1 bra A; mov.u32 %r5, s; st.shared.u32 [%r5], 3; cvt.rn.f32.s32 %f1, %r2; fma.rn.f32 "
      "%f2, %f1, %f1, %f1;\n"
      "A: bar.sync 0; shfl.sync.bfly.b32 %r3|%p2, %r2, 1, 31, -1; selp.b32 %r4, %r2, %r3, %p2;\n"
      "L: add.s32 %r4, %r4, -1; setp.gt.s32 %p3, %r4, 0; @%p3 bra L; st.global.u32 [%rd3], %r4; "
      "ret;",
      1);
  std::mt19937 random(11);
  MachineOptions options;
  options.max_instructions_between_barriers = 5000;
  {
    Memory memory;
    Machine machine(&memory, options);
    ASSERT_OK(RunText(&machine, whole, {memory.Upload(std::vector<uint32_t>(64, 5), "words")}));
  }
  int ran = 0;
  for (int i = 0; i < 1500; ++i) {
    std::string text = whole;
    for (size_t n = random() % 3; n < 3; ++n) {
      const size_t at = random() % text.size();
      switch (random() % 3) {
        case 0:
          text[at] = "{}[]();,.%@!0f1rx+-_:<>|"[random() % 24];
          break;
        case 1:
          text.erase(at, 1 + random() % 12);
          break;
        default:
          text.insert(at, text.substr(random() % text.size(), random() % 20));
          break;
      }
    }
    Memory memory;
    Machine machine(&memory, options);
    const std::vector<uint32_t> words(64, 5);
    const absl::Status status = RunText(&machine, text, {memory.Upload(words, "words")});
    ran += status.ok();
  }
  EXPECT_GT(ran, 5) << "most mutations are refused, but not all";
}

TEST(MachineParse, WhatCompilersWrite) {
  const auto module = Module::Parse(R"(//
// Generated by a compiler
.version 8.4
.target sm_89, debug
.address_size 64
	// .globl	k
.file	1 "a/b.cu", 1, 2
.extern .func (.param .b32 func_retval0) vprintf (.param .b64 vprintf_param_0,
.param .b64 vprintf_param_1);
.func (.param .b32 result) helper(.param .b32 x)
{
  .reg .b32 %r<2>;
  ret;
}
.visible .entry k(
	.param .u64 .ptr .global .align 16 k_param_0,
	.param .align 8 .b8 k_param_1[24]
)
.maxntid 256, 1, 1
.minnctapersm 2
{
	.reg .pred 	%p<4>;
	.reg .b32 	%r<7>; /* a comment
	over lines */
	.reg .b64 	%rd<5>, other;
	.loc	1 10 5
	ld.param.u64 	%rd1, [k_param_0];
	.pragma "nounroll";
	{
	.reg .b32 %r1;
	mov.u32 %r1, 0x1F;
	mov.u32 %r2, %r1;
	}
	{
	.reg .b32 %r1;
	mov.u32 %r1, 0b101;
	add.u32 %r2, %r2, %r1;
	}
	ld.param.u32 	%r3, [k_param_1+4];
$L__BB0_1: mov.u64 other, %rd1;
	prefetch.global.L2 [%rd1];
	membar.gl;
	fence.acq_rel.gpu;
	st.global.u32 	[other+-0], %r2;
	ret;
}
.section .debug_str { $L__info: .b8 95, 0 }
)");
  ASSERT_TRUE(module.ok()) << module.status();
  EXPECT_EQ((*module)->target_sm(), 89);
  EXPECT_EQ((*module)->ptx_version(), 84);
  EXPECT_EQ((*module)->KernelNames(), std::vector<std::string>{"k"});
  EXPECT_EQ((*module)->Find("k")->param_bytes(), 32u);
  EXPECT_EQ((*module)->Find("nothing"), nullptr);
  Memory memory;
  MachineOptions options;
  options.sm = 89;
  Machine machine(&memory, options);
  uint64_t params[4] = {memory.Alloc(4, "out"), 0, 0, 0};
  EXPECT_OK(
      machine.Launch(*(*module)->Find("k"), {}, {reinterpret_cast<const uint8_t*>(params), 32}));
  EXPECT_EQ(memory.Download<uint32_t>(params[0], 1)->at(0), 36u)
      << "registers of inner blocks are their own";
}

TEST(MachineParse, LiveRegisters) {
  const auto module = ParseKernel(
      "mov.u32 %r1, %tid.x; mov.u32 %r2, %ntid.x; add.u32 %r3, %r1, %r2; ld.param.u64 %rd1, [p0];"
      "mul.wide.u32 %rd2, %r1, 4; add.s64 %rd3, %rd1, %rd2; st.global.u32 [%rd3], %r3; ret;",
      1);
  ASSERT_TRUE(module.ok()) << module.status();
  EXPECT_GE((*module)->Find("k")->live_registers(), 5u);
  EXPECT_LE((*module)->Find("k")->live_registers(), 8u);
}

}  // namespace
}  // namespace lanyard::ptx
