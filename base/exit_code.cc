#include "base/exit_code.h"

namespace lanyard {
namespace {

struct Row {
  ExitCode code;
  const char* meaning;
};

constexpr Row kTable[] = {
    {kOk, "ok"},
    {kFailed, "failed"},
    {kUsage, "usage"},
    {kUnreachable, "unreachable"},
    {kDenied, "denied"},
    {kNotFound, "not found"},
    {kTimedOut, "timed out"},
    {kInterrupted, "interrupted"},
    {kTerminated, "terminated"},
};

}  // namespace

ExitCode ExitCodeOf(absl::StatusCode code) {
  switch (code) {
    case absl::StatusCode::kOk:
      return kOk;
    case absl::StatusCode::kUnavailable:
      return kUnreachable;
    case absl::StatusCode::kPermissionDenied:
    case absl::StatusCode::kUnauthenticated:
      return kDenied;
    case absl::StatusCode::kNotFound:
      return kNotFound;
    case absl::StatusCode::kDeadlineExceeded:
      return kTimedOut;
    case absl::StatusCode::kCancelled:
      return kInterrupted;
    default:
      return kFailed;
  }
}

std::string ExitCodesText() {
  std::string out;
  for (const Row& row : kTable) {
    absl::StrAppend(&out, out.empty() ? "" : ", ", static_cast<int>(row.code), " ", row.meaning);
  }
  return out;
}

}  // namespace lanyard
