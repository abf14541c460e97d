// The arguments of the probe's kernels (probe.cu). Pointers are device addresses.
#pragma once

#include <cstdint>

namespace lanyard::ops::cuda {

constexpr uint32_t kProbeThreads = 256;  // threads of a block

struct ProbeArgs {
  const uint8_t* from = nullptr;  // for probe_read: 16-byte aligned
  // One word for each thread of the grid: results are stored, so that no compiler removes the work.
  uint32_t* sink = nullptr;
  uint64_t vectors = 0;  // of 16 bytes each
  uint32_t loops = 0;    // for the arithmetic kernels
  uint32_t seed = 0;
};

// The operations (a multiply and an add count as 2) of one loop, for a thread (dp4a, fma) or a warp
// (mma).
constexpr uint32_t kProbeDp4aOps = 16 * 8;  // 16 chains
constexpr uint32_t kProbeFmaOps = 16 * 2;
constexpr uint32_t kProbeMmaOps75 = 8 * 2 * 8 * 8 * 16;    // 8 chains of m8n8k16
constexpr uint32_t kProbeMmaOps80 = 8 * 2 * 16 * 8 * 32;   // 8 chains of m16n8k32
constexpr uint32_t kProbeHalfOps75 = 8 * 2 * 16 * 8 * 8;   // 8 chains of m16n8k8
constexpr uint32_t kProbeHalfOps80 = 8 * 2 * 16 * 8 * 16;  // 8 chains of m16n8k16

}  // namespace lanyard::ops::cuda
