#include "cli/interrupt.h"

#include <signal.h>

#include "base/exit_code.h"

namespace lanyard::cli {
namespace {

std::atomic<bool> interrupted{false};
static_assert(std::atomic<bool>::is_always_lock_free);

std::atomic<int> ending{0};
static_assert(std::atomic<int>::is_always_lock_free);

void OnSignal(int signal) {
  if (signal != SIGINT) ending.store(signal);
  interrupted.store(true);
}

}  // namespace

std::atomic<bool>& Interrupted() { return interrupted; }

void CatchInterrupts() {
  struct sigaction action = {};
  action.sa_handler = OnSignal;  // without SA_RESTART: a read at the prompt ends too
  ::sigaction(SIGINT, &action, nullptr);
  ::sigaction(SIGTERM, &action, nullptr);
  struct sigaction before = {};
  ::sigaction(SIGHUP, nullptr, &before);
  if (before.sa_handler != SIG_IGN) ::sigaction(SIGHUP, &action, nullptr);
}

int EndingSignal() { return ending.load(); }

int ExitCodeAfterSignals(int code) {
  const int signal = EndingSignal();
  return code == kInterrupted && signal != 0 ? 128 + signal : code;
}

}  // namespace lanyard::cli
