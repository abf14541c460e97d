#include "web/errors.h"

#include <algorithm>
#include <nlohmann/json.hpp>

namespace lanyard::web {
namespace {

struct Mapping {
  absl::StatusCode status;
  int http;
  const char* type;
  const char* code;
  const char* retry_after_s;  // where the status does not say; nullptr: no such header
};

// This is the only place where a Status becomes an HTTP code.
constexpr Mapping kTable[] = {
    {absl::StatusCode::kInvalidArgument, 400, "invalid_request_error", "", nullptr},
    {absl::StatusCode::kOutOfRange, 400, "invalid_request_error", "context_length_exceeded",
     nullptr},
    {absl::StatusCode::kUnimplemented, 400, "invalid_request_error", "not_supported", nullptr},
    {absl::StatusCode::kUnauthenticated, 401, "authentication_error", "invalid_api_key", nullptr},
    {absl::StatusCode::kPermissionDenied, 403, "permission_error", "", nullptr},
    {absl::StatusCode::kAlreadyExists, 409, "invalid_request_error", "already_exists", nullptr},
    {absl::StatusCode::kNotFound, 404, "invalid_request_error", "model_not_found", nullptr},
    {absl::StatusCode::kResourceExhausted, 429, "rate_limit_error", "queue_full", "1"},
    {absl::StatusCode::kUnavailable, 503, "unavailable_error", "unavailable", "2"},
    {absl::StatusCode::kDeadlineExceeded, 504, "timeout_error", "deadline_exceeded", nullptr},
};
constexpr Mapping kOther = {absl::StatusCode::kUnknown, 500, "server_error", "", nullptr};

const Mapping& Lookup(absl::StatusCode code) {
  for (const Mapping& m : kTable) {
    if (m.status == code) return m;
  }
  return kOther;
}

// OpenAI's clients do not believe more than a minute.
constexpr int64_t kLeastRetryAfter = 1, kMostRetryAfter = 60;

// Whoever put a text together shortened a client's values in it; this holds where one was
// forgotten.
constexpr size_t kMaxMessageBytes = 4000;

std::string_view TypeOf(int http_status) {
  if (http_status == 503) return "unavailable_error";
  if (http_status == 429) return "rate_limit_error";
  if (http_status == 403) return "permission_error";
  if (http_status >= 500) return "server_error";
  return "invalid_request_error";
}

}  // namespace

std::string ErrorJson(std::string_view message, std::string_view type, std::string_view param,
                      std::string_view code) {
  nlohmann::ordered_json error;
  error["message"] = Shortened(message, kMaxMessageBytes);
  error["type"] = type;
  error["param"] = param.empty() ? nlohmann::ordered_json(nullptr) : nlohmann::ordered_json(param);
  error["code"] = code.empty() ? nlohmann::ordered_json(nullptr) : nlohmann::ordered_json(code);
  nlohmann::ordered_json body;
  body["error"] = std::move(error);
  return body.dump(-1, ' ', false, nlohmann::ordered_json::error_handler_t::replace);
}

Response ErrorResponse(int http_status, std::string_view message, std::string_view code) {
  Response response;
  response.status = http_status;
  response.body = ErrorJson(message, TypeOf(http_status), "", code);
  return response;
}

std::string ToErrorJson(const absl::Status& status) {
  const Mapping& m = Lookup(status.code());
  std::string code = FieldPayload(status, kFieldCodeKey);
  if (code.empty()) code = m.code;
  std::string param = FieldPayload(status, kFieldParamKey);
  if (param.empty() && status.code() == absl::StatusCode::kOutOfRange) param = "messages";
  if (param.empty() && status.code() == absl::StatusCode::kNotFound) param = "model";
  return ErrorJson(StdView(status.message()), m.type, param, code);
}

Response ToResponse(const absl::Status& status) {
  const Mapping& m = Lookup(status.code());
  Response response;
  response.status = m.http;
  response.body = ToErrorJson(status);
  if (m.retry_after_s != nullptr) {
    const std::string known = FieldPayload(status, kRetryAfterKey);
    int64_t seconds = 0;
    response.headers.emplace_back(
        "Retry-After", absl::SimpleAtoi(known, &seconds)
                           ? absl::StrCat(std::clamp(seconds, kLeastRetryAfter, kMostRetryAfter))
                           : m.retry_after_s);
  }
  if (m.http == 401) response.headers.emplace_back("WWW-Authenticate", "Bearer");
  return response;
}

std::string_view ReasonPhrase(int http_status) {
  switch (http_status) {
    case 200:
      return "OK";
    case 201:
      return "Created";
    case 202:
      return "Accepted";
    case 204:
      return "No Content";
    case 400:
      return "Bad Request";
    case 401:
      return "Unauthorized";
    case 403:
      return "Forbidden";
    case 404:
      return "Not Found";
    case 405:
      return "Method Not Allowed";
    case 408:
      return "Request Timeout";
    case 409:
      return "Conflict";
    case 413:
      return "Content Too Large";
    case 415:
      return "Unsupported Media Type";
    case 429:
      return "Too Many Requests";
    case 431:
      return "Request Header Fields Too Large";
    case 500:
      return "Internal Server Error";
    case 501:
      return "Not Implemented";
    case 503:
      return "Service Unavailable";
    case 504:
      return "Gateway Timeout";
    default:
      return "Unknown";
  }
}

}  // namespace lanyard::web
