// Whether the pool's thread keeps up. It decides and never works (docs/architecture.md), so that a
// turn of its loop takes microseconds; what takes longer makes every answer wait.
#pragma once

#include <cstdint>
#include <optional>
#include <string>

#include "base/clock.h"

namespace lanyard::coordinator {

// A turn that takes this long is worth a line in the log.
inline constexpr TimeNs kSlowTurn = 100 * kMillisecond;

// It belongs to the pool's thread.
class LoopLag {
 public:
  // A turn of the loop began and ended. Returns a line for the log, at most one in ten seconds: it
  // tells of the slow turns since the last one.
  std::optional<std::string> OnTurn(TimeNs began, TimeNs ended);

 private:
  TimeNs told_ = 0;  // when the last line was given; 0: never
  uint64_t slow_ = 0;
  TimeNs worst_ = 0;
};

}  // namespace lanyard::coordinator
