// Signals as flags: blocking calls look at them and end, which cancels the request.
#pragma once

#include <atomic>

namespace lanyard::cli {

// SIGINT, SIGTERM and SIGHUP set it after CatchInterrupts(); the code that handled the interrupt
// clears it. SIGHUP stays ignored where it was (nohup).
std::atomic<bool>& Interrupted();
void CatchInterrupts();

// SIGTERM or SIGHUP once it came, else 0. Unlike Ctrl-C, which ends an answer, these end the
// program: nothing clears it.
int EndingSignal();

// What a program that ended with `code` exits with: kInterrupted becomes the code of the signal
// that ended it.
int ExitCodeAfterSignals(int code);

}  // namespace lanyard::cli
