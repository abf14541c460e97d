// Converts control messages: structs of net/control.h and model/manifest.h <-> messages of
// proto/lanyard/v1/control.proto. Counts, strings and enums are bounded before they are copied; a
// manifest passes model::ValidateManifest.
#pragma once

#include <optional>
#include <string>
#include <string_view>
#include <variant>

#include "base/status.h"
#include "lanyard/v1/control.pb.h"
#include "net/control.h"
#include "net/hello.h"

namespace lanyard::net {

void ToProto(const stage::StageSpec& in, v1::StageSpec* out);
absl::StatusOr<stage::StageSpec> FromProto(const v1::StageSpec& in);

void ToProto(const model::Manifest& in, v1::Manifest* out);
absl::StatusOr<model::Manifest> FromProto(const v1::Manifest& in);

void ToProto(const WorkerEvent& in, v1::WorkerMessage* out);
absl::StatusOr<WorkerEvent> FromProto(const v1::WorkerMessage& in);

void ToProto(const Assignment& in, v1::Assign* out);
absl::StatusOr<Assignment> FromProto(const v1::Assign& in);

void ToProto(const DiagnoseRequest& in, v1::Diagnose* out);
absl::StatusOr<DiagnoseRequest> FromProto(const v1::Diagnose& in);
void ToProto(const Diagnosis& in, v1::Diagnosis* out);
absl::StatusOr<Diagnosis> FromProto(const v1::Diagnosis& in);

}  // namespace lanyard::net
