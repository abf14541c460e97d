#include "web/router.h"

#include <algorithm>
#include <cctype>
#include <utility>

#include "base/status.h"
#include "web/errors.h"

namespace lanyard::web {
namespace {

// True if the path is the route's; the rest goes to *suffix.
bool Matches(const Route& route, std::string_view path, std::string* suffix) {
  std::string_view pattern = route.path;
  if (pattern.empty() || pattern.back() != '*') return pattern == path;
  pattern.remove_suffix(1);
  if (path.size() <= pattern.size() || path.substr(0, pattern.size()) != pattern) return false;
  *suffix = std::string(path.substr(pattern.size()));
  return true;
}

int HexDigit(char c) {
  if (c >= '0' && c <= '9') return c - '0';
  if (c >= 'a' && c <= 'f') return c - 'a' + 10;
  if (c >= 'A' && c <= 'F') return c - 'A' + 10;
  return -1;
}

// "[::1]:8080" -> "::1"; "LocalHost:80" -> "localhost".
std::string HostName(std::string_view authority) {
  if (!authority.empty() && authority.front() == '[') {
    const size_t end = authority.find(']');
    return std::string(authority.substr(1, end == std::string_view::npos ? end : end - 1));
  }
  std::string name(authority.substr(0, authority.find(':')));
  if (!name.empty() && name.back() == '.') name.pop_back();
  std::transform(name.begin(), name.end(), name.begin(),
                 [](unsigned char c) { return static_cast<char>(std::tolower(c)); });
  return name;
}

bool IsLoopbackName(std::string_view authority) {
  const std::string name = HostName(authority);
  if (name == "localhost" || name == "::1") return true;
  // A name such as 127.evil.example is none: digits and dots only.
  return name.rfind("127.", 0) == 0 && name.find_first_not_of("0123456789.") == std::string::npos;
}

}  // namespace

Router::Router(std::vector<Route> routes) : routes_(std::move(routes)) {}

Router::Match Router::Find(std::string_view method, std::string_view path) const {
  const std::string_view wanted = method == "HEAD" ? std::string_view("GET") : method;
  Match match;
  std::string allow;
  for (const Route& route : routes_) {
    if (!Matches(route, path, &match.suffix)) continue;
    if (route.method == wanted) {
      match.route = &route;
      return match;
    }
    if (!allow.empty()) allow += ", ";
    allow += route.method;
  }
  if (allow.empty()) {
    match.error = ErrorResponse(
        404, absl::StrCat("Unknown request URL: ", AbslView(method), " ", AbslView(path.substr(0, 200)),
                          ". Try GET /v1/models or POST /v1/chat/completions."),
        "unknown_url");
    return match;
  }
  match.error = ErrorResponse(
      405, absl::StrCat("Not allowed to ", AbslView(method.substr(0, 20)), " ", AbslView(path), "; use ", allow, "."),
      "method_not_allowed");
  match.error.headers.emplace_back("Allow", allow);
  return match;
}

bool DecodePath(std::string_view target, std::string* path) {
  target = target.substr(0, target.find_first_of("?#"));
  if (target.empty() || target.front() != '/') return false;
  path->clear();
  for (size_t i = 0; i < target.size(); ++i) {
    char c = target[i];
    if (c == '%') {
      if (i + 2 >= target.size()) return false;
      const int high = HexDigit(target[i + 1]);
      const int low = HexDigit(target[i + 2]);
      if (high < 0 || low < 0 || high + low == 0) return false;
      c = static_cast<char>(high * 16 + low);
      i += 2;
    }
    path->push_back(c);
  }
  return true;
}

std::string CheckHostAndOrigin(std::string_view host, std::string_view origin, bool loopback_listener) {
  if (loopback_listener && !host.empty() && !IsLoopbackName(host)) {
    return absl::StrCat("This server listens on this machine only, but the request came for host '",
                        AbslView(host.substr(0, 100)), "'. Use http://127.0.0.1 or http://localhost.");
  }
  if (origin.empty()) return "";
  std::string_view authority = origin;
  const size_t scheme = authority.find("://");
  if (scheme != std::string_view::npos) authority.remove_prefix(scheme + 3);
  const bool same = !host.empty() && authority == host;
  if (same || (loopback_listener && IsLoopbackName(authority))) return "";
  return absl::StrCat("Requests from web pages of another origin ('", AbslView(origin.substr(0, 100)),
                      "') are not accepted.");
}

}  // namespace lanyard::web
