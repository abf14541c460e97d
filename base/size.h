// Byte sizes as people write them.
#pragma once

#include <cstdint>
#include <string>
#include <string_view>

#include "base/status.h"

namespace lanyard {

// "200MiB" "1.5GiB" "8GB" "4096" "512K" (K, M, G, T alone are binary: 1K = 1024). InvalidArgument naming the text
// otherwise, also for what does not fit 63 bits.
absl::StatusOr<uint64_t> ParseSize(std::string_view text);

// "0 B" "512 B" "88.0 MiB" "1.50 GiB".
std::string FormatSize(uint64_t bytes);

}  // namespace lanyard
