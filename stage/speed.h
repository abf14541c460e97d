// The scale of speeds: what a worker says of its devices and what the planner makes of it.
#pragma once

#include <cstdint>

namespace lanyard::stage {

// Weights that a device of speed 1 reads per second: decoding is bound by it, so it turns bytes
// into predicted times.
inline constexpr double kBytesPerSecondAtSpeed1 = 10e9;
// A worker or card that says more is not believed.
inline constexpr double kMaxSpeed = 1e6;
// Of a worker, that compute.
inline constexpr uint32_t kMaxThreads = 1024;

}  // namespace lanyard::stage
