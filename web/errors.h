// One table from absl::Status to HTTP, and OpenAI's error shape for every path.
#pragma once

#include <string>
#include <string_view>

#include "base/field_error.h"
#include "base/status.h"
#include "web/http.h"

namespace lanyard::web {

// {"error":{"message","type","param","code"}}; param and code are null when empty.
std::string ErrorJson(std::string_view message, std::string_view type, std::string_view param,
                      std::string_view code);

// An error that comes from no Status: 404, 405, 413, ...
Response ErrorResponse(int http_status, std::string_view message, std::string_view code = "");

// Follows the table: InvalidArgument 400, OutOfRange 400 context_length_exceeded, NotFound 404
// model_not_found, Unavailable 503 and ResourceExhausted 429 (both with Retry-After, which clients
// respect; the status may say how long, see WithRetryAfter), DeadlineExceeded 504, Unauthenticated
// 401 (with WWW-Authenticate), PermissionDenied 403, AlreadyExists 409, Unimplemented 400;
// everything else 500.
Response ToResponse(const absl::Status& status);
// Makes the same body, for the middle of a stream.
std::string ToErrorJson(const absl::Status& status);

std::string_view ReasonPhrase(int http_status);

}  // namespace lanyard::web
