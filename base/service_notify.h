// How a service tells its supervisor how it is: the datagrams of sd_notify(3), which systemd reads
// for Type=notify and WatchdogSec. We do it by hand: it is one sendto, and libsystemd would bring
// five more libraries along.
#pragma once

#include <string>

#include "base/clock.h"
#include "base/status.h"

namespace lanyard {

// It does nothing where no supervisor listens. Not thread-safe: the main thread uses it.
class ServiceNotifier {
 public:
  // `socket` is a path, or "@name" for an abstract one; empty: no supervisor listens. `watchdog` is
  // how long the supervisor waits for a sign of life; 0: it does not wait for any.
  ServiceNotifier(std::string socket, TimeNs watchdog)
      : socket_(std::move(socket)), watchdog_(watchdog) {}
  // Reads NOTIFY_SOCKET, and WATCHDOG_USEC when WATCHDOG_PID is this process or not set.
  static ServiceNotifier FromEnvironment();

  bool supervised() const { return !socket_.empty(); }
  TimeNs watchdog() const { return supervised() ? watchdog_ : 0; }

  // Sends "READY=1" with the first status; later calls are the same as Status.
  void Ready(const std::string& status);
  // Sends the status when it differs from the last one. Control characters become spaces.
  void Status(const std::string& status);
  void Alive();
  void Stopping(const std::string& status);

 private:
  void Send(const std::string& text);

  std::string socket_;
  TimeNs watchdog_;
  std::string last_status_;
  bool ready_ = false;
  bool complained_ = false;
};

}  // namespace lanyard
