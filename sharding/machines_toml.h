// machines.toml: the machines and links that `lanyard plan` plans for. This parses text and reads
// no file.
//
//   [[machine]]
//   name = "pc1"
//   memory = "8GiB"
//   speed = 1.0              # optional, like everything below
//   threads = 8
//   base = "60MiB"           # the part that the worker takes itself; default: kWorkerBaseBytes
//   [[machine.device]]
//   kind = "cuda"
//   name = "cuda:0"
//   memory = "12GiB"
//   speed = 8.0
//   [[link]]
//   a = "pc1"
//   b = "pc2"
//   rtt_us = 200
//   bandwidth = "1Gbit"      # bit/s: 100Mbit, 2.5Gbit, or a number
#pragma once

#include <string_view>
#include <vector>

#include "base/status.h"
#include "sharding/planner.h"

namespace lanyard::sharding {

struct MachinesFile {
  std::vector<MachineProfile> machines;
  std::vector<LinkProfile> links;
};

// InvalidArgument, with the line, for malformed TOML, an unknown key (with the nearest known one),
// or a missing or mistyped value.
absl::StatusOr<MachinesFile> ParseMachinesToml(std::string_view text);

}  // namespace lanyard::sharding
