#include "engine/ops/cuda/rows.h"

namespace lanyard::ops::cuda {
namespace {

constexpr uint32_t kThreads = 256;
// Elements of a row that fit in shared memory: with the block's own they take less than 48 KiB.
constexpr uint32_t kStaged = 12000;

absl::Status CheckRows(const char* what, const void* x, const uint32_t* n_rows, uint32_t max_rows) {
  if (x == nullptr || n_rows == nullptr)
    return InvalidArgument(what, ": x and n_rows must be device addresses");
  if (max_rows == 0) return InvalidArgument(what, ": max_rows is 0; a launch has at least one row");
  return absl::OkStatus();
}

}  // namespace

absl::Status Residual(Launcher& launcher, const ResidualArgs& args) {
  RETURN_IF_ERROR(CheckRows("residual", args.x, args.n_rows, args.max_rows));
  if (args.norm != nullptr && args.out == nullptr)
    return InvalidArgument("residual: a norm needs an output");
  if (args.n > kStaged)
    return LaunchWith(launcher, "lanyard_residual_long", {args.max_rows}, {kThreads}, args);
  return LaunchWith(launcher, "lanyard_residual", {args.max_rows}, {kThreads}, args,
                    args.n * sizeof(float));
}

absl::Status EncodeHalfRows(Launcher& launcher, const HalfRowsArgs& args) {
  RETURN_IF_ERROR(CheckRows("encode", args.x, args.n_rows, args.max_rows));
  return LaunchWith(launcher, "lanyard_encode_half_rows", {args.max_rows}, {kThreads}, args);
}

absl::Status DecodeHalfRows(Launcher& launcher, const HalfRowsArgs& args) {
  RETURN_IF_ERROR(CheckRows("decode", args.x, args.n_rows, args.max_rows));
  if (args.not_finite == nullptr)
    return InvalidArgument("decode: not_finite must be a device address");
  return LaunchWith(launcher, "lanyard_decode_half_rows", {args.max_rows}, {kThreads}, args);
}

absl::Status AllFinite(Launcher& launcher, const ElementsArgs& args) {
  RETURN_IF_ERROR(CheckRows("finite", args.x, args.n_rows, args.max_rows));
  if (args.not_finite == nullptr)
    return InvalidArgument("finite: not_finite must be a device address");
  return LaunchWith(launcher, "lanyard_all_finite", {args.max_rows}, {kThreads}, args);
}

absl::Status Scale(Launcher& launcher, const ElementsArgs& args) {
  RETURN_IF_ERROR(CheckRows("scale", args.x, args.n_rows, args.max_rows));
  return LaunchWith(launcher, "lanyard_scale", {args.max_rows}, {kThreads}, args);
}

}  // namespace lanyard::ops::cuda
