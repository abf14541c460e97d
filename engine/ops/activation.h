// The gated activations of a feed-forward layer.
#pragma once

#include <cstdint>

#include "engine/ops/isa.h"
#include "engine/ops/thread_pool.h"

namespace lanyard::ops {

enum class Activation { kSilu, kGeluTanh };

struct GateRows {
  Activation activation = Activation::kSilu;
  float* gate_up = nullptr;  // one row is [gate: n][up: n]
  int64_t rows = 0;
  int64_t n = 0;
};
// Makes gate = act(gate) * up and leaves up as it is. The functions are in ops/math.h.
void GateMul(Isa isa, ThreadPool& pool, const GateRows& args);

}  // namespace lanyard::ops
