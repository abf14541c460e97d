// Small files of state: whole or not at all.
#pragma once

#include <cstdint>
#include <string>
#include <string_view>

#include "base/status.h"

namespace lanyard {

// The status of a call on a file that failed, with the system's words: NotFound, PermissionDenied,
// FailedPrecondition where there is something else (a folder, a file in place of one), Unavailable.
absl::Status FileError(std::string_view what, const std::string& path, int error);

// Makes a folder that only its owner can read, with the parents it lacks. FailedPrecondition names
// path and errno.
absl::Status MakePrivateDir(const std::string& path);

// NotFound when there is no such file; ResourceExhausted when it is larger than `max_bytes`;
// FailedPrecondition for what is no file: it never waits for the writer of a pipe. For other errors
// see FileError.
absl::StatusOr<std::string> ReadSmallFile(const std::string& path,
                                          size_t max_bytes = size_t{1} << 20);
// The same of what a person names for one reading: a pipe or a terminal does too (/dev/stdin,
// <(command)), and it waits for them.
absl::StatusOr<std::string> ReadSmallInput(const std::string& path,
                                           size_t max_bytes = size_t{1} << 20);

// All of standard input, of any size.
absl::StatusOr<std::string> ReadStandardInput();

// The whole text or the file as it was, also through a loss of power: a temporary file beside it
// with its owner alone as reader, or everybody, fsync, rename. FailedPrecondition when something
// else than a file is there, which would be gone then: a folder, a pipe, a device. For other errors
// see FileError.
enum class Readers : uint8_t { kOwner, kEverybody };
absl::Status WriteSmallFile(const std::string& path, std::string_view text,
                            Readers readers = Readers::kOwner);

}  // namespace lanyard
