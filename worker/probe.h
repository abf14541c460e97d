// How fast this machine is beside the others of a pool.
#pragma once

#include "engine/ops/isa.h"

namespace lanyard::worker {

// Threads times a factor for the instruction set (one AVX2 thread is 1). Derived and not measured: several workers that
// start at once on one machine would measure each other's load, and the cut would differ from start to start.
// `--speed` overrides it where machines are known to be unlike.
double RelativeSpeed(int threads, ops::Isa isa);

}  // namespace lanyard::worker
