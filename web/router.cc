#include "web/router.h"

#include <utility>

#include "base/status.h"
#include "web/errors.h"

namespace lanyard::web {
namespace {

// True if the path belongs to the route; the rest goes to *suffix.
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
        404,
        absl::StrCat("Unknown request URL: ", AbslView(method), " ", AbslView(path.substr(0, 200)),
                     ". Try GET /v1/models or POST /v1/chat/completions."),
        "unknown_url");
    return match;
  }
  match.error = ErrorResponse(405,
                              absl::StrCat("Not allowed to ", AbslView(method.substr(0, 20)), " ",
                                           AbslView(path), "; use ", allow, "."),
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

}  // namespace lanyard::web
