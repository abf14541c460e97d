// Ctrl-C as a flag: blocking calls look at it and end, which cancels the request.
#pragma once

#include <atomic>

namespace lanyard::cli {

// SIGINT and SIGTERM set it after CatchInterrupts(); the code that handled the interrupt clears it.
std::atomic<bool>& Interrupted();
void CatchInterrupts();

}  // namespace lanyard::cli
