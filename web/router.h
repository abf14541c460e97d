// The one table of routes, which denies by default: a path that is not in it is a 404, a method
// that is not in it a 405.
#pragma once

#include <functional>
#include <memory>
#include <string>
#include <string_view>
#include <vector>

#include "web/http.h"

namespace lanyard::web {

// Who may call a route; the Gate enforces it. There is no default.
enum class Access {
  kPublic,  // everyone
  kUser,    // everyone with an API key, and administrators
  kAdmin,   // holders of an administrator's certificate; a key is not enough
};

// Runs in a handler thread and may block for a short time. It answers through the writer, now or
// later.
using Handler = std::function<void(const Request&, std::shared_ptr<ResponseWriter>)>;

struct Route {
  std::string method;  // HEAD is served by GET
  std::string path;    // a trailing "*" matches any non-empty rest, which becomes Request::suffix
  Access access;
  std::string about;  // for docs/access.md
  Handler handler;
};

class Router {
 public:
  explicit Router(std::vector<Route> routes);

  struct Match {
    const Route* route = nullptr;
    std::string suffix;
    Response error;  // 404 or 405 (with Allow) when route is nullptr
  };
  Match Find(std::string_view method, std::string_view path) const;
  const std::vector<Route>& routes() const { return routes_; }

 private:
  std::vector<Route> routes_;
};

// The path of a request target, percent-decoded, without query and fragment. False for bad escapes,
// an encoded NUL, or a target that is not in origin form ("/...").
bool DecodePath(std::string_view target, std::string* path);

}  // namespace lanyard::web
