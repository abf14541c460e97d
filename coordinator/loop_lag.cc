#include "coordinator/loop_lag.h"

#include <algorithm>
#include <utility>

#include "base/status.h"

namespace lanyard::coordinator {
namespace {

constexpr TimeNs kTellEvery = 10 * kSecond;

}  // namespace

std::optional<std::string> LoopLag::OnTurn(TimeNs began, TimeNs ended) {
  if (ended - began >= kSlowTurn) {
    ++slow_;
    worst_ = std::max(worst_, ended - began);
  }
  if (slow_ == 0 || (told_ != 0 && ended - told_ < kTellEvery)) return std::nullopt;
  told_ = ended;
  const uint64_t slow = std::exchange(slow_, 0);
  const TimeNs worst = std::exchange(worst_, 0);
  return absl::StrCat(
      "the pool's thread was busy for ", worst / kMillisecond,
      " ms in one go, and answers waited for it",
      slow > 1 ? absl::StrCat(" (", slow, " times above ", kSlowTurn / kMillisecond, " ms)") : "",
      "; the machine is overloaded, or this is a bug");
}

}  // namespace lanyard::coordinator
