#include "web/browser.h"

#include <algorithm>
#include <cctype>

#include "absl/strings/ascii.h"
#include "absl/strings/match.h"
#include "web/errors.h"

namespace lanyard::web {
namespace {

constexpr size_t kMaxRequestedHeaders = 2048;
constexpr char kAllowedMethods[] = "GET, HEAD, POST";

// Names of headers, with commas: what is safe to give back.
bool IsHeaderList(std::string_view text) {
  return text.size() <= kMaxRequestedHeaders && std::all_of(text.begin(), text.end(), [](char c) {
           return std::isalnum(static_cast<unsigned char>(c)) || c == '-' || c == '_' || c == ',' ||
                  c == ' ';
         });
}

bool IsJson(std::string_view content_type) {
  const std::string_view type =
      StdView(absl::StripAsciiWhitespace(AbslView(content_type.substr(0, content_type.find(';')))));
  return absl::EqualsIgnoreCase(AbslView(type), "application/json") ||
         (absl::StartsWithIgnoreCase(AbslView(type), "application/") &&
          absl::EndsWithIgnoreCase(AbslView(type), "+json"));
}

// As browsers send it: without the port that the scheme has anyway.
std::string WithoutDefaultPort(std::string origin) {
  for (const auto& [scheme, port] : {std::pair("https://", ":443"), std::pair("http://", ":80")}) {
    if (absl::StartsWith(origin, scheme) && absl::EndsWith(origin, port))
      origin.resize(origin.size() - std::string_view(port).size());
  }
  return origin;
}

Response Foreign(std::string_view origin, bool admin) {
  return ErrorResponse(
      403,
      absl::StrCat("Requests from web pages of another origin ('", AbslView(origin.substr(0, 100)),
                   "') are not accepted",
                   admin ? " on an administrator's routes."
                         : "; --http-origin of lanyard-coordinator and lanyard up allows one."),
      "misdirected_request");
}

Response Preflight(const BrowserHeaders& request) {
  Response response;
  response.status = 204;
  response.headers = {{"Access-Control-Allow-Methods", kAllowedMethods},
                      {"Access-Control-Max-Age", "600"}};
  if (!request.requested_headers.empty() && IsHeaderList(request.requested_headers)) {
    response.headers.emplace_back("Access-Control-Allow-Headers",
                                  std::string(request.requested_headers));
  }
  return response;
}

bool IsSafe(std::string_view method) {
  return method == "GET" || method == "HEAD" || method == "OPTIONS";
}

}  // namespace

bool IsAdminPath(std::string_view path) {
  constexpr std::string_view kAdmin = "/admin";
  return path.substr(0, kAdmin.size()) == kAdmin &&
         (path.size() == kAdmin.size() || path[kAdmin.size()] == '/');
}

absl::StatusOr<std::string> ParseOrigin(std::string_view text) {
  const std::string origin = absl::AsciiStrToLower(AbslView(text));
  const size_t colon = origin.find("://");
  const auto plain = [](std::string_view part, std::string_view besides) {
    return std::all_of(part.begin(), part.end(), [&](char c) {
      return std::isalnum(static_cast<unsigned char>(c)) || besides.find(c) != besides.npos;
    });
  };
  const bool good = colon != std::string::npos && colon > 0 &&
                    plain(origin.substr(0, colon), "+-.") &&
                    plain(origin.substr(colon + 3), "-._:[]") &&
                    (colon + 3 < origin.size() || origin == "file://");
  if (good) return WithoutDefaultPort(origin);
  return InvalidArgument(
      "the origin '", AbslView(text.substr(0, 100)),
      "' is not SCHEME://HOST or SCHEME://HOST:PORT without a path, such as "
      "https://chat.example:8443 or app://obsidian.md; '*' and 'null' would let every page in");
}

BrowserVerdict JudgeBrowser(const BrowserHeaders& request, const HostPolicy& policy) {
  BrowserVerdict verdict;
  if (!policy.origins.empty()) verdict.headers.emplace_back("Vary", "Origin");
  const bool admin = IsAdminPath(request.path);
  if (request.origin.empty()) {
    // An image or a frame of another site asks without an Origin, and cannot read the answer; but
    // some of an administrator's routes do something when they are asked.
    const bool foreign = !request.fetch_site.empty() && request.fetch_site != "same-origin" &&
                         request.fetch_site != "none";
    if (foreign && admin) verdict.answer = Foreign(request.fetch_site, admin);
    if (request.fetch_site.empty() || verdict.answer.has_value()) return verdict;
  } else {
    const std::string own = WithoutDefaultPort(absl::AsciiStrToLower(
        absl::StrCat(policy.tls ? "https://" : "http://", AbslView(request.host))));
    const std::string origin = WithoutDefaultPort(absl::AsciiStrToLower(AbslView(request.origin)));
    const bool same = !request.host.empty() && origin == own;
    const bool allowed =
        std::find(policy.origins.begin(), policy.origins.end(), origin) != policy.origins.end();
    if (!same && (!allowed || admin)) {
      verdict.answer = Foreign(request.origin, allowed && admin);
      return verdict;
    }
    if (!same) {
      verdict.headers.emplace_back("Access-Control-Allow-Origin", request.origin);
      verdict.headers.emplace_back("Access-Control-Expose-Headers",
                                   "x-request-id, Retry-After, WWW-Authenticate");
      if (request.method == "OPTIONS" && !request.requested_method.empty()) {
        verdict.answer = Preflight(request);
        return verdict;
      }
    }
  }
  if (!IsSafe(request.method) && request.method != "DELETE" && !IsJson(request.content_type)) {
    verdict.answer = ErrorResponse(
        415,
        absl::StrCat("A page in a browser sends its request as JSON, but Content-Type is '",
                     AbslView(request.content_type.substr(0, 100)),
                     "'; send it with 'Content-Type: application/json'."),
        "unsupported_media_type");
  }
  return verdict;
}

}  // namespace lanyard::web
