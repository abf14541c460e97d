// The one table between absl::Status (inside) and gRPC's codes (on the wire).
#pragma once

#include <grpcpp/support/status.h>

#include <cstdint>
#include <string_view>

#include "base/status.h"

namespace lanyard::net {

grpc::Status ToGrpc(const absl::Status& status);
// Unknown codes become Unknown; the text is bounded and its control characters are replaced.
absl::Status FromGrpc(const grpc::Status& status);

// The codes inside messages (StepResult.code and the like).
uint32_t ToWireCode(const absl::Status& status);
absl::Status FromWireCode(uint32_t code, std::string_view message);

// Returns at most kMaxTextBytes of printable text; other bytes become '?'. UTF-8 is kept as it is.
std::string CleanText(std::string_view text);

}  // namespace lanyard::net
