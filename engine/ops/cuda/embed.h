// Converts rows of an embedding matrix from their GGUF bytes to f32, with the bits of DequantizeRow
// and then of Scale.
#pragma once

#include "base/status.h"
#include "engine/ops/cuda/embed_args.h"
#include "engine/ops/cuda/launcher.h"

namespace lanyard::ops::cuda {

// Either the whole table lies on the device (with ids), or only the step's rows do (ids is null,
// and they are in the frame's order).
absl::Status EmbedRows(Launcher& launcher, const EmbedArgs& args);

}  // namespace lanyard::ops::cuda
