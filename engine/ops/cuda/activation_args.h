// The arguments of the activation kernels (activation.cu). Pointers are device addresses; n_rows
// and max_rows are as in rows_args.h.
#pragma once

#include <cstdint>

namespace lanyard::ops::cuda {

struct GateArgs {
  float* gate_up = nullptr;  // one row is [gate: n][up: n]; gate becomes act(gate) * up
  const uint32_t* n_rows = nullptr;
  uint32_t max_rows = 0;
  uint32_t n = 0;
  uint32_t activation = 0;  // ops::Activation
};

}  // namespace lanyard::ops::cuda
