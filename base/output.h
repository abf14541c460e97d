// What a program says on standard output: whether it arrived.
#pragma once

#include <string_view>

#include "base/exit_code.h"
#include "base/status.h"

namespace lanyard {

// To be called before anything is opened. A program that was started with standard streams closed
// would find its first sockets and files under their numbers, and write its answers into them; in
// the places of those that are closed there is from now on what can be neither read nor written.
void HoldStandardStreams();

// Writes what waits to be written. Internal, with the system's words, when that failed or something
// before it did.
absl::Status FlushOutput();

// Writes a part of an answer at once; fails as FlushOutput does.
absl::Status WriteOutput(std::string_view text);

// The code that a program ends with: kFailed, with the error on stderr, when all else was well and
// its output did not arrive.
int EndOfOutput(int code);

}  // namespace lanyard
