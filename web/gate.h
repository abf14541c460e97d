// Decides who is asking and whether they may. It denies by default: a handler sees only what the
// Gate lets through. No sockets.
#pragma once

#include <chrono>
#include <cstddef>
#include <functional>
#include <map>
#include <optional>
#include <string>
#include <string_view>
#include <vector>

#include "base/clock.h"
#include "coordinator/access/api_keys.h"
#include "web/http.h"
#include "web/router.h"

namespace lanyard::web {

// Limits wrong credentials by where they came from: some at once, and some a second. Not
// thread-safe.
class FailureLimiter {
 public:
  FailureLimiter(double burst, double per_second) : burst_(burst), per_second_(per_second) {}

  bool IsBlocked(const std::string& who, TimeNs now);
  void Failed(const std::string& who, TimeNs now);
  size_t size() const { return buckets_.size(); }

 private:
  struct Bucket {
    double left;
    TimeNs at;
  };
  double Left(const Bucket& bucket, TimeNs now) const;

  static constexpr size_t kMaxBuckets = 4096;  // with more, all others share one
  const double burst_;
  const double per_second_;
  std::map<std::string, Bucket> buckets_;
  TimeNs swept_ = 0;  // when full buckets were last thrown away
};

struct GateOptions {
  bool open = false;                     // everyone may do everything
  coordinator::ApiKeys* keys = nullptr;  // null: no key is valid
  // Decides whether a verified client certificate (PEM) is an administrator's, and returns the name
  // or why not. It must be quick: it is asked at every request and, while an answer is being made,
  // several times a second. Absent: no certificate is accepted.
  std::function<absl::StatusOr<std::string>(const std::string& peer_certificate_pem)> admin_of;
  double failure_burst = 10;
  double failures_per_second = 10;
};

struct Credentials {
  // Every header that may hold a key. One right key is enough, whatever a proxy put beside it.
  std::vector<std::string_view> authorization = {};  // "Bearer KEY"; other schemes hold none
  std::vector<std::string_view> api_keys = {};       // of x-api-key and api-key
  std::string_view peer_certificate_pem = {};
  std::string_view client = {};  // ClientGroup of its address
};

// Not thread-safe, but quick: the connections' thread has it.
class Gate {
 public:
  explicit Gate(GateOptions options)
      : options_(std::move(options)),
        failures_(options_.failure_burst, options_.failures_per_second) {}

  struct Verdict {
    Caller caller;
    std::optional<Response> refused;  // 401, 403 or 429; the request ends here
  };
  // `access` is that of the route, or nullopt for a path that is no route: to strangers it looks
  // like any other path.
  Verdict Enter(const Credentials& credentials, std::optional<Access> access, TimeNs now);

  // Says whether a caller who was let in may still be answered: false once the key or the
  // certificate was revoked or has expired.
  bool StillMay(const Caller& caller, std::string_view peer_certificate_pem) const;

 private:
  Verdict CheckKeys(const std::vector<std::string_view>& presented, std::string_view client,
                    TimeNs now);
  // By what a wrong key of this client counts.
  std::string BucketOf(std::string_view presented, std::string_view client) const;

  const GateOptions options_;
  FailureLimiter failures_;
};

}  // namespace lanyard::web
