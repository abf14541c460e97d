// API keys in the Store. Of a key's 256 random bits only their SHA-256 is kept (they are random:
// nothing slower is needed). Everything that a request asks is answered from memory; the Store is
// written first when something changes.
#pragma once

#include <array>
#include <functional>
#include <map>
#include <memory>

#include "base/mutex.h"
#include "coordinator/access/api_keys.h"
#include "coordinator/state/store.h"

namespace lanyard::coordinator {

inline constexpr size_t kMaxApiKeys = 10'000;  // that are not revoked
inline constexpr int64_t kMaxApiKeySeconds = int64_t{10} * 365 * 24 * 3600;

class KeyRing final : public ApiKeys {
 public:
  using Clock = std::function<int64_t()>;  // seconds since 1970

  // Reads every key. The store must outlive it; an empty clock is the wall's.
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
  // Of the key in memory; null when there is none.
  Key* Find(std::string_view name_or_id) ABSL_EXCLUSIVE_LOCKS_REQUIRED(mu_);

  Store& store_;
  const Clock clock_;
  Mutex change_mu_;  // Create, Revoke and Flush: one at a time, over store and memory; taken before
                     // mu_
  mutable Mutex mu_;
  std::map<std::string, Key, std::less<>> keys_ ABSL_GUARDED_BY(mu_);  // by id
};

}  // namespace lanyard::coordinator
