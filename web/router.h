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
// later, and may take what the request holds.
using Handler = std::function<void(Request&, std::shared_ptr<ResponseWriter>)>;

// Whose threads a handler runs in, so that no kind of work holds up another.
enum class Lane {
  kQuick,       // reads a state that the pool has at hand
  kCompletion,  // reads a prompt; its answer holds a place of its caller's share
  kControl,     // administrators', and whether the program lives
};

struct Route {
  std::string method;  // HEAD is served by GET
  std::string path;    // a trailing "*" matches any non-empty rest, which becomes Request::suffix
  Access access;
  std::string about;  // for docs/access.md
  Handler handler;
  Lane lane = Lane::kQuick;
};

class Router {
 public:
  explicit Router(std::vector<Route> routes);

  struct Match {
    const Route* route = nullptr;
    std::string suffix;
    Response error;  // 404 or 405 (with Allow) when route is nullptr
  };
  // `path` is a Target's. Routes under /v1 go without it too ("/chat/completions"), for clients
  // whose base URL lacks it.
  Match Find(std::string_view method, std::string_view path) const;
  const std::vector<Route>& routes() const { return routes_; }

 private:
  // Whether there is such a path, for whatever method.
  bool FindExact(std::string_view method, std::string_view path, Match* match) const;

  std::vector<Route> routes_;
};

// A request target, in origin form ("/path?query") or absolute form ("http://host:80/path"; RFC
// 9112, 3.2).
struct Target {
  // Percent-decoded, without query and fragment; one slash where there were several, none at the
  // end. Everything that asks what a request is about sees this path and no other.
  std::string path;
  std::string authority;  // of the absolute form; else empty
};

// False for another form or scheme, a user in the authority, bad escapes, or an encoded NUL.
bool ParseTarget(std::string_view text, Target* target);

}  // namespace lanyard::web
