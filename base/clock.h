// Monotonic time. State machines take `now` as an argument; only the code around them reads a
// clock.
#pragma once

#include <chrono>
#include <cstdint>

namespace lanyard {

// Monotonic nanoseconds from an arbitrary start; never wall time.
using TimeNs = int64_t;
inline constexpr TimeNs kMillisecond = 1'000'000;
inline constexpr TimeNs kSecond = 1'000'000'000;

// Whole seconds, rounded up, as people and HTTP headers are told them.
constexpr int64_t SecondsUp(TimeNs time) { return (time + kSecond - 1) / kSecond; }

inline TimeNs MonotonicNow() {
  return std::chrono::duration_cast<std::chrono::nanoseconds>(
             std::chrono::steady_clock::now().time_since_epoch())
      .count();
}

}  // namespace lanyard
