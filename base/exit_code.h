// What every program of Lanyard ends with. The only place where a Status becomes an exit code.
#pragma once

#include <string>

#include "base/status.h"

namespace lanyard {

enum ExitCode {
  kOk = 0,
  kFailed = 1,
  kUsage = 2,
  kUnreachable = 3,
  kDenied = 4,
  kNotFound = 5,
  kTimedOut = 6,
  kInterrupted = 130,  // SIGINT: 128 and the signal's number
  kTerminated = 143,   // SIGTERM
};

ExitCode ExitCodeOf(absl::StatusCode code);

// "0 ok, 1 failed, ...", as help and documentation list them.
std::string ExitCodesText();

}  // namespace lanyard
