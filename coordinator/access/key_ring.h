// API keys in the Store. Only the SHA-256 of a key's 256 random bits is kept; since they are
// random, nothing slower is needed. Every question of a request is answered from memory. When
// something changes, the Store is written first.
#pragma once

#include <array>
#include <functional>
#include <map>
#include <memory>

#include "base/mutex.h"
#include "coordinator/access/api_keys.h"
#include "coordinator/state/store.h"

namespace lanyard::coordinator {

inline constexpr size_t kMaxApiKeys = 10'000;  // the limit for keys that are not revoked
inline constexpr int64_t kMaxApiKeySeconds = int64_t{10} * 365 * 24 * 3600;

class KeyRing final : public ApiKeys {
 public:
  using Clock = std::function<int64_t()>;  // seconds since 1970

  // Reads every key. The store must outlive the result. An empty clock means the system's.
  static absl::StatusOr<std::unique_ptr<KeyRing>> Open(Store* store, Clock clock = {});
  ~KeyRing() override;  // flushes

  absl::StatusOr<std::string> Check(std::string_view presented) override;
  bool IsLive(std::string_view id) const override;
  absl::StatusOr<NewApiKey> Create(std::string_view name,
                                   std::optional<int64_t> ttl_seconds) override;
  absl::StatusOr<std::vector<ApiKeyInfo>> List() override;
  absl::StatusOr<ApiKeyInfo> Revoke(std::string_view name_or_id) override;
  void Flush() override;

 private:
  using Digest = std::array<unsigned char, 32>;
  struct Key {
    ApiKeyInfo info;
    Digest secret_sha256{};
    bool unwritten_use = false;
  };

  KeyRing(Store* store, Clock clock) : store_(*store), clock_(std::move(clock)) {}
  static bool Live(const Key& key, int64_t now);
  // Finds the key in memory; null when there is none.
  Key* Find(std::string_view name_or_id) ABSL_EXCLUSIVE_LOCKS_REQUIRED(mu_);

  Store& store_;
  const Clock clock_;
  // Held by Create, Revoke and Flush over store and memory, so that they run one at a time; taken
  // before mu_.
  Mutex change_mu_;
  mutable Mutex mu_;
  std::map<std::string, Key, std::less<>> keys_ ABSL_GUARDED_BY(mu_);  // by id
};

}  // namespace lanyard::coordinator
