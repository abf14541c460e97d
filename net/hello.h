// What a worker may say of itself. The one place of these rules: they hold for a hello from the
// wire (convert_control) and for one that a pool is given in its own process (coordinator/cluster).
#pragma once

#include <cstddef>
#include <cstdint>
#include <span>
#include <string_view>

#include "base/status.h"
#include "net/control.h"

namespace lanyard::net {

// 1 to 64 characters of A-Z a-z 0-9 . _ -, the first a letter or digit.
absl::Status CheckWorkerName(std::string_view name);
// host:port, printable, at most kMaxAddressBytes.
absl::Status CheckAddress(std::string_view address);
// Printable ASCII and UTF-8 without control characters.
absl::Status CheckText(std::string_view what, std::string_view text, size_t limit);

// Name, address, speed, threads and devices; not the version (versions.h).
absl::Status CheckHello(const WorkerHello& hello);
absl::Status CheckDevices(std::span<const DeviceHello> devices);

}  // namespace lanyard::net
