// What pages in a browser may ask of this server (CORS, and the guard against pages that forge
// requests). No sockets.
#pragma once

#include <optional>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

#include "base/status.h"
#include "web/address.h"
#include "web/http.h"

namespace lanyard::web {

// One of ServerOptions::origins: "https://chat.example:8443", "app://obsidian.md"; in lower case,
// and without a port that is the scheme's own, as browsers send it.
// InvalidArgument for anything else, "*" and "null" with it: those are whoever likes.
absl::StatusOr<std::string> ParseOrigin(std::string_view text);

// The headers of a request that tell of a browser.
struct BrowserHeaders {
  std::string_view method = {};
  std::string_view path = {};               // a Target's
  std::string_view host = {};               // the one that the request is for
  std::string_view origin = {};             // Origin; empty: absent
  std::string_view fetch_site = {};         // Sec-Fetch-Site
  std::string_view content_type = {};       // Content-Type
  std::string_view requested_method = {};   // Access-Control-Request-Method
  std::string_view requested_headers = {};  // Access-Control-Request-Headers
};

struct BrowserVerdict {
  std::vector<std::pair<std::string, std::string>> headers;  // of whatever is answered
  std::optional<Response> answer;  // the request ends here: 403, 415, or a preflight's 204
};

// Pages of this server itself may ask everything that their key opens. Those of an allowed origin
// may ask all but an administrator's routes, and are told so in the headers that browsers look for.
// Everybody else is refused. What changes something must be sent as JSON, which a page of another
// origin cannot do without asking first.
BrowserVerdict JudgeBrowser(const BrowserHeaders& request, const HostPolicy& policy);

// Whether a path is one of an administrator's, which no page of another origin may ask.
bool IsAdminPath(std::string_view path);

}  // namespace lanyard::web
