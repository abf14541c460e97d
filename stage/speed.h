// The scale of speeds, as a worker states them of its devices and as the planner uses them.
#pragma once

#include <cstdint>

namespace lanyard::stage {

// The bytes of weights that a device of speed 1 reads per second. Decoding is bound by this rate,
// so it turns bytes into predicted times.
inline constexpr double kBytesPerSecondAtSpeed1 = 10e9;
// A worker or card that says more is not believed.
inline constexpr double kMaxSpeed = 1e6;
// Of a worker, that compute.
inline constexpr uint32_t kMaxThreads = 1024;

}  // namespace lanyard::stage
