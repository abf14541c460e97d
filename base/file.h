// Small files of state: they are written whole or not at all, and only their owner can read them.
#pragma once

#include <string>
#include <string_view>

#include "base/status.h"

namespace lanyard {

// Makes a folder that only its owner can read, with the parents it lacks. FailedPrecondition names
// path and errno.
absl::Status MakePrivateDir(const std::string& path);

// NotFound when there is no such file; ResourceExhausted when it is larger than `max_bytes`.
absl::StatusOr<std::string> ReadSmallFile(const std::string& path,
                                          size_t max_bytes = size_t{1} << 20);

// Afterwards the file holds the whole text, or what it held before, also through a loss of power:
// it writes a temporary file beside it (mode 0600), calls fsync and renames. Unavailable names path
// and errno.
absl::Status WriteSmallFile(const std::string& path, std::string_view text);

}  // namespace lanyard
