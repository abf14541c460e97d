// Small kernels for tests of the driver, as PTX written by hand. What they compute depends on the
// order in which they run.
#pragma once

#include <cstdint>

namespace lanyard::fake_cuda {

struct MixArgs {
  uint64_t to = 0;  // uint32_t[n]
  uint32_t n = 0;
  uint32_t value = 0;
  uint64_t from = 0;  // uint32_t[n]
};

// mix: to[i] = from[i] * 3 + value. mix_unbounded does the same without looking at n. Blocks may
// have any size; a thread takes one element.
inline constexpr char kMixPtx[] = R"(
.version 7.0
.target sm_61
.address_size 64
.visible .entry mix(.param .align 8 .b8 mix_param_0[24])
{
  .reg .pred %p<2>;
  .reg .b32 %r<9>;
  .reg .b64 %rd<8>;
  ld.param.u64 %rd1, [mix_param_0];
  ld.param.u32 %r1, [mix_param_0+8];
  ld.param.u32 %r2, [mix_param_0+12];
  ld.param.u64 %rd2, [mix_param_0+16];
  mov.u32 %r3, %ctaid.x;
  mov.u32 %r4, %ntid.x;
  mov.u32 %r5, %tid.x;
  mad.lo.s32 %r6, %r3, %r4, %r5;
  setp.ge.u32 %p1, %r6, %r1;
  @%p1 bra $L__done;
  cvta.to.global.u64 %rd3, %rd1;
  cvta.to.global.u64 %rd4, %rd2;
  mul.wide.u32 %rd5, %r6, 4;
  add.s64 %rd6, %rd3, %rd5;
  add.s64 %rd7, %rd4, %rd5;
  ld.global.u32 %r7, [%rd7];
  mad.lo.s32 %r8, %r7, 3, %r2;
  st.global.u32 [%rd6], %r8;
$L__done:
  ret;
}
.visible .entry mix_unbounded(.param .align 8 .b8 mix_unbounded_param_0[24])
{
  .reg .b32 %r<9>;
  .reg .b64 %rd<8>;
  ld.param.u64 %rd1, [mix_unbounded_param_0];
  ld.param.u32 %r2, [mix_unbounded_param_0+12];
  ld.param.u64 %rd2, [mix_unbounded_param_0+16];
  mov.u32 %r3, %ctaid.x;
  mov.u32 %r4, %ntid.x;
  mov.u32 %r5, %tid.x;
  mad.lo.s32 %r6, %r3, %r4, %r5;
  cvta.to.global.u64 %rd3, %rd1;
  cvta.to.global.u64 %rd4, %rd2;
  mul.wide.u32 %rd5, %r6, 4;
  add.s64 %rd6, %rd3, %rd5;
  add.s64 %rd7, %rd4, %rd5;
  ld.global.u32 %r7, [%rd7];
  mad.lo.s32 %r8, %r7, 3, %r2;
  st.global.u32 [%rd6], %r8;
  ret;
}
)";

}  // namespace lanyard::fake_cuda
