// The gated activations of a feed-forward layer.
#pragma once

#include <cstdint>

#include "engine/ops/isa.h"
#include "engine/ops/thread_pool.h"

namespace lanyard::ops {

enum class Activation { kSilu, kGeluTanh };

// Row r of gate_up is [gate: n][up: n]; gate becomes act(gate) * up, up is left as it is. Functions: ops/math.h.
void GateMul(Isa isa, ThreadPool& pool, Activation act, float* gate_up, int64_t rows, int64_t n);

}  // namespace lanyard::ops
