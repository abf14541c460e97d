#include "apps/service_loop.h"

#include <pthread.h>

#include <ctime>
#include <optional>

namespace lanyard::apps {
namespace {

constexpr TimeNs kLook = 100 * kMillisecond;
constexpr TimeNs kTell = kSecond;

// Returns the signal that came within `wait`, or 0.
int SignalWithin(const sigset_t& signals, TimeNs wait) {
  const timespec time{wait / kSecond, wait % kSecond};
  const int signal = ::sigtimedwait(&signals, nullptr, &time);
  return signal > 0 ? signal : 0;
}

// Sends status and signs of life, at most once a second (or once a quarter of a short watchdog).
class Teller {
 public:
  Teller(const ServiceWatch& watch, ServiceNotifier* notifier)
      : watch_(watch), notifier_(*notifier) {
    if (notifier_.watchdog() > 0) every_ = std::min(every_, notifier_.watchdog() / 4);
  }
  TimeNs every() const { return every_; }
  void Tell(TimeNs now) {
    if (!notifier_.supervised() || now < next_) return;
    next_ = now + every_;
    const TimeNs turn = watch_.last_turn();
    if (notifier_.watchdog() > 0 && turn != last_turn_) notifier_.Alive();
    const bool stuck = turn == last_turn_;
    last_turn_ = turn;
    if (!stuck) notifier_.Status(watch_.status());  // status() may wait for what the loop holds
  }

 private:
  const ServiceWatch& watch_;
  ServiceNotifier& notifier_;
  TimeNs every_ = kTell;
  TimeNs next_ = 0;
  TimeNs last_turn_ = 0;
};

}  // namespace

sigset_t BlockEndingSignals() {
  sigset_t signals;
  sigemptyset(&signals);
  for (const int signal : {SIGTERM, SIGINT, SIGHUP}) sigaddset(&signals, signal);
  pthread_sigmask(SIG_BLOCK, &signals, nullptr);
  return signals;
}

int WaitForEnd(const sigset_t& signals, const ServiceWatch& watch, ServiceNotifier* notifier) {
  if (notifier->supervised()) notifier->Ready(watch.status());
  if (!notifier->supervised() &&
      watch.ended == nullptr) {  // there is nothing to look after, so no thread wakes for it
    int signal = 0;
    sigwait(&signals, &signal);
    return signal;
  }
  Teller teller(watch, notifier);
  const TimeNs look = watch.ended != nullptr ? std::min(kLook, teller.every()) : teller.every();
  while (watch.ended == nullptr || !watch.ended()) {
    if (const int signal = SignalWithin(signals, look); signal != 0) return signal;
    teller.Tell(MonotonicNow());
  }
  return 0;
}

bool Drain(const sigset_t& signals, const ServiceWatch& watch, TimeNs timeout,
           const std::function<bool()>& idle, ServiceNotifier* notifier) {
  Teller teller(watch, notifier);
  const TimeNs end = MonotonicNow() + timeout;
  while (!idle()) {
    const TimeNs now = MonotonicNow();
    if (now >= end || SignalWithin(signals, std::min(kLook, end - now)) != 0) return idle();
    teller.Tell(now);
  }
  return true;
}

}  // namespace lanyard::apps
