// How fast this machine is beside the others of a pool.
#pragma once

#include <map>
#include <memory>
#include <string>
#include <vector>

#include "engine/cuda/cuda_device.h"
#include "engine/ops/isa.h"
#include "net/control.h"

namespace lanyard::worker {

// Threads times a factor for the instruction set (one AVX2 thread is 1). Derived and not measured:
// several workers that start at once on one machine would measure each other's load, and the cut
// would differ from start to start.
// `--speed` overrides it where machines are known to be unlike.
double RelativeSpeed(int threads, ops::Isa isa);
// Bytes a second that a card's memory gives at best, by its clock and width as the driver tells
// them; 0: it does not.
double PeakReadBytes(const cuda::DeviceInfo& card);
// A card on the same scale, from what its memory gives, as measured or else at best: decoding is
// bound by that.
double CardSpeed(const cuda::DeviceInfo& card, const net::DeviceRates& rates);
// The cards as the planner is to see them: what is theirs for stages now, less what its arithmetic
// does not know. Nothing of a card that is lost.
std::vector<net::DeviceHello> HelloOf(
    const std::vector<std::shared_ptr<engine::CudaDevice>>& devices,
    const std::map<std::string, net::DeviceRates>& rates);

}  // namespace lanyard::worker
