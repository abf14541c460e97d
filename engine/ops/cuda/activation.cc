#include "engine/ops/cuda/activation.h"

namespace lanyard::ops::cuda {

absl::Status GateMul(Launcher& launcher, const GateArgs& args) {
  if (args.gate_up == nullptr || args.n_rows == nullptr) {
    return InvalidArgument("activation: gate_up and n_rows must be device addresses");
  }
  if (args.max_rows == 0 || args.n == 0) {
    return InvalidArgument("activation: ", args.max_rows, " rows of ", args.n,
                           "; neither may be 0");
  }
  const bool vectors = args.n % 4 == 0;
  const uint32_t per_block = 256 * (vectors ? 4 : 1);
  return LaunchWith(launcher, vectors ? "lanyard_gate_mul4" : "lanyard_gate_mul",
                    {(args.n + per_block - 1) / per_block, args.max_rows}, {256}, args);
}

}  // namespace lanyard::ops::cuda
