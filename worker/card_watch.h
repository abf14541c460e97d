// Looks at a card now and then, on a thread of its own: a driver that does not answer must not keep
// a heartbeat waiting.
#pragma once

#include <cstdint>
#include <functional>
#include <memory>
#include <thread>

#include "base/clock.h"

namespace lanyard::worker {

class CardWatch {
 public:
  // `look` is called at once, then every so often and when asked for; it owns whatever it touches.
  CardWatch(std::function<void()> look, TimeNs every);
  // Waits for a look under way, but not for long: a thread that the driver keeps is left to it,
  // with what `look` owns.
  ~CardWatch();
  CardWatch(const CardWatch&) = delete;
  CardWatch& operator=(const CardWatch&) = delete;

  // Thread-safe, and never waiting. A look that begins from now on: `Looked` says when it is over.
  uint64_t LookSoon();
  bool Looked(uint64_t ticket) const;
  TimeNs busy_for(TimeNs now) const;  // of a look under way; else 0

 private:
  struct State;
  static void Loop(const std::shared_ptr<State>& state);

  const std::shared_ptr<State> state_;
  std::thread thread_;
};

}  // namespace lanyard::worker
