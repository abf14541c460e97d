// Ctrl-C as a flag: blocking calls look at it and end, which cancels the request.
#pragma once

#include <atomic>

namespace lanyard::cli {

// Set by SIGINT and SIGTERM after CatchInterrupts(); cleared by whoever dealt with it.
std::atomic<bool>& Interrupted();
void CatchInterrupts();

}  // namespace lanyard::cli
