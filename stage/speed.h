// The scale of speeds: what a worker says of its devices and what the planner makes of it.
#pragma once

namespace lanyard::stage {

// Weights that a device of speed 1 reads per second: decoding is bound by it, so it turns bytes
// into predicted times.
inline constexpr double kBytesPerSecondAtSpeed1 = 10e9;

}  // namespace lanyard::stage
