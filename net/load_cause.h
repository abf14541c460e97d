// Why a worker could not make its stage ready, as far as the coordinator and people act on it. The
// text of the error tells the rest.
#pragma once

#include <cstdint>

#include "base/status.h"

namespace lanyard::net {

enum class LoadCause : uint8_t {
  kUnknown = 0,
  kDiskFull = 1,
  kCacheUnwritable = 2,  // the folder of weights cannot be written or read
  kBadWeights = 3,       // bytes that do not match their SHA-256, twice
  kAgain = 4,            // the coordinator gave no weights for a while; nobody's fault
  kMemory = 5,
  kUnreachable = 6,  // the next worker
};

// Puts the cause on an error; OK stays OK. It survives Annotate, and not the wire, where
// StageFailed carries it.
absl::Status WithCause(absl::Status status, LoadCause cause);
LoadCause CauseOf(const absl::Status& status);
// kUnknown for a number that this version does not know.
LoadCause LoadCauseFromNumber(uint32_t number);

}  // namespace lanyard::net
