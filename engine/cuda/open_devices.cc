#include "engine/cuda/open_devices.h"

#include <algorithm>
#include <charconv>

#include "base/log.h"
#include "base/size.h"

namespace lanyard::engine {
namespace {

std::vector<std::string> Split(const std::string& text) {
  std::vector<std::string> out;
  for (size_t begin = 0; begin <= text.size();) {
    const size_t end = std::min(text.find(',', begin), text.size());
    out.push_back(text.substr(begin, end - begin));
    begin = end + 1;
  }
  return out;
}

absl::StatusOr<int> ParseCard(const std::string& name) {
  int ordinal = -1;
  const std::string prefix = "cuda:";
  if (name.rfind(prefix, 0) == 0) {
    const char* const end = name.data() + name.size();
    const auto [at, error] = std::from_chars(name.data() + prefix.size(), end, ordinal);
    if (error != std::errc() || at != end || ordinal > 63) ordinal = -1;
  }
  if (ordinal < 0) return InvalidArgument("'", name, "' is no card; write cuda:0, cuda:1, ...");
  return ordinal;
}

absl::Status ParseLimits(const std::string& vram, DeviceFlags* out) {
  if (vram.empty()) return absl::OkStatus();
  for (const std::string& item : Split(vram)) {
    const size_t equals = item.find('=');
    int card = -1;  // -1: every card
    if (equals != std::string::npos) {
      ASSIGN_OR_RETURN(card, ParseCard(item.substr(0, equals)));
    }
    ASSIGN_OR_RETURN(
        const uint64_t bytes,
        ParseLimit(equals == std::string::npos ? item : item.substr(equals + 1), kLeastStoreBytes));
    if (!out->limits.emplace(card, bytes).second)
      return InvalidArgument("'", item, "' is the second limit of its card");
  }
  return absl::OkStatus();
}

absl::StatusOr<std::shared_ptr<CudaDevice>> OpenCard(
    const std::shared_ptr<const cuda::Driver>& driver, int ordinal, const DeviceFlags& flags) {
  CudaDeviceOptions options;
  options.ordinal = ordinal;
  for (const int key : {ordinal, -1}) {
    const auto limit = flags.limits.find(key);
    if (options.budget_bytes == 0 && limit != flags.limits.end())
      options.budget_bytes = limit->second;
  }
  ASSIGN_OR_RETURN(auto device, CudaDevice::Open(driver, options));
  LogInfo(device->name(), ": ", device->info().name, ", ", FormatSize(device->BudgetBytes()),
          " of ", FormatSize(device->info().total_bytes), " for stages; kernels of level ",
          device->module()->level(), " ready in ",
          static_cast<int64_t>(device->load_seconds() * 1e3), " ms");
  if (device->BudgetBytes() < options.budget_bytes) {
    LogInfo(device->name(), ": --vram of ", FormatSize(options.budget_bytes),
            " is more than is free less the ", FormatSize(options.reserve_bytes),
            " that are left to the desktop");
  }
  return device;
}

}  // namespace

absl::StatusOr<DeviceFlags> ParseDevices(const std::string& devices, const std::string& vram) {
  DeviceFlags out;
  out.automatic = devices.empty() || devices == "auto";
  if (!out.automatic && devices != "cpu") {
    for (const std::string& name : Split(devices)) {
      auto card = ParseCard(name);
      if (!card.ok()) return Annotate(card.status(), "--devices");
      if (std::find(out.cards.begin(), out.cards.end(), *card) != out.cards.end()) {
        return InvalidArgument("--devices: '", name, "' stands there twice");
      }
      out.cards.push_back(*card);
    }
  }
  RETURN_IF_ERROR(Annotate(ParseLimits(vram, &out), "--vram"));
  return out;
}

absl::StatusOr<std::vector<std::shared_ptr<CudaDevice>>> OpenDevices(const DeviceFlags& flags) {
  std::vector<std::shared_ptr<CudaDevice>> out;
  if (!flags.automatic && flags.cards.empty()) return out;
  const auto driver = cuda::Driver::Open();
  if (!driver.ok()) {
    if (!flags.automatic) return Annotate(driver.status(), "--devices");
    if (!absl::IsNotFound(driver.status()))
      LogWarning("no cards are used: ", driver.status().message());
    return out;
  }
  std::vector<int> cards = flags.cards;
  for (const cuda::DeviceInfo& info : (*driver)->devices()) {
    if (!flags.automatic) break;
    if (info.integrated) {
      LogInfo("cuda:", info.ordinal, " is not used: ", info.name,
              " has no memory of its own, and the processor's layers ",
              "take the machine's already; --devices cuda:", info.ordinal, " uses it all the same");
      continue;
    }
    cards.push_back(info.ordinal);
  }
  for (const int ordinal : cards) {
    auto card = OpenCard(*driver, ordinal, flags);
    if (card.ok()) {
      out.push_back(*std::move(card));
    } else if (flags.automatic) {
      LogWarning("cuda:", ordinal, " is not used: ", card.status().message());
    } else {
      return Annotate(card.status(), absl::StrCat("--devices: cuda:", ordinal));
    }
  }
  return out;
}

}  // namespace lanyard::engine
