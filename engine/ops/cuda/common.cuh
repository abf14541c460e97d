// The names in which kernels are written, over nvcc and over clang without an SDK. Every float
// operation is rounded to nearest even and never fused unless Fma is written (both compilers run
// without contraction); there is no library of device functions, and nothing approximate.
// LANYARD_PTX_LEVEL is 61, 75 or 80.
#pragma once

#include <cstddef>
#include <cstdint>

#ifndef __CUDACC_VER_MAJOR__  // clang
#define __global__ __attribute__((global))
#define __device__ __attribute__((device))
#define __shared__ __attribute__((shared))
#define __constant__ __attribute__((constant))
#define __launch_bounds__(...) __attribute__((launch_bounds(__VA_ARGS__)))
#endif

#define LANYARD_KERNEL extern "C" __global__ void
#define LANYARD_DEVICE __device__ static inline __attribute__((always_inline))
#define LANYARD_MEMBER __device__ inline __attribute__((always_inline))
#define LANYARD_PRAGMA(x) _Pragma(#x)
#define LANYARD_UNROLL _Pragma("unroll")
#define LANYARD_NO_UNROLL _Pragma("unroll 1")
#define LANYARD_UNROLL_BY(n) LANYARD_PRAGMA(unroll n)

namespace lanyard::ops::cuda {

constexpr uint32_t kWarp = 32;
constexpr uint32_t kAllLanes = 0xffffffffu;

// --- Where a thread is
#ifdef __CUDACC_VER_MAJOR__
LANYARD_DEVICE uint32_t ThreadX() { return threadIdx.x; }
LANYARD_DEVICE uint32_t ThreadY() { return threadIdx.y; }
LANYARD_DEVICE uint32_t BlockX() { return blockIdx.x; }
LANYARD_DEVICE uint32_t BlockY() { return blockIdx.y; }
LANYARD_DEVICE uint32_t BlockZ() { return blockIdx.z; }
LANYARD_DEVICE uint32_t BlockSizeX() { return blockDim.x; }
LANYARD_DEVICE uint32_t GridX() { return gridDim.x; }
LANYARD_DEVICE uint32_t GridY() { return gridDim.y; }
LANYARD_DEVICE void Barrier() { __syncthreads(); }
LANYARD_DEVICE void WarpBarrier() { __syncwarp(); }
LANYARD_DEVICE float Fma(float a, float b, float c) { return __fmaf_rn(a, b, c); }
LANYARD_DEVICE float Sqrt(float a) { return __fsqrt_rn(a); }
LANYARD_DEVICE float Div(float a, float b) { return __fdiv_rn(a, b); }
LANYARD_DEVICE float Mul(float a, float b) { return __fmul_rn(a, b); }
LANYARD_DEVICE float Add(float a, float b) { return __fadd_rn(a, b); }
#else
LANYARD_DEVICE uint32_t ThreadX() { return __nvvm_read_ptx_sreg_tid_x(); }
LANYARD_DEVICE uint32_t ThreadY() { return __nvvm_read_ptx_sreg_tid_y(); }
LANYARD_DEVICE uint32_t BlockX() { return __nvvm_read_ptx_sreg_ctaid_x(); }
LANYARD_DEVICE uint32_t BlockY() { return __nvvm_read_ptx_sreg_ctaid_y(); }
LANYARD_DEVICE uint32_t BlockZ() { return __nvvm_read_ptx_sreg_ctaid_z(); }
LANYARD_DEVICE uint32_t BlockSizeX() { return __nvvm_read_ptx_sreg_ntid_x(); }
LANYARD_DEVICE uint32_t GridX() { return __nvvm_read_ptx_sreg_nctaid_x(); }
LANYARD_DEVICE uint32_t GridY() { return __nvvm_read_ptx_sreg_nctaid_y(); }
LANYARD_DEVICE void Barrier() { __syncthreads(); }
LANYARD_DEVICE void WarpBarrier() { __nvvm_bar_warp_sync(kAllLanes); }
LANYARD_DEVICE float Fma(float a, float b, float c) { return __nvvm_fma_rn_f(a, b, c); }
LANYARD_DEVICE float Sqrt(float a) { return __nvvm_sqrt_rn_f(a); }
LANYARD_DEVICE float Div(float a, float b) { return __nvvm_div_rn_f(a, b); }
LANYARD_DEVICE float Mul(float a, float b) { return __nvvm_mul_rn_f(a, b); }
LANYARD_DEVICE float Add(float a, float b) { return __nvvm_add_rn_f(a, b); }
#endif

LANYARD_DEVICE uint32_t Lane() { return ThreadX() % kWarp; }
LANYARD_DEVICE uint32_t WarpOfBlock() { return ThreadX() / kWarp; }

// --- Bits
LANYARD_DEVICE uint32_t BitsOf(float x) { return __builtin_bit_cast(uint32_t, x); }
LANYARD_DEVICE float FloatOf(uint32_t bits) { return __builtin_bit_cast(float, bits); }
LANYARD_DEVICE uint64_t BitsOf(double x) { return __builtin_bit_cast(uint64_t, x); }
LANYARD_DEVICE double DoubleOf(uint64_t bits) { return __builtin_bit_cast(double, bits); }
LANYARD_DEVICE float Magnitude(float x) { return FloatOf(BitsOf(x) & 0x7fffffffu); }
LANYARD_DEVICE bool IsFinite(float x) { return (BitsOf(x) & 0x7f800000u) != 0x7f800000u; }

// Half conversions: exact in one direction, round to nearest even in the other (base/half.h). The
// NaN of a half has no defined payload.
LANYARD_DEVICE float HalfToFloat(uint16_t h) {
  float x;
  asm("cvt.f32.f16 %0, %1;" : "=f"(x) : "h"(h));
  return x;
}
LANYARD_DEVICE uint16_t FloatToHalf(float x) {
  uint16_t h;
  asm("cvt.rn.f16.f32 %0, %1;" : "=h"(h) : "f"(x));
  return h;
}

// --- Vectors of memory: one access each, aligned to their size
struct alignas(16) Vec4i {
  int32_t x, y, z, w;
};
struct alignas(16) Vec4f {
  float x, y, z, w;
};
struct alignas(8) Vec2i {
  int32_t x, y;
};
struct alignas(8) Vec2f {
  float x, y;
};

// --- Lanes
// Every lane of the warp takes part.
LANYARD_DEVICE uint32_t ShuffleXor(uint32_t value, uint32_t mask) {
  uint32_t out;
  asm volatile("shfl.sync.bfly.b32 %0, %1, %2, 31, -1;" : "=r"(out) : "r"(value), "r"(mask));
  return out;
}
LANYARD_DEVICE float ShuffleXor(float value, uint32_t mask) {
  return FloatOf(ShuffleXor(BitsOf(value), mask));
}
LANYARD_DEVICE uint32_t ShuffleFrom(uint32_t value, uint32_t lane) {
  uint32_t out;
  asm volatile("shfl.sync.idx.b32 %0, %1, %2, 31, -1;" : "=r"(out) : "r"(value), "r"(lane));
  return out;
}
LANYARD_DEVICE float ShuffleFrom(float value, uint32_t lane) {
  return FloatOf(ShuffleFrom(BitsOf(value), lane));
}

// --- Integers
// c + the four products of signed bytes.
LANYARD_DEVICE int32_t Dp4a(int32_t a, int32_t b, int32_t c) {
  int32_t d;
  asm("dp4a.s32.s32 %0, %1, %2, %3;" : "=r"(d) : "r"(a), "r"(b), "r"(c));
  return d;
}
// The bytes of a are unsigned, those of b signed.
LANYARD_DEVICE int32_t Dp4aUS(uint32_t a, int32_t b, int32_t c) {
  int32_t d;
  asm("dp4a.u32.s32 %0, %1, %2, %3;" : "=r"(d) : "r"(a), "r"(b), "r"(c));
  return d;
}

// Starts to bring a line of 128 bytes into the second-level cache; this is only a hint.
LANYARD_DEVICE void PrefetchL2(const void* p) {
  asm volatile("prefetch.global.L2 [%0];" : : "l"(p));
}

LANYARD_DEVICE void AtomicOr(uint32_t* word, uint32_t bits) {
  asm volatile("red.global.or.b32 [%0], %1;"
               :
               : "l"(__builtin_bit_cast(uint64_t, word)), "r"(bits)
               : "memory");
}

// Dynamic shared memory of a launch.
extern __shared__ uint8_t dynamic_shared[] __attribute__((aligned(16)));

}  // namespace lanyard::ops::cuda
