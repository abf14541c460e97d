// An error about one field of a client's request: which field, and a code that a program can read.
// They travel as payloads of the status, from wherever the field was judged to the one place that
// answers the client (web/errors).
#pragma once

#include <string>
#include <string_view>

#include "base/status.h"

namespace lanyard {

inline constexpr char kFieldParamKey[] = "lanyard.param";
inline constexpr char kFieldCodeKey[] = "lanyard.code";

// InvalidArgument that names the field of the request ("temperature", "messages[2].content") and,
// if there is one, a machine-readable code.
inline absl::Status BadField(std::string_view param, std::string_view message,
                             std::string_view code = "") {
  absl::Status status = absl::InvalidArgumentError(AbslView(message));
  if (!param.empty()) status.SetPayload(kFieldParamKey, absl::Cord(AbslView(param)));
  if (!code.empty()) status.SetPayload(kFieldCodeKey, absl::Cord(AbslView(code)));
  return status;
}

inline constexpr char kRetryAfterKey[] = "lanyard.retry_after_s";

// The same error, which says in how many seconds it is worth asking again.
inline absl::Status WithRetryAfter(absl::Status status, int64_t seconds) {
  status.SetPayload(kRetryAfterKey, absl::Cord(absl::StrCat(seconds)));
  return status;
}

// A client's value as an error may show it: whole, or its first bytes, up to a border of
// characters, and how many there are.
inline std::string Shortened(std::string_view value, size_t bytes = 100) {
  if (value.size() <= bytes) return std::string(value);
  while (bytes > 0 && (static_cast<unsigned char>(value[bytes]) & 0xC0) == 0x80) --bytes;
  return absl::StrCat(AbslView(value.substr(0, bytes)), "... (", value.size(), " bytes)");
}

// What BadField or WithRetryAfter put there; empty where there is none.
inline std::string FieldPayload(const absl::Status& status, const char* key) {
  const absl::optional<absl::Cord> value = status.GetPayload(key);
  return value.has_value() ? std::string(*value) : std::string();
}

}  // namespace lanyard
