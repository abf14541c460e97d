#include "worker/probe.h"

#include <algorithm>

#include "stage/speed.h"

namespace lanyard::worker {

double RelativeSpeed(int threads, ops::Isa isa) {
  double factor = 0.05;
  switch (isa) {
    case ops::Isa::kScalar: factor = 0.05; break;
    case ops::Isa::kAvx2: factor = 1; break;
    case ops::Isa::kAvx512: factor = 1.5; break;
  }
  return threads * factor;
}

double CardSpeed(const cuda::DeviceInfo& card) {
  constexpr double kShareReached = 0.75;
  constexpr double kUntold = 20;                    // of a card whose driver does not say
  // Two transfers a clock, as the driver counts.
  const double bytes_per_second = 2e3 * card.memory_clock_khz * (card.memory_bus_bits / 8.0);
  return bytes_per_second > 0 ? std::max(1.0, kShareReached * bytes_per_second / stage::kBytesPerSecondAtSpeed1) : kUntold;
}

std::vector<net::DeviceHello> HelloOf(const std::vector<std::shared_ptr<engine::CudaDevice>>& devices) {
  // Partial sums of attention, padding, whole blocks.
  constexpr uint64_t kMarginBytes = uint64_t{40} << 20;
  constexpr size_t kMaxModelBytes = 60;
  std::vector<net::DeviceHello> out;
  for (const auto& device : devices) {
    const uint64_t bytes = device->BudgetBytes();
    if (device->lost() || bytes <= kMarginBytes) continue;
    const cuda::DeviceInfo& info = device->info();
    out.push_back({"cuda", device->name(), info.name.substr(0, kMaxModelBytes), bytes - kMarginBytes, CardSpeed(info),
                   device->fast_attention()});
  }
  return out;
}

}  // namespace lanyard::worker
