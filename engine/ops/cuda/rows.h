// The row operations on a device: the twins of engine/ops/residual.h, with the same bits (except
// for a NaN's payload). Each call is one launch on the launcher's stream; arguments are checked
// first (an InvalidArgument says which). rows_args.h says how a step's number of rows reaches a
// captured graph.
#pragma once

#include "base/status.h"
#include "engine/ops/cuda/launcher.h"
#include "engine/ops/cuda/rows_args.h"

namespace lanyard::ops::cuda {

absl::Status Residual(Launcher& launcher, const ResidualArgs& args);
absl::Status EncodeHalfRows(Launcher& launcher, const HalfRowsArgs& args);
// Sets bit 0 of *not_finite where engine/ops' twin returns false; it clears nothing.
absl::Status DecodeHalfRows(Launcher& launcher, const HalfRowsArgs& args);
absl::Status AllFinite(Launcher& launcher, const ElementsArgs& args);
absl::Status Scale(Launcher& launcher, const ElementsArgs& args);

}  // namespace lanyard::ops::cuda
