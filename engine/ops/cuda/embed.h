// Rows of an embedding matrix, from their GGUF bytes to f32: the bits of DequantizeRow, then of
// Scale.
#pragma once

#include "base/status.h"
#include "engine/ops/cuda/embed_args.h"
#include "engine/ops/cuda/launcher.h"

namespace lanyard::ops::cuda {

// The table lies on the device (with ids), or only the step's rows do (ids null, in the frame's
// order).
absl::Status EmbedRows(Launcher& launcher, const EmbedArgs& args);

}  // namespace lanyard::ops::cuda
