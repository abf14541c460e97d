// What `lanyard up` makes sure of before it starts anything: that its port is free, and that its
// state directory is its own.
#pragma once

#include <cstdint>
#include <string>

#include "base/status.h"

namespace lanyard::cli {

// One line now instead of a log to read later: who has the port, and what to do.
absl::Status CheckPort(uint32_t port);

// The directory for logs, caches and identities, absolute, and locked for the life of this process:
// `wanted`, or the first of its model's that no other pool uses. AlreadyExists says how the pool
// that uses it is stopped. InvalidArgument: its path is no UTF-8.
absl::StatusOr<std::string> ChooseState(const std::string& wanted, const std::string& model);

}  // namespace lanyard::cli
