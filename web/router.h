// One deny-by-default table of routes: a path that is not in it is a 404, a method that is not in it a 405.
#pragma once

#include <functional>
#include <memory>
#include <string>
#include <string_view>
#include <vector>

#include "web/http.h"

namespace lanyard::web {

// Who may call a route. Every route must say so; enforced by ServerOptions::authorize.
enum class Access { kPublic, kUser, kAdmin };

// Runs in a handler thread and may block for a short time. It answers through the writer, now or later.
using Handler = std::function<void(const Request&, std::shared_ptr<ResponseWriter>)>;

struct Route {
  std::string method;   // HEAD is served by GET
  std::string path;     // a trailing "*" matches any non-empty rest, which becomes Request::suffix
  Access access;
  Handler handler;
};

class Router {
 public:
  explicit Router(std::vector<Route> routes);

  struct Match {
    const Route* route = nullptr;
    std::string suffix;
    Response error;     // when route is nullptr: 404 or 405 (with Allow)
  };
  Match Find(std::string_view method, std::string_view path) const;

 private:
  std::vector<Route> routes_;
};

// The path of a request target, percent-decoded, without query and fragment. False for bad escapes, an encoded NUL, or a
// target that is not in origin form ("/...").
bool DecodePath(std::string_view target, std::string* path);

// The DNS-rebinding and cross-site guard. Empty when the request may go on, else the message of a 403.
// host: the Host header; origin: the Origin header (empty: absent). On a loopback listener the host must be loopback too;
// an origin must be the host itself, or loopback on a loopback listener.
std::string CheckHostAndOrigin(std::string_view host, std::string_view origin, bool loopback_listener);

}  // namespace lanyard::web
