// Checks the numbers of a request before anything is done with it.
#pragma once

#include "base/status.h"
#include "coordinator/serve/generator.h"

namespace lanyard::coordinator {

inline constexpr size_t kMaxStops = 16;
inline constexpr size_t kMaxStopBytes = 4096;  // for one stop string
inline constexpr uint32_t kMaxTopLogprobs = 128;

// InvalidArgument names the field, the value and the limit.
absl::Status CheckRequest(const GenerateRequest& request);

}  // namespace lanyard::coordinator
