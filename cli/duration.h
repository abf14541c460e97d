// Reads spans of time as people write them: 45s, 30m, 12h, 90d, 52w.
#pragma once

#include <cstdint>
#include <string_view>

#include "base/status.h"

namespace lanyard::cli {

// Returns seconds, at least 1. InvalidArgument names the text and the form.
absl::StatusOr<int64_t> ParseSeconds(std::string_view text);

}  // namespace lanyard::cli
