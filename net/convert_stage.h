// Converts frames and results: structs of stage/types.h <-> messages of
// proto/lanyard/v1/stage.proto. What arrives is checked for enum ranges, counts and sizes before it
// is copied; stage::ValidateFrame decides whether it fits the stage.
#pragma once

#include "base/status.h"
#include "lanyard/v1/stage.pb.h"
#include "stage/types.h"

namespace lanyard::net {

void ToProto(const stage::NumericsId& in, v1::NumericsId* out);
absl::StatusOr<stage::NumericsId> FromProto(const v1::NumericsId& in);

// InvalidArgument for a frame whose size the other side would refuse.
absl::Status ToProto(const stage::StepFrame& in, v1::StepFrame* out);
absl::StatusOr<stage::StepFrame> FromProto(const v1::StepFrame& in);

void ToProto(const stage::StepResult& in, v1::StepResult* out);
// `worker` is set from the stream's hello, not from the message: a worker cannot speak for another.
absl::StatusOr<stage::StepResult> FromProto(const v1::StepResult& in, const std::string& worker);

}  // namespace lanyard::net
