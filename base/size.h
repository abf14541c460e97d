// Reads and writes sizes in bytes as people write them: "200MiB", "1.5GiB", "64k", "1000000".
#pragma once

#include <cstdint>
#include <string>
#include <string_view>

#include "base/status.h"

namespace lanyard {

// Takes a decimal number (a fraction is allowed before a unit) and an optional unit: B, k/kB/K,
// M/MB, G/GB, T/TB (powers of 1000 when written with B, e.g. "2GB"), KiB/MiB/GiB/TiB and the bare
// letters K M G T in either case (powers of 1024). InvalidArgument names the text; a value beyond
// 2^63-1 or below one byte is refused.
absl::StatusOr<uint64_t> ParseSize(std::string_view text);

// A size that limits something that is never smaller than `least`: InvalidArgument below it, with
// both values. A bare number is most often one whose unit was forgotten, and is told so.
absl::StatusOr<uint64_t> ParseLimit(std::string_view text, uint64_t least);
// No program of Lanyard fits into less: of limits of whole processes, before they start.
inline constexpr uint64_t kLeastProcessBytes = uint64_t{8} << 20;
// Of limits of a card's memory and of caches: less holds no layer of any model.
inline constexpr uint64_t kLeastStoreBytes = uint64_t{1} << 20;

// "512 B", "1.5 KiB", "88.0 MiB": powers of 1024, one decimal below 100 of a unit.
std::string FormatSize(uint64_t bytes);

}  // namespace lanyard
