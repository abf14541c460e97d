// What a card can do, measured in well under a second by copies and small kernels, timed by events:
// the figures that the planner reads of a machine's profile, and the rooflines of `lanyard
// gpu-check`.
#pragma once

#include <memory>

#include "base/status.h"
#include "engine/cuda/driver.h"

namespace lanyard::cuda {

struct CardProbe {
  double read_bytes_per_second = 0;     // VRAM, a kernel that only reads
  double copy_bytes_per_second = 0;     // VRAM to VRAM, read and written bytes counted
  double int8_dp4a_ops_per_second = 0;  // a multiply and an add are 2
  double int8_mma_ops_per_second = 0;   // tensor cores; 0 = the card has none for int8
  double f16_mma_ops_per_second = 0;    // tensor cores, f32 accumulators; 0 = none
  double f32_fma_ops_per_second = 0;
  double to_device_bytes_per_second = 0;  // PCIe, pinned memory
  double to_host_bytes_per_second = 0;
  double launch_seconds = 0;  // an empty kernel after an empty kernel
};

struct ProbeOptions {
  uint64_t buffer_bytes =
      256 << 20;     // taken from the card for the time of the probe; less when less is free
  int repeats = 5;   // the best counts
  int loops = 4096;  // of the arithmetic kernels
  // What reads less, by a short look at its memory, is not measured (FailedPrecondition); 0:
  // everything is.
  double least_read_bytes_per_second = 0;
};

// Frees what it took. ResourceExhausted when not even 1 MiB is free.
absl::StatusOr<CardProbe> ProbeCard(std::shared_ptr<Module> module,
                                    const ProbeOptions& options = {});

}  // namespace lanyard::cuda
