#include "net/hello.h"

#include "net/limits.h"
#include "net/status_codes.h"
#include "stage/speed.h"

namespace lanyard::net {
namespace {

constexpr double kMaxRate = 1e18;  // bytes or operations a second

bool IsAlnum(char c) {
  return (c >= '0' && c <= '9') || (c >= 'A' && c <= 'Z') || (c >= 'a' && c <= 'z');
}

absl::Status CheckSpeed(std::string_view whose, double speed) {
  if (speed > 0 && speed <= stage::kMaxSpeed) return absl::OkStatus();  // NaN is neither
  return InvalidArgument(AbslView(whose), " says that its speed is ", speed,
                         "; it must be above 0 and at most ", stage::kMaxSpeed);
}

absl::Status CheckDevice(const DeviceHello& device) {
  RETURN_IF_ERROR(CheckText("device kind", device.kind, kMaxNameBytes));
  RETURN_IF_ERROR(CheckText("device name", device.name, kMaxNameBytes));
  RETURN_IF_ERROR(CheckText("device model", device.model, kMaxNameBytes));
  if (device.name.empty() || device.name == "cpu")
    return InvalidArgument("a device is called '", device.name, "'");
  RETURN_IF_ERROR(CheckSpeed("device " + device.name, device.speed));
  const DeviceRates& rates = device.rates;
  for (const double rate :
       {rates.read_bytes_per_second, rates.int8_ops_per_second, rates.f16_ops_per_second,
        rates.to_device_bytes_per_second, rates.to_host_bytes_per_second}) {
    if (!(rate >= 0 && rate < kMaxRate))
      return InvalidArgument("device ", device.name, ": a rate of ", rate, " a second");
  }
  return absl::OkStatus();
}

}  // namespace

absl::Status CheckText(std::string_view what, std::string_view text, size_t limit) {
  if (text.size() > limit)
    return InvalidArgument(text.size(), " bytes of ", AbslView(what), ", at most ", limit,
                           " are allowed");
  for (const char c : text) {
    const unsigned char u = static_cast<unsigned char>(c);
    if (u < 0x20 || u == 0x7f)
      return InvalidArgument(AbslView(what), " holds control character ", u);
  }
  return absl::OkStatus();
}

absl::Status CheckWorkerName(std::string_view name) {
  bool good = !name.empty() && name.size() <= kMaxNameBytes && IsAlnum(name[0]);
  for (const char c : name) good = good && (IsAlnum(c) || c == '.' || c == '_' || c == '-');
  if (good) return absl::OkStatus();
  return InvalidArgument("worker name '", CleanText(name.substr(0, kMaxNameBytes)),
                         "' is not 1 to ", kMaxNameBytes,
                         " of A-Z a-z 0-9 . _ - starting with a letter or digit");
}

absl::Status CheckAddress(std::string_view address) {
  bool good = !address.empty() && address.size() <= kMaxAddressBytes;
  for (const char c : address) {
    good = good && (IsAlnum(c) || c == '.' || c == '-' || c == '_' || c == ':' || c == '[' ||
                    c == ']' || c == '%');
  }
  const size_t colon = address.rfind(':');
  good = good && colon != std::string_view::npos && colon > 0 && colon + 1 < address.size();
  uint32_t port = 0;
  for (size_t i = colon + 1; good && i < address.size(); ++i) {
    good = address[i] >= '0' && address[i] <= '9' && port <= 65535;
    port = port * 10 + static_cast<uint32_t>(address[i] - '0');
  }
  if (good && port <= 65535) return absl::OkStatus();
  return InvalidArgument("address '", CleanText(address.substr(0, kMaxAddressBytes)),
                         "' is not host:port");
}

absl::Status CheckDevices(std::span<const DeviceHello> devices) {
  for (size_t i = 0; i < devices.size(); ++i) {
    RETURN_IF_ERROR(CheckDevice(devices[i]));
    for (size_t j = 0; j < i; ++j) {
      if (devices[j].name == devices[i].name)
        return InvalidArgument("two devices are called ", devices[i].name);
    }
  }
  return absl::OkStatus();
}

absl::Status CheckHello(const WorkerHello& hello) {
  RETURN_IF_ERROR(CheckWorkerName(hello.name));
  const std::string whose = absl::StrCat("worker '", hello.name, "'");
  if (const absl::Status status = CheckAddress(hello.stage_address); !status.ok())
    return Annotate(status, whose);
  RETURN_IF_ERROR(CheckText("isa", hello.isa, kMaxNameBytes));
  RETURN_IF_ERROR(CheckSpeed(whose, hello.speed));
  if (hello.threads == 0 || hello.threads > stage::kMaxThreads) {
    return InvalidArgument(whose, " says that it has ", hello.threads, " threads; 1 to ",
                           stage::kMaxThreads, " make sense");
  }
  return CheckDevices(hello.devices);
}

}  // namespace lanyard::net
