#include "web/router.h"

#include <algorithm>
#include <utility>

#include "absl/strings/match.h"
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

// "http://host:80/path" -> "/path", and the authority.
bool TakeAuthority(std::string_view* text, std::string* authority) {
  const size_t colon = text->find("://");
  if (colon == std::string_view::npos) return false;
  const std::string_view scheme = text->substr(0, colon);
  if (!absl::EqualsIgnoreCase(AbslView(scheme), "http") &&
      !absl::EqualsIgnoreCase(AbslView(scheme), "https"))
    return false;
  text->remove_prefix(colon + 3);
  const size_t end = std::min(text->find_first_of("/?#"), text->size());
  *authority = std::string(text->substr(0, end));
  text->remove_prefix(end);
  return !authority->empty() && authority->find('@') == std::string::npos;
}

bool Decode(std::string_view text, std::string* out) {
  for (size_t i = 0; i < text.size(); ++i) {
    char c = text[i];
    if (c == '%') {
      if (i + 2 >= text.size()) return false;
      const int high = HexDigit(text[i + 1]);
      const int low = HexDigit(text[i + 2]);
      if (high < 0 || low < 0 || high + low == 0) return false;
      c = static_cast<char>(high * 16 + low);
      i += 2;
    }
    out->push_back(c);
  }
  return true;
}

}  // namespace

Router::Router(std::vector<Route> routes) : routes_(std::move(routes)) {}

bool Router::FindExact(std::string_view method, std::string_view path, Match* match) const {
  const std::string_view wanted = method == "HEAD" ? std::string_view("GET") : method;
  std::string allow;
  for (const Route& route : routes_) {
    if (!Matches(route, path, &match->suffix)) continue;
    if (route.method == wanted) {
      match->route = &route;
      return true;
    }
    if (!allow.empty()) allow += ", ";
    allow += route.method;
  }
  if (allow.empty()) return false;
  match->error = ErrorResponse(405,
                               absl::StrCat("Not allowed to ", Shortened(method, 20), " ",
                                            Shortened(path), "; use ", allow, "."),
                               "method_not_allowed");
  match->error.headers.emplace_back("Allow", allow);
  return true;
}

Router::Match Router::Find(std::string_view method, std::string_view path) const {
  Match match;
  if (FindExact(method, path, &match)) return match;
  if (FindExact(method, absl::StrCat("/v1", AbslView(path)), &match)) return match;
  match.error = ErrorResponse(
      404,
      absl::StrCat("Unknown request URL: ", Shortened(method, 20), " ", Shortened(path),
                   ". Try GET /v1/models or POST /v1/chat/completions."),
      "unknown_url");
  return match;
}

bool ParseTarget(std::string_view text, Target* target) {
  *target = {};
  if (!text.empty() && text.front() != '/' && !TakeAuthority(&text, &target->authority))
    return false;
  text = text.substr(0, text.find_first_of("?#"));
  if (target->authority.empty() && text.empty()) return false;
  std::string decoded;
  if (!Decode(text, &decoded)) return false;
  for (const char c : decoded) {
    if (c != '/' || target->path.empty() || target->path.back() != '/') target->path.push_back(c);
  }
  if (target->path.size() > 1 && target->path.back() == '/') target->path.pop_back();
  if (target->path.empty()) target->path.push_back('/');
  return true;
}

}  // namespace lanyard::web
