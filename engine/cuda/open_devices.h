// The cards that a program uses: what the flags --devices and --vram say, opened.
#pragma once

#include <map>
#include <memory>
#include <string>
#include <vector>

#include "base/status.h"
#include "engine/cuda/cuda_device.h"

namespace lanyard::engine {

struct DeviceFlags {
  bool automatic = true;   // every card that works and has memory of its own
  std::vector<int> cards;  // when not automatic: these, in this order; none: the processor alone
  std::map<int, uint64_t> limits;  // bytes of a card's memory (-1: of every other card); else what
                                   // is free, less a reserve
};

// devices: "auto", "cpu", or cards in order of preference: "cuda:0,cuda:1" (the processor takes
// what they do not hold). vram: "6GiB" for every card, or "cuda:0=6GiB,cuda:1=4GiB"; empty: no
// limit.
absl::StatusOr<DeviceFlags> ParseDevices(const std::string& devices, const std::string& vram);

// Automatic: no driver and no card are no error; a card that cannot be used is left out with a
// warning. Named cards must work.
absl::StatusOr<std::vector<std::shared_ptr<CudaDevice>>> OpenDevices(const DeviceFlags& flags);

}  // namespace lanyard::engine
