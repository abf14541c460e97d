// Kernels that do one thing as fast as a card can: the probe's rooflines (engine/cuda/probe.h).
// Independent chains hide each instruction's latency; every result is stored.
#include "engine/ops/cuda/common.cuh"
#include "engine/ops/cuda/probe_args.h"

namespace lanyard::ops::cuda {

constexpr int kChains = 16;

LANYARD_DEVICE uint32_t ThreadOfGrid() { return BlockX() * BlockSizeX() + ThreadX(); }

LANYARD_DEVICE uint32_t ReadVector(const uint8_t* at) {
  uint32_t x, y, z, w;
  asm volatile("ld.global.v4.u32 {%0, %1, %2, %3}, [%4];"
               : "=r"(x), "=r"(y), "=r"(z), "=r"(w)
               : "l"(at));
  return x ^ y ^ z ^ w;
}

LANYARD_KERNEL __launch_bounds__(kProbeThreads) lanyard_probe_empty(ProbeArgs a) {
  if (a.loops == 0xffffffffu) a.sink[ThreadOfGrid()] = a.seed;
}

// Reads `vectors` once; neighbouring threads read neighbouring vectors.
LANYARD_KERNEL __launch_bounds__(kProbeThreads) lanyard_probe_read(ProbeArgs a) {
  const uint64_t step = static_cast<uint64_t>(GridX()) * BlockSizeX();
  uint32_t mixed = a.seed;
  uint64_t i = ThreadOfGrid();
  for (; i + 3 * step < a.vectors; i += 4 * step) {
    uint32_t part[4];
    LANYARD_UNROLL
    for (int j = 0; j < 4; ++j) part[j] = ReadVector(a.from + (i + j * step) * 16);
    mixed ^= part[0] ^ part[1] ^ part[2] ^ part[3];
  }
  for (; i < a.vectors; i += step) mixed ^= ReadVector(a.from + i * 16);
  a.sink[ThreadOfGrid()] = mixed;
}

LANYARD_KERNEL __launch_bounds__(kProbeThreads) lanyard_probe_dp4a(ProbeArgs a) {
  const uint32_t thread = ThreadOfGrid();
  const int32_t x = static_cast<int32_t>(a.seed + thread);
  int32_t sum[kChains];
  LANYARD_UNROLL
  for (int c = 0; c < kChains; ++c) sum[c] = c;
  LANYARD_NO_UNROLL
  for (uint32_t loop = 0; loop < a.loops; ++loop) {
    LANYARD_UNROLL
    for (int c = 0; c < kChains; ++c) sum[c] = Dp4a(x, sum[c], sum[c]);
  }
  int32_t all = 0;
  LANYARD_UNROLL
  for (int c = 0; c < kChains; ++c) all ^= sum[c];
  a.sink[thread] = static_cast<uint32_t>(all);
}

LANYARD_KERNEL __launch_bounds__(kProbeThreads) lanyard_probe_fma(ProbeArgs a) {
  const uint32_t thread = ThreadOfGrid();
  const float x = FloatOf(0x3f000000u | (a.seed & 0xffffu));  // in [0.5, 0.51)
  float sum[kChains];
  LANYARD_UNROLL
  for (int c = 0; c < kChains; ++c) sum[c] = static_cast<float>(c);
  LANYARD_NO_UNROLL
  for (uint32_t loop = 0; loop < a.loops; ++loop) {
    LANYARD_UNROLL
    for (int c = 0; c < kChains; ++c) sum[c] = Fma(sum[c], x, x);
  }
  uint32_t all = 0;
  LANYARD_UNROLL
  for (int c = 0; c < kChains; ++c) all ^= BitsOf(sum[c]);
  a.sink[thread] = all;
}

#if LANYARD_PTX_LEVEL >= 75
constexpr int kMmaChains = 8;

// Tensor cores with 8-bit integers: computes the sums of 8 chains, each with the same small
// operands.
LANYARD_KERNEL __launch_bounds__(kProbeThreads) lanyard_probe_mma_s8(ProbeArgs a) {
  const uint32_t thread = ThreadOfGrid();
  const uint32_t x = (a.seed + thread) & 0x01010101u;
  int32_t sum[kMmaChains][4];
  LANYARD_UNROLL
  for (int c = 0; c < kMmaChains; ++c) {
    LANYARD_UNROLL
    for (int j = 0; j < 4; ++j) sum[c][j] = c + j;
  }
  LANYARD_NO_UNROLL
  for (uint32_t loop = 0; loop < a.loops; ++loop) {
    LANYARD_UNROLL
    for (int c = 0; c < kMmaChains; ++c) {
#if LANYARD_PTX_LEVEL >= 80
      asm volatile(
          "mma.sync.aligned.m16n8k32.row.col.s32.s8.s8.s32 {%0, %1, %2, %3}, {%4, %4, %4, %4}, "
          "{%4, %4}, {%0, %1, %2, %3};"
          : "+r"(sum[c][0]), "+r"(sum[c][1]), "+r"(sum[c][2]), "+r"(sum[c][3])
          : "r"(x));
#else
      asm volatile("mma.sync.aligned.m8n8k16.row.col.s32.s8.s8.s32 {%0, %1}, {%2}, {%2}, {%0, %1};"
                   : "+r"(sum[c][0]), "+r"(sum[c][1])
                   : "r"(x));
#endif
    }
  }
  int32_t all = 0;
  LANYARD_UNROLL
  for (int c = 0; c < kMmaChains; ++c) all ^= sum[c][0] ^ sum[c][1] ^ sum[c][2] ^ sum[c][3];
  a.sink[thread] = static_cast<uint32_t>(all);
}

// Tensor cores with halves: the sums are f32.
LANYARD_KERNEL __launch_bounds__(kProbeThreads) lanyard_probe_mma_f16(ProbeArgs a) {
  const uint32_t thread = ThreadOfGrid();
  const uint32_t x = (a.seed + thread) % 2 == 0 ? 0x3c003c00u : 0x38003800u;  // ones, or halves
  float sum[kMmaChains][4];
  LANYARD_UNROLL
  for (int c = 0; c < kMmaChains; ++c) {
    LANYARD_UNROLL
    for (int j = 0; j < 4; ++j) sum[c][j] = static_cast<float>(c + j);
  }
  LANYARD_NO_UNROLL
  for (uint32_t loop = 0; loop < a.loops; ++loop) {
    LANYARD_UNROLL
    for (int c = 0; c < kMmaChains; ++c) {
#if LANYARD_PTX_LEVEL >= 80
      asm volatile(
          "mma.sync.aligned.m16n8k16.row.col.f32.f16.f16.f32 {%0, %1, %2, %3}, {%4, %4, %4, %4}, "
          "{%4, %4}, {%0, %1, %2, %3};"
          : "+f"(sum[c][0]), "+f"(sum[c][1]), "+f"(sum[c][2]), "+f"(sum[c][3])
          : "r"(x));
#else
      asm volatile(
          "mma.sync.aligned.m16n8k8.row.col.f32.f16.f16.f32 {%0, %1, %2, %3}, {%4, %4}, {%4}, {%0, "
          "%1, %2, %3};"
          : "+f"(sum[c][0]), "+f"(sum[c][1]), "+f"(sum[c][2]), "+f"(sum[c][3])
          : "r"(x));
#endif
    }
  }
  uint32_t all = 0;
  LANYARD_UNROLL
  for (int c = 0; c < kMmaChains; ++c)
    all ^= BitsOf(sum[c][0]) ^ BitsOf(sum[c][1]) ^ BitsOf(sum[c][2]) ^ BitsOf(sum[c][3]);
  a.sink[thread] = all;
}
#endif

}  // namespace lanyard::ops::cuda
