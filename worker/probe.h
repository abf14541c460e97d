// How fast this machine is compared with the others of a pool.
#pragma once

#include <map>
#include <memory>
#include <string>
#include <vector>

#include "engine/cuda/cuda_device.h"
#include "engine/ops/isa.h"
#include "net/control.h"

namespace lanyard::worker {

// The speed is threads times a factor for the instruction set (one AVX2 thread is 1). It is derived
// and not measured: several workers that start at once on one machine would measure each other's
// load, and the cut would differ from start to start. `--speed` overrides it where machines are
// known to differ.
double RelativeSpeed(int threads, ops::Isa isa);
// The most bytes a second that a card's memory can give, by its clock and width as the driver tells
// them; 0: the driver does not tell.
double PeakReadBytes(const cuda::DeviceInfo& card);
// The speed of a card on the same scale, from the measured or else the best rate of its memory,
// which is what bounds decoding.
double CardSpeed(const cuda::DeviceInfo& card, const net::DeviceRates& rates);
// The cards as the planner is to see them: the memory that stages may use now, less what the
// planner's arithmetic does not know. A lost card is left out.
std::vector<net::DeviceHello> HelloOf(
    const std::vector<std::shared_ptr<engine::CudaDevice>>& devices,
    const std::map<std::string, net::DeviceRates>& rates);

}  // namespace lanyard::worker
