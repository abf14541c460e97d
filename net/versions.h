// Which programs work together. This is the one place of the rule; docs/compatibility.md tells it
// to people.
//
// A coordinator of protocol N takes workers of protocol N and N-1: it is upgraded first, and its
// workers one by one while it serves. The product's version decides nothing. Numerics are their own
// rule: another version of them promises no equal bits, so such a worker is refused as well.
#pragma once

#include <cstdint>
#include <string>

#include "base/status.h"
#include "base/version.h"

namespace lanyard::net {

// From this protocol on a worker holds a stage beside the one that serves (AssignMode).
inline constexpr uint32_t kBesideProtocol = 2;

// What a program says of itself. `version` is for people, and is cleaned before it is shown.
struct Program {
  uint32_t protocol = kProtocolVersion;
  std::string version = kVersion;
  uint32_t numerics = kNumericsVersion;
};

// FailedPrecondition names both versions and says which side is to be upgraded.
absl::Status CheckWorkerProgram(const Program& worker, const Program& coordinator = {});
// The same for two programs of which each may be any that one coordinator takes: a worker, and who
// sends frames to it.
absl::Status CheckNeighbourProgram(const Program& other, const Program& own = {});

}  // namespace lanyard::net
