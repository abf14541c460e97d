// The instructions of the product kernels that common.cuh does not have.
#pragma once

#include "engine/ops/cuda/common.cuh"
#include "engine/ops/cuda/matmul_args.h"

#define LANYARD_METHOD __device__ inline __attribute__((always_inline))

namespace lanyard::ops::cuda {

struct alignas(16) Vec4u {
  uint32_t x, y, z, w;
};

// Blocks dealt to partial p, and the position of the first of them.
LANYARD_DEVICE uint32_t DealtCount(uint32_t n_blocks, uint32_t p) {
  return (n_blocks + (kDealtPartials - 1) - p) / kDealtPartials;
}
LANYARD_DEVICE uint32_t DealtFirst(uint32_t n_blocks, uint32_t p) {
  const uint32_t longer = n_blocks % kDealtPartials;
  return p * (n_blocks / kDealtPartials) + (p < longer ? p : longer);
}

// --- Loads of memory that the kernel does not write
// Weights pass once: they should not displace the activations in the first-level cache.
#if LANYARD_PTX_LEVEL >= 75
#define LANYARD_STREAM "ld.global.nc.L1::no_allocate"
#else
#define LANYARD_STREAM "ld.global.nc"
#endif
LANYARD_DEVICE Vec4u LoadStream16(const uint8_t* p) {
  Vec4u v;
  asm(LANYARD_STREAM ".v4.u32 {%0, %1, %2, %3}, [%4];"
      : "=r"(v.x), "=r"(v.y), "=r"(v.z), "=r"(v.w)
      : "l"(p));
  return v;
}
LANYARD_DEVICE Vec4u Load16(const void* p) {
  Vec4u v;
  asm("ld.global.nc.v4.u32 {%0, %1, %2, %3}, [%4];"
      : "=r"(v.x), "=r"(v.y), "=r"(v.z), "=r"(v.w)
      : "l"(p));
  return v;
}
LANYARD_DEVICE Vec4f Load16f(const void* p) {
  Vec4f v;
  asm("ld.global.nc.v4.f32 {%0, %1, %2, %3}, [%4];"
      : "=f"(v.x), "=f"(v.y), "=f"(v.z), "=f"(v.w)
      : "l"(p));
  return v;
}
LANYARD_DEVICE void Load8(const void* p, uint32_t* a, uint32_t* b) {
  asm("ld.global.nc.v2.u32 {%0, %1}, [%2];" : "=r"(*a), "=r"(*b) : "l"(p));
}
LANYARD_DEVICE Vec2f Load8f(const void* p) {
  Vec2f v;
  asm("ld.global.nc.v2.f32 {%0, %1}, [%2];" : "=f"(v.x), "=f"(v.y) : "l"(p));
  return v;
}
LANYARD_DEVICE uint32_t Load4(const void* p) {
  uint32_t v;
  asm("ld.global.nc.u32 %0, [%1];" : "=r"(v) : "l"(p));
  return v;
}
LANYARD_DEVICE float Load4f(const void* p) {
  float v;
  asm("ld.global.nc.f32 %0, [%1];" : "=f"(v) : "l"(p));
  return v;
}
LANYARD_DEVICE uint16_t Load2(const void* p) {
  uint16_t v;
  asm("ld.global.nc.u16 %0, [%1];" : "=h"(v) : "l"(p));
  return v;
}

// --- Shared memory by its 32-bit address
LANYARD_DEVICE uint32_t SharedAddress(const void* p) {
  uint64_t a;
  asm("cvta.to.shared.u64 %0, %1;" : "=l"(a) : "l"(p));
  return static_cast<uint32_t>(a);
}
LANYARD_DEVICE Vec4f SharedLoad16f(uint32_t at) {
  Vec4f v;
  asm volatile("ld.shared.v4.f32 {%0, %1, %2, %3}, [%4];"
               : "=f"(v.x), "=f"(v.y), "=f"(v.z), "=f"(v.w)
               : "r"(at)
               : "memory");
  return v;
}
LANYARD_DEVICE Vec4u SharedLoad16(uint32_t at) {
  Vec4u v;
  asm volatile("ld.shared.v4.u32 {%0, %1, %2, %3}, [%4];"
               : "=r"(v.x), "=r"(v.y), "=r"(v.z), "=r"(v.w)
               : "r"(at)
               : "memory");
  return v;
}
LANYARD_DEVICE Vec2f SharedLoad8f(uint32_t at) {
  Vec2f v;
  asm volatile("ld.shared.v2.f32 {%0, %1}, [%2];" : "=f"(v.x), "=f"(v.y) : "r"(at) : "memory");
  return v;
}
LANYARD_DEVICE void SharedLoad8(uint32_t at, uint32_t* a, uint32_t* b) {
  asm volatile("ld.shared.v2.u32 {%0, %1}, [%2];" : "=r"(*a), "=r"(*b) : "r"(at) : "memory");
}
LANYARD_DEVICE uint32_t SharedLoad4(uint32_t at) {
  uint32_t v;
  asm volatile("ld.shared.u32 %0, [%1];" : "=r"(v) : "r"(at) : "memory");
  return v;
}
LANYARD_DEVICE void SharedStore16(uint32_t at, Vec4u v) {
  asm volatile("st.shared.v4.u32 [%0], {%1, %2, %3, %4};"
               :
               : "r"(at), "r"(v.x), "r"(v.y), "r"(v.z), "r"(v.w)
               : "memory");
}
LANYARD_DEVICE void SharedStore8f(uint32_t at, Vec2f v) {
  asm volatile("st.shared.v2.f32 [%0], {%1, %2};" : : "r"(at), "f"(v.x), "f"(v.y) : "memory");
}
LANYARD_DEVICE void SharedStore4f(uint32_t at, float v) {
  asm volatile("st.shared.f32 [%0], %1;" : : "r"(at), "f"(v) : "memory");
}

#if LANYARD_PTX_LEVEL >= 75
// Loads four 8 x 16-byte matrices: lane l gives the address of row l % 8 of matrix l / 8, and gets
// bytes 4 (l % 4) .. + 3 of row l / 4 of each.
LANYARD_DEVICE void LoadMatrices(uint32_t at, uint32_t out[4]) {
  asm volatile("ldmatrix.sync.aligned.m8n8.x4.shared.b16 {%0, %1, %2, %3}, [%4];"
               : "=r"(out[0]), "=r"(out[1]), "=r"(out[2]), "=r"(out[3])
               : "r"(at)
               : "memory");
}
// Loads two of them: lanes 0 to 15 give the addresses.
LANYARD_DEVICE void LoadMatrices2(uint32_t at, uint32_t out[2]) {
  asm volatile("ldmatrix.sync.aligned.m8n8.x2.shared.b16 {%0, %1}, [%2];"
               : "=r"(out[0]), "=r"(out[1])
               : "r"(at)
               : "memory");
}

// Computes d = c + a b, where a is 16 x 32 and b 32 x 8 signed bytes. Lane (g, t) = (lane / 4, lane
// % 4) holds bytes 4t..4t+3 of a's rows g and g + 8 (a[0], a[1]) and 16 + 4t.. of the same (a[2],
// a[3]); the same of b's column g (b[0], b[1]); and the columns 2t, 2t + 1 of rows g and g + 8 of
// d.
LANYARD_DEVICE void Mma32(int32_t d[4], const uint32_t a[4], uint32_t b0, uint32_t b1, int32_t c) {
#if LANYARD_PTX_LEVEL >= 80
  asm("mma.sync.aligned.m16n8k32.row.col.s32.s8.s8.s32 {%0, %1, %2, %3}, {%4, %5, %6, %7}, {%8, "
      "%9}, {%10, %10, %10, %10};"
      : "=r"(d[0]), "=r"(d[1]), "=r"(d[2]), "=r"(d[3])
      : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "r"(b0), "r"(b1), "r"(c));
#else
  LANYARD_UNROLL for (int i = 0; i < 2; ++i) {
    int32_t e0, e1;
    asm("mma.sync.aligned.m8n8k16.row.col.s32.s8.s8.s32 {%0, %1}, {%2}, {%3}, {%4, %4};"
        : "=r"(e0), "=r"(e1)
        : "r"(a[i]), "r"(b0), "r"(c));
    asm("mma.sync.aligned.m8n8k16.row.col.s32.s8.s8.s32 {%0, %1}, {%2}, {%3}, {%4, %5};"
        : "=r"(d[2 * i]), "=r"(d[2 * i + 1])
        : "r"(a[i + 2]), "r"(b1), "r"(e0), "r"(e1));
  }
#endif
}
// The same with 16 bytes of k: a[0], a[1] and b.
LANYARD_DEVICE void Mma16(int32_t d[4], uint32_t a0, uint32_t a1, uint32_t b, int32_t c) {
#if LANYARD_PTX_LEVEL >= 80
  asm("mma.sync.aligned.m16n8k16.row.col.s32.s8.s8.s32 {%0, %1, %2, %3}, {%4, %5}, {%6}, {%7, %7, "
      "%7, %7};"
      : "=r"(d[0]), "=r"(d[1]), "=r"(d[2]), "=r"(d[3])
      : "r"(a0), "r"(a1), "r"(b), "r"(c));
#else
  asm("mma.sync.aligned.m8n8k16.row.col.s32.s8.s8.s32 {%0, %1}, {%2}, {%3}, {%4, %4};"
      : "=r"(d[0]), "=r"(d[1])
      : "r"(a0), "r"(b), "r"(c));
  asm("mma.sync.aligned.m8n8k16.row.col.s32.s8.s8.s32 {%0, %1}, {%2}, {%3}, {%4, %4};"
      : "=r"(d[2]), "=r"(d[3])
      : "r"(a1), "r"(b), "r"(c));
#endif
}
#endif  // LANYARD_PTX_LEVEL >= 75

#if LANYARD_PTX_LEVEL >= 80
LANYARD_DEVICE void CopyAsync16(uint32_t shared, const void* global) {
  asm volatile("cp.async.cg.shared.global [%0], [%1], 16;" : : "r"(shared), "l"(global) : "memory");
}
LANYARD_DEVICE void CopyAsyncCommit() { asm volatile("cp.async.commit_group;" : : : "memory"); }
LANYARD_DEVICE void CopyAsyncWaitAll() { asm volatile("cp.async.wait_group 0;" : : : "memory"); }
#endif

}  // namespace lanyard::ops::cuda
