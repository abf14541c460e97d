#include "worker/probe.h"

#include <algorithm>

#include "stage/speed.h"

namespace lanyard::worker {

double RelativeSpeed(int threads, ops::Isa isa) {
  double factor = 0.05;
  switch (isa) {
    case ops::Isa::kScalar:
      factor = 0.05;
      break;
    case ops::Isa::kAvx2:
      factor = 1;
      break;
    case ops::Isa::kAvx512:
      factor = 1.5;
      break;
  }
  return threads * factor;
}

double PeakReadBytes(const cuda::DeviceInfo& card) {
  // There are two transfers a clock, as the driver counts.
  return 2e3 * card.memory_clock_khz * (card.memory_bus_bits / 8.0);
}

double CardSpeed(const cuda::DeviceInfo& card, const net::DeviceRates& rates) {
  // Share that weights reach of the rate of a kernel that only reads.
  constexpr double kShareOfMeasured = 0.8;
  constexpr double kShareOfPeak = 0.75;
  constexpr double kUntold = 20;  // for a card whose driver does not say
  double bytes_per_second = kShareOfMeasured * rates.read_bytes_per_second;
  if (bytes_per_second <= 0) bytes_per_second = kShareOfPeak * PeakReadBytes(card);
  return bytes_per_second > 0 ? std::max(1.0, bytes_per_second / stage::kBytesPerSecondAtSpeed1)
                              : kUntold;
}

std::vector<net::DeviceHello> HelloOf(
    const std::vector<std::shared_ptr<engine::CudaDevice>>& devices,
    const std::map<std::string, net::DeviceRates>& rates) {
  // It covers partial sums of attention, padding, and whole blocks.
  constexpr uint64_t kMarginBytes = uint64_t{40} << 20;
  constexpr size_t kMaxModelBytes = 60;
  std::vector<net::DeviceHello> out;
  for (const auto& device : devices) {
    const uint64_t bytes = device->BudgetBytes();
    if (device->lost() || bytes <= kMarginBytes) continue;
    const cuda::DeviceInfo& info = device->info();
    const auto measured = rates.find(device->name());
    net::DeviceHello hello{"cuda", device->name(), info.name.substr(0, kMaxModelBytes),
                           bytes - kMarginBytes, 1};
    if (measured != rates.end()) hello.rates = measured->second;
    hello.speed = CardSpeed(info, hello.rates);
    hello.fast_attention = device->fast_attention();
    out.push_back(std::move(hello));
  }
  return out;
}

}  // namespace lanyard::worker
