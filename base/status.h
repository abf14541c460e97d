// Status helpers. Errors inside Lanyard are absl::Status; their text says what failed, the value
// seen and what to do next. They become gRPC codes in net/ and HTTP codes in web/, each by one
// table.
#pragma once

#include <string>
#include <string_view>
#include <utility>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/str_format.h"
#include "absl/strings/string_view.h"

namespace lanyard {

// Debian's absl is built without std::string_view: absl::StrCat(std::string_view) does not compile
// as it is.
inline absl::string_view AbslView(std::string_view s) { return {s.data(), s.size()}; }
inline std::string_view StdView(absl::string_view s) { return {s.data(), s.size()}; }
inline std::string Str(absl::string_view s) { return {s.data(), s.size()}; }

template <typename... Args>
absl::Status InvalidArgument(const Args&... args) {
  return absl::InvalidArgumentError(absl::StrCat(args...));
}
template <typename... Args>
absl::Status NotFound(const Args&... args) {
  return absl::NotFoundError(absl::StrCat(args...));
}
template <typename... Args>
absl::Status FailedPrecondition(const Args&... args) {
  return absl::FailedPreconditionError(absl::StrCat(args...));
}
template <typename... Args>
absl::Status ResourceExhausted(const Args&... args) {
  return absl::ResourceExhaustedError(absl::StrCat(args...));
}
template <typename... Args>
absl::Status Unavailable(const Args&... args) {
  return absl::UnavailableError(absl::StrCat(args...));
}
template <typename... Args>
absl::Status Internal(const Args&... args) {
  return absl::InternalError(absl::StrCat(args...));
}
template <typename... Args>
absl::Status Unimplemented(const Args&... args) {
  return absl::UnimplementedError(absl::StrCat(args...));
}

// Gives the same code with "prefix: " before the message; OK stays OK. Payloads are kept.
inline absl::Status Annotate(const absl::Status& status, std::string_view prefix) {
  if (status.ok()) return status;
  absl::Status out(status.code(), absl::StrCat(AbslView(prefix), ": ", status.message()));
  status.ForEachPayload(
      [&](absl::string_view url, const absl::Cord& payload) { out.SetPayload(url, payload); });
  return out;
}

namespace status_internal {
inline absl::Status ToStatus(absl::Status s) { return s; }
template <typename T>
absl::Status ToStatus(const absl::StatusOr<T>& s) {
  return s.status();
}
}  // namespace status_internal

}  // namespace lanyard

#define LANYARD_CONCAT_(a, b) a##b
#define LANYARD_CONCAT(a, b) LANYARD_CONCAT_(a, b)

// Returns the error of `expr` (a Status or StatusOr) from the enclosing function, if there is one.
#define RETURN_IF_ERROR(expr)                                             \
  do {                                                                    \
    if (auto status_or_ = (expr); !status_or_.ok())                       \
      return ::lanyard::status_internal::ToStatus(std::move(status_or_)); \
  } while (0)

// ASSIGN_OR_RETURN(auto x, Make()): assigns the value, or returns the error.
#define ASSIGN_OR_RETURN(lhs, expr) \
  LANYARD_ASSIGN_OR_RETURN_(LANYARD_CONCAT(statusor_, __LINE__), lhs, expr)
#define LANYARD_ASSIGN_OR_RETURN_(tmp, lhs, expr) \
  auto tmp = (expr);                              \
  if (!tmp.ok()) return std::move(tmp).status();  \
  lhs = std::move(tmp).value()
