// The main thread of a daemon: waits for the signal that ends it, and meanwhile tells the
// supervisor how it is.
#pragma once

#include <csignal>
#include <functional>
#include <string>

#include "base/clock.h"
#include "base/service_notify.h"

namespace lanyard::apps {

struct ServiceWatch {
  // One line: what it does, with whom. Asked once a second, and only when supervised.
  std::function<std::string()> status;
  // When the loop that everything hangs on last turned. A sign of life goes out only after it has
  // turned since the last one: a timer's word that the process exists would hide a loop that is
  // stuck.
  std::function<TimeNs()> last_turn;
  // Ended by itself; null: never does.
  std::function<bool()> ended = nullptr;
};

// Blocks SIGTERM, SIGINT and SIGHUP for every thread that is started later.
sigset_t BlockEndingSignals();

// The signal, or 0 when `ended`. Says READY first.
int WaitForEnd(const sigset_t& signals, const ServiceWatch& watch, ServiceNotifier* notifier);

// Waits at most `timeout` until `idle`, telling the supervisor that this is wanted; a further
// signal ends the wait. False when it ended before.
bool Drain(const sigset_t& signals, const ServiceWatch& watch, TimeNs timeout,
           const std::function<bool()>& idle, ServiceNotifier* notifier);

}  // namespace lanyard::apps
