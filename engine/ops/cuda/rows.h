// The row operations on a device: twins of engine/ops/residual.h, the same bits (a NaN's payload
// aside). Each call is one launch on the launcher's stream; arguments are checked first (an
// InvalidArgument says which). How a step's number of rows reaches a captured graph: rows_args.h.
#pragma once

#include "base/status.h"
#include "engine/ops/cuda/launcher.h"
#include "engine/ops/cuda/rows_args.h"

namespace lanyard::ops::cuda {

absl::Status Residual(Launcher& launcher, const ResidualArgs& args);
absl::Status EncodeHalfRows(Launcher& launcher, const HalfRowsArgs& args);
// Sets bit 0 of *not_finite where engine/ops' twin returns false; clears nothing.
absl::Status DecodeHalfRows(Launcher& launcher, const HalfRowsArgs& args);
absl::Status AllFinite(Launcher& launcher, const ElementsArgs& args);
absl::Status Scale(Launcher& launcher, const ElementsArgs& args);

}  // namespace lanyard::ops::cuda
