#include "net/status_codes.h"

#include <algorithm>
#include <optional>

#include "base/utf8.h"
#include "net/limits.h"

namespace lanyard::net {
namespace {

struct CodePair {
  absl::StatusCode absl_code;
  grpc::StatusCode grpc_code;
};

constexpr CodePair kCodes[] = {
    {absl::StatusCode::kOk, grpc::StatusCode::OK},
    {absl::StatusCode::kCancelled, grpc::StatusCode::CANCELLED},
    {absl::StatusCode::kUnknown, grpc::StatusCode::UNKNOWN},
    {absl::StatusCode::kInvalidArgument, grpc::StatusCode::INVALID_ARGUMENT},
    {absl::StatusCode::kDeadlineExceeded, grpc::StatusCode::DEADLINE_EXCEEDED},
    {absl::StatusCode::kNotFound, grpc::StatusCode::NOT_FOUND},
    {absl::StatusCode::kAlreadyExists, grpc::StatusCode::ALREADY_EXISTS},
    {absl::StatusCode::kPermissionDenied, grpc::StatusCode::PERMISSION_DENIED},
    {absl::StatusCode::kResourceExhausted, grpc::StatusCode::RESOURCE_EXHAUSTED},
    {absl::StatusCode::kFailedPrecondition, grpc::StatusCode::FAILED_PRECONDITION},
    {absl::StatusCode::kAborted, grpc::StatusCode::ABORTED},
    {absl::StatusCode::kOutOfRange, grpc::StatusCode::OUT_OF_RANGE},
    {absl::StatusCode::kUnimplemented, grpc::StatusCode::UNIMPLEMENTED},
    {absl::StatusCode::kInternal, grpc::StatusCode::INTERNAL},
    {absl::StatusCode::kUnavailable, grpc::StatusCode::UNAVAILABLE},
    {absl::StatusCode::kDataLoss, grpc::StatusCode::DATA_LOSS},
    {absl::StatusCode::kUnauthenticated, grpc::StatusCode::UNAUTHENTICATED},
};

}  // namespace

// protobuf refuses to parse a string that is not UTF-8, which would end the stream, so we never
// send one.
std::string CleanText(std::string_view text) {
  std::string out;
  for (size_t at = 0; at < text.size() && out.size() < kMaxTextBytes;) {
    const size_t n = Utf8Length(text, at);
    const unsigned char u = static_cast<unsigned char>(text[at]);
    if (n == 0 || u < 0x20 || u == 0x7f) {
      out.push_back(u == '\n' || u == '\t' ? ' ' : '?');
      ++at;
    } else {
      out.append(text.substr(at, n));
      at += n;
    }
  }
  return out;
}

grpc::Status ToGrpc(const absl::Status& status) {
  if (status.ok()) return grpc::Status::OK;
  for (const CodePair& pair : kCodes) {
    if (pair.absl_code == status.code())
      return {pair.grpc_code, CleanText(StdView(status.message()))};
  }
  return {grpc::StatusCode::UNKNOWN, CleanText(StdView(status.message()))};
}

absl::Status FromGrpc(const grpc::Status& status) {
  if (status.ok()) return absl::OkStatus();
  const std::string text = CleanText(status.error_message());
  for (const CodePair& pair : kCodes) {
    if (pair.grpc_code == status.error_code()) return absl::Status(pair.absl_code, text);
  }
  return absl::UnknownError(text);
}

uint32_t ToWireCode(const absl::Status& status) { return static_cast<uint32_t>(status.code()); }

absl::Status FromWireCode(uint32_t code, std::string_view message) {
  for (const CodePair& pair : kCodes) {
    if (static_cast<uint32_t>(pair.absl_code) == code) {
      return absl::Status(pair.absl_code, CleanText(message));
    }
  }
  return absl::UnknownError(absl::StrCat("code ", code, ": ", CleanText(message)));
}

}  // namespace lanyard::net
