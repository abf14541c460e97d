#include "net/load_cause.h"

#include <string>

namespace lanyard::net {
namespace {

constexpr char kUrl[] = "lanyard/load_cause";

}  // namespace

absl::Status WithCause(absl::Status status, LoadCause cause) {
  if (!status.ok()) status.SetPayload(kUrl, absl::Cord(std::string(1, static_cast<char>(cause))));
  return status;
}

LoadCause CauseOf(const absl::Status& status) {
  const auto payload = status.GetPayload(kUrl);
  if (!payload || payload->size() != 1) return LoadCause::kUnknown;
  return LoadCauseFromNumber(static_cast<uint8_t>(std::string(*payload)[0]));
}

LoadCause LoadCauseFromNumber(uint32_t number) {
  return number <= static_cast<uint32_t>(LoadCause::kUnreachable) ? static_cast<LoadCause>(number)
                                                                  : LoadCause::kUnknown;
}

}  // namespace lanyard::net
