#include "net/versions.h"

#include <algorithm>

#include "net/limits.h"
#include "net/status_codes.h"

namespace lanyard::net {
namespace {

constexpr uint32_t kFirstProtocol = 1;

std::string Says(std::string_view who, const Program& program) {
  return absl::StrCat(AbslView(who), " is version ",
                      CleanText(std::string_view(program.version).substr(0, kMaxNameBytes)),
                      " (protocol ", program.protocol, ")");
}

uint32_t OldestTaken(uint32_t protocol) {
  return protocol > kFirstProtocol ? protocol - 1 : kFirstProtocol;
}

}  // namespace

absl::Status CheckWorkerProgram(const Program& worker, const Program& coordinator) {
  const uint32_t oldest = OldestTaken(coordinator.protocol);
  if (worker.protocol < oldest || worker.protocol > coordinator.protocol) {
    const std::string taken = oldest == coordinator.protocol
                                  ? absl::StrCat("protocol ", oldest)
                                  : absl::StrCat("protocols ", oldest, " and ", oldest + 1);
    return FailedPrecondition(Says("the worker", worker), ", ",
                              Says("the coordinator", coordinator), " and takes workers of ", taken,
                              "; upgrade the ",
                              worker.protocol > coordinator.protocol ? "coordinator" : "worker");
  }
  if (worker.numerics != coordinator.numerics) {
    return FailedPrecondition(
        Says("the worker", worker), " with numerics version ", worker.numerics, ", ",
        Says("the coordinator", coordinator), " with numerics version ", coordinator.numerics,
        ": the same request would get another text, so they share no pool; upgrade the ",
        worker.numerics > coordinator.numerics ? "coordinator" : "worker");
  }
  return absl::OkStatus();
}

absl::Status CheckNeighbourProgram(const Program& other, const Program& own) {
  const auto [low, high] = std::minmax(other.protocol, own.protocol);
  if (low >= kFirstProtocol && high - low <= 1) return absl::OkStatus();
  return FailedPrecondition(Says("the other side", other), ", ", Says("this program", own),
                            "; they may be one protocol apart, so upgrade the ",
                            other.protocol < own.protocol ? "other side" : "program here");
}

}  // namespace lanyard::net
