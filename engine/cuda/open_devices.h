// Opens the cards that a program uses, by the flags --devices and --vram.
#pragma once

#include <map>
#include <memory>
#include <string>
#include <vector>

#include "base/status.h"
#include "engine/cuda/cuda_device.h"

namespace lanyard::engine {

struct DeviceFlags {
  bool automatic = true;  // every card that works and has memory of its own
  // When not automatic: these cards, in this order; none: the processor alone.
  std::vector<int> cards;
  // Bytes of a card's memory (-1: of every other card); without an entry, what is free less a
  // reserve.
  std::map<int, uint64_t> limits;
};

// `devices` is "auto", "cpu", or cards in order of preference: "cuda:0,cuda:1" (the processor takes
// what they do not hold). `vram` is "6GiB" for every card, or "cuda:0=6GiB,cuda:1=4GiB"; empty: no
// limit.
absl::StatusOr<DeviceFlags> ParseDevices(const std::string& devices, const std::string& vram);

// When automatic, it is no error that there is no driver or no card, and a card that cannot be used
// is left out with a warning. Named cards must work.
absl::StatusOr<std::vector<std::shared_ptr<CudaDevice>>> OpenDevices(const DeviceFlags& flags);

}  // namespace lanyard::engine
