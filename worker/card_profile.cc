#include "worker/card_profile.h"

#include <algorithm>
#include <cmath>
#include <nlohmann/json.hpp>
#include <optional>

#include "base/file.h"
#include "base/log.h"
#include "base/version.h"
#include "worker/probe.h"

namespace lanyard::worker {
namespace {

using nlohmann::json;

// Any card reads at least this much in a second; an interpreter is far below.
constexpr double kLeastRead = 10e9;
constexpr double kMostRead = 5e13;

struct Member {
  const char* key;
  double net::DeviceRates::*value;
};
constexpr Member kMembers[] = {
    {"read_bytes_per_second", &net::DeviceRates::read_bytes_per_second},
    {"int8_ops_per_second", &net::DeviceRates::int8_ops_per_second},
    {"f16_ops_per_second", &net::DeviceRates::f16_ops_per_second},
    {"to_device_bytes_per_second", &net::DeviceRates::to_device_bytes_per_second},
    {"to_host_bytes_per_second", &net::DeviceRates::to_host_bytes_per_second}};

// The key names the card and not its place, since it may have moved to another slot. It is "" where
// the driver gives the card no number of its own.
std::string KeyOf(const engine::CudaDevice& device) {
  const cuda::DeviceInfo& info = device.info();
  if (info.uuid.empty()) return "";
  return absl::StrCat(info.uuid, " ", device.driver_version(), " ", kVersion);
}

std::optional<net::DeviceRates> FromJson(const json& in) {
  net::DeviceRates out;
  for (const Member& member : kMembers) {
    const auto found = in.find(member.key);
    if (found == in.end() || !found->is_number()) return std::nullopt;
    out.*member.value = found->get<double>();
    if (!(out.*member.value >= 0 && out.*member.value < 1e18)) return std::nullopt;
  }
  return out;
}

json ToJson(const net::DeviceRates& in) {
  json out;
  for (const Member& member : kMembers) out[member.key] = in.*member.value;
  return out;
}

// Returns an object, which is empty when no file holds one.
json ReadCache(const std::string& path) {
  const auto text = ReadSmallFile(path);
  if (!text.ok()) return json::object();
  json cache = json::parse(*text, nullptr, false);
  if (cache.is_object()) return cache;
  LogWarning(path, " is damaged; the cards are measured anew");
  return json::object();
}

net::DeviceRates RatesOf(const cuda::CardProbe& probe) {
  net::DeviceRates out;
  out.read_bytes_per_second = probe.read_bytes_per_second;
  out.int8_ops_per_second = std::max(probe.int8_mma_ops_per_second, probe.int8_dp4a_ops_per_second);
  out.f16_ops_per_second = probe.f16_mma_ops_per_second;
  out.to_device_bytes_per_second = probe.to_device_bytes_per_second;
  out.to_host_bytes_per_second = probe.to_host_bytes_per_second;
  return out;
}

}  // namespace

bool Believable(const cuda::DeviceInfo& card, double read_bytes_per_second) {
  if (!(read_bytes_per_second >= kLeastRead && read_bytes_per_second <= kMostRead)) return false;
  const double peak = PeakReadBytes(card);
  return peak <= 0 || (read_bytes_per_second >= 0.2 * peak && read_bytes_per_second <= 1.1 * peak);
}

absl::StatusOr<cuda::CardProbe> MeasureCard(engine::CudaDevice& device) {
  cuda::ProbeOptions options;
  // It is four times what the cache holds, but no more than stages may have: the rest is the
  // desktop's.
  const uint64_t wanted =
      std::max<uint64_t>(4 * static_cast<uint64_t>(std::max(0, device.info().l2_bytes)), 64 << 20);
  options.buffer_bytes = std::min(wanted, device.BudgetBytes() / 2);
  options.least_read_bytes_per_second = kLeastRead;
  return cuda::ProbeCard(device.module(), options);
}

CardRates RatesOf(const std::vector<std::shared_ptr<engine::CudaDevice>>& devices,
                  const std::string& state_dir, const ProbeFn& probe) {
  CardRates out;
  if (devices.empty()) return out;
  const std::string path = state_dir + "/cards.json";
  json cache = ReadCache(path);
  bool changed = false;
  for (const auto& device : devices) {
    const std::string key = KeyOf(*device);
    std::optional<net::DeviceRates> rates;
    if (const auto kept = cache.find(key); !key.empty() && kept != cache.end() && kept->is_object())
      rates = FromJson(*kept);
    if (!rates.has_value()) {
      const auto measured = probe(*device);
      if (!measured.ok()) {
        LogInfo(device->name(), ": its rates were not measured: ", measured.status().message());
        continue;
      }
      rates = RatesOf(*measured);
      changed =
          changed || (!key.empty() && Believable(device->info(), rates->read_bytes_per_second));
      if (!key.empty()) cache[key] = ToJson(*rates);
    }
    if (!Believable(device->info(), rates->read_bytes_per_second)) {
      LogInfo(device->name(), ": measured ",
              static_cast<int64_t>(rates->read_bytes_per_second * 1e-9),
              " GB/s of its memory, which cannot be; its clock and width are taken");
      cache.erase(key);
      continue;
    }
    LogInfo(device->name(), ": reads ", static_cast<int64_t>(rates->read_bytes_per_second * 1e-9),
            " GB/s");
    out.emplace(device->name(), *rates);
  }
  if (changed) {
    if (const absl::Status kept = WriteSmallFile(
            path, cache.dump(2, ' ', false, nlohmann::json::error_handler_t::replace));
        !kept.ok())
      LogWarning(kept.message());
  }
  return out;
}

}  // namespace lanyard::worker
