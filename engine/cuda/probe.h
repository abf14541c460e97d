// Measures in well under a second what a card can do, by copies and small kernels that are timed by
// events. These are the figures that the planner reads from a machine's profile, and the rooflines
// of `lanyard gpu-check`.
#pragma once

#include <memory>

#include "base/status.h"
#include "engine/cuda/driver.h"

namespace lanyard::cuda {

struct CardProbe {
  double read_bytes_per_second = 0;     // of VRAM, by a kernel that only reads
  double copy_bytes_per_second = 0;     // from VRAM to VRAM; read and written bytes are counted
  double int8_dp4a_ops_per_second = 0;  // a multiply and an add count as 2
  double int8_mma_ops_per_second = 0;   // on tensor cores; 0 = the card has none for int8
  double f16_mma_ops_per_second = 0;    // on tensor cores with f32 accumulators; 0 = none
  double f32_fma_ops_per_second = 0;
  double to_device_bytes_per_second = 0;  // over PCIe, from pinned memory
  double to_host_bytes_per_second = 0;
  double launch_seconds = 0;  // an empty kernel after an empty kernel
};

struct ProbeOptions {
  // Taken from the card while the probe runs; less when less is free.
  uint64_t buffer_bytes = 256 << 20;
  int repeats = 5;   // the best counts
  int loops = 4096;  // of the arithmetic kernels
  // A card that reads less than this, by a short look at its memory, is not measured
  // (FailedPrecondition); 0: every card is measured.
  double least_read_bytes_per_second = 0;
};

// Frees what it took. ResourceExhausted when not even 1 MiB is free.
absl::StatusOr<CardProbe> ProbeCard(std::shared_ptr<Module> module,
                                    const ProbeOptions& options = {});

}  // namespace lanyard::cuda
