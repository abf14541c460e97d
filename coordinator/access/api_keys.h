// What web/ needs of API keys: to check one, list them, make a new one and revoke one.
#pragma once

#include <cstdint>
#include <optional>
#include <string>
#include <string_view>
#include <vector>

#include "base/status.h"

namespace lanyard::coordinator {

struct ApiKeyInfo {
  std::string id;
  std::string name;
  int64_t created_unix_s = 0;
  std::optional<int64_t> expires_unix_s;
  std::optional<int64_t> last_used_unix_s;  // rounded to a minute
  std::optional<int64_t> revoked_unix_s;
};

struct NewApiKey {
  ApiKeyInfo info;
  std::string key;  // the key's text, which only this answer holds
};

// Thread-safe. Check and IsLive are quick (memory only); the others write to the disk.
class ApiKeys {
 public:
  virtual ~ApiKeys() = default;

  // Returns the id of a key that is known and neither expired nor revoked. Otherwise the result is
  // Unauthenticated, in the same words for every reason and after the same comparison in constant
  // time.
  virtual absl::StatusOr<std::string> Check(std::string_view presented) = 0;
  // Says whether the key with this id would pass now.
  virtual bool IsLive(std::string_view id) const = 0;

  // InvalidArgument: the name or the time is impossible. AlreadyExists: the name is in use.
  // ResourceExhausted: there are too many keys.
  virtual absl::StatusOr<NewApiKey> Create(std::string_view name,
                                           std::optional<int64_t> ttl_seconds) = 0;
  // Lists the keys in the order of their creation, revoked ones too.
  virtual absl::StatusOr<std::vector<ApiKeyInfo>> List() = 0;
  // Takes an id, or the name of a key that is not revoked yet. Once it has returned, Check refuses
  // the key. NotFound when there is no such key.
  virtual absl::StatusOr<ApiKeyInfo> Revoke(std::string_view name_or_id) = 0;
  // Writes down what was only kept in memory (when keys were used). It is called now and then.
  virtual void Flush() = 0;
};

}  // namespace lanyard::coordinator
