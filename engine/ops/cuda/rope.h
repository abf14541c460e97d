// Queries and keys between the product and attention, on a device: the twin of engine/ops/rope.h,
// with the same bits (in the queries and in the pages). Cosines and sines are made on the host
// (RopeFrequencies::Row) and uploaded with the frame.
#pragma once

#include "base/status.h"
#include "engine/ops/cuda/attention_args.h"
#include "engine/ops/cuda/launcher.h"

namespace lanyard::ops::cuda {

absl::Status RotateAndStore(Launcher& launcher, const RotateArgs& args);

}  // namespace lanyard::ops::cuda
