// Looks at a card now and then, on a thread of its own, since a driver that does not answer must
// not delay a heartbeat.
#pragma once

#include <cstdint>
#include <functional>
#include <memory>
#include <thread>

#include "base/clock.h"

namespace lanyard::worker {

class CardWatch {
 public:
  // `look` is called at once, then every `every`, and when asked for. It owns everything that it
  // uses.
  CardWatch(std::function<void()> look, TimeNs every);
  // Waits for a look that is under way, but not for long: a thread that the driver does not return
  // is left behind, with what `look` owns.
  ~CardWatch();
  CardWatch(const CardWatch&) = delete;
  CardWatch& operator=(const CardWatch&) = delete;

  // Asks for a look that begins from now on; `Looked` says when it is over. Thread-safe; it never
  // waits.
  uint64_t LookSoon();
  bool Looked(uint64_t ticket) const;
  // How long the look under way has lasted; 0 when there is none.
  TimeNs busy_for(TimeNs now) const;

 private:
  struct State;
  static void Loop(const std::shared_ptr<State>& state);

  const std::shared_ptr<State> state_;
  std::thread thread_;
};

}  // namespace lanyard::worker
