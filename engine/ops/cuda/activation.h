// Gated activations on a device: the twin of engine/ops/activation.h, with the same bits.
#pragma once

#include "base/status.h"
#include "engine/ops/cuda/activation_args.h"
#include "engine/ops/cuda/launcher.h"

namespace lanyard::ops::cuda {

absl::Status GateMul(Launcher& launcher, const GateArgs& args);

}  // namespace lanyard::ops::cuda
