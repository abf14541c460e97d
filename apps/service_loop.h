// The main thread of a daemon: it waits for the signal that ends the daemon, and meanwhile tells
// the supervisor how it is.
#pragma once

#include <csignal>
#include <functional>
#include <string>

#include "base/clock.h"
#include "base/service_notify.h"

namespace lanyard::apps {

struct ServiceWatch {
  // One line that says what the daemon does, and with whom. It is asked for once a second, and only
  // under a supervisor.
  std::function<std::string()> status;
  // When the loop that everything depends on last turned. A sign of life is sent only after it has
  // turned since the last one: a timer's word that the process exists would hide a loop that is
  // stuck.
  std::function<TimeNs()> last_turn;
  // Says whether the daemon ended by itself; null: it never does.
  std::function<bool()> ended = nullptr;
};

// Blocks SIGTERM, SIGINT and SIGHUP for every thread that is started later.
sigset_t BlockEndingSignals();

// Says READY first. Returns the signal, or 0 when `ended` became true.
int WaitForEnd(const sigset_t& signals, const ServiceWatch& watch, ServiceNotifier* notifier);

// Waits at most `timeout` until `idle`, and tells the supervisor that this wait is meant; a further
// signal ends it. Returns false when the wait ended before `idle`.
bool Drain(const sigset_t& signals, const ServiceWatch& watch, TimeNs timeout,
           const std::function<bool()>& idle, ServiceNotifier* notifier);

}  // namespace lanyard::apps
