// What web/ needs of API keys: one may enter, what they are called, a new one, the end of one.
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
  std::optional<int64_t> last_used_unix_s;  // to a minute
  std::optional<int64_t> revoked_unix_s;
};

struct NewApiKey {
  ApiKeyInfo info;
  std::string key;  // the text, seen here and never again
};

// Thread-safe. Check and IsLive are quick (memory only); the others write to the disk.
class ApiKeys {
 public:
  virtual ~ApiKeys() = default;

  // The id of the key, which is known, neither expired nor revoked. Unauthenticated otherwise, in
  // the same words for every reason and after the same comparison in constant time.
  virtual absl::StatusOr<std::string> Check(std::string_view presented) = 0;
  // Whether the key with this id would pass now.
  virtual bool IsLive(std::string_view id) const = 0;

  // InvalidArgument: a name or a time that cannot be; AlreadyExists: the name is in use;
  // ResourceExhausted: too many keys.
  virtual absl::StatusOr<NewApiKey> Create(std::string_view name,
                                           std::optional<int64_t> ttl_seconds) = 0;
  // In the order of their creation, revoked ones too.
  virtual absl::StatusOr<std::vector<ApiKeyInfo>> List() = 0;
  // By id, or by the name of a key that is not revoked yet. From its return on Check refuses the
  // key. NotFound.
  virtual absl::StatusOr<ApiKeyInfo> Revoke(std::string_view name_or_id) = 0;
  // Writes down what was only kept in memory (when keys were used). Called now and then.
  virtual void Flush() = 0;
};

}  // namespace lanyard::coordinator
