#include "coordinator/access/key_ring.h"

#include <SQLiteCpp/SQLiteCpp.h>
#include <openssl/crypto.h>
#include <openssl/sha.h>

#include <algorithm>
#include <chrono>
#include <cstring>

#include "base/api_key.h"
#include "base/log.h"

namespace lanyard::coordinator {
namespace {

constexpr size_t kMaxNameBytes = 64;
constexpr int64_t kUseStepSeconds = 60;  // precision of the last use

int64_t WallSeconds() {
  return std::chrono::duration_cast<std::chrono::seconds>(
             std::chrono::system_clock::now().time_since_epoch())
      .count();
}

absl::Status CheckName(std::string_view name) {
  if (name.empty() || name.size() > kMaxNameBytes) {
    return InvalidArgument("a key's name has 1 to ", kMaxNameBytes, " bytes, not ", name.size());
  }
  for (const char c : name) {
    const auto u = static_cast<unsigned char>(c);
    if (std::isalnum(u) == 0 && std::string_view("._-@+").find(c) == std::string_view::npos) {
      return InvalidArgument("a key's name is made of letters, digits and . _ - @ +");
    }
  }
  // A name that could be an id would make `revoke` ambiguous.
  if (IsApiKeyId(name))
    return InvalidArgument("the name '", AbslView(name), "' looks like a key's id; choose another");
  return absl::OkStatus();
}

std::optional<int64_t> Time(const SQLite::Column& column) {
  if (column.isNull()) return std::nullopt;
  return column.getInt64();
}

void BindTime(SQLite::Statement& statement, int at, std::optional<int64_t> time) {
  if (time.has_value()) {
    statement.bind(at, *time);
  } else {
    statement.bind(at);
  }
}

}  // namespace

absl::StatusOr<std::unique_ptr<KeyRing>> KeyRing::Open(Store* store, Clock clock) {
  if (!clock) clock = WallSeconds;
  auto ring = std::unique_ptr<KeyRing>(new KeyRing(store, std::move(clock)));
  MutexLock lock(&ring->mu_);
  RETURN_IF_ERROR(store->Read([&](SQLite::Database& database) -> absl::Status {
    ring->mu_.AssertHeld();
    SQLite::Statement query(
        database,
        "SELECT id, name, secret_sha256, created_unix_s, expires_unix_s, last_used_unix_s, "
        "revoked_unix_s FROM api_keys");
    while (query.executeStep()) {
      Key key;
      key.info.id = query.getColumn(0).getString();
      key.info.name = query.getColumn(1).getString();
      const SQLite::Column digest = query.getColumn(2);
      if (!IsApiKeyId(key.info.id) ||
          digest.getBytes() != static_cast<int>(key.secret_sha256.size())) {
        return absl::DataLossError(absl::StrCat("the database ", store->path(),
                                                " holds an API key that makes no sense; put a ",
                                                "backup in its place"));
      }
      std::memcpy(key.secret_sha256.data(), digest.getBlob(), key.secret_sha256.size());
      key.info.created_unix_s = query.getColumn(3).getInt64();
      key.info.expires_unix_s = Time(query.getColumn(4));
      key.info.last_used_unix_s = Time(query.getColumn(5));
      key.info.revoked_unix_s = Time(query.getColumn(6));
      std::string id = key.info.id;
      ring->keys_.emplace(std::move(id), std::move(key));
    }
    return absl::OkStatus();
  }));
  return ring;
}

KeyRing::~KeyRing() { Flush(); }

bool KeyRing::Live(const Key& key, int64_t now) {
  return !key.info.revoked_unix_s.has_value() &&
         (!key.info.expires_unix_s.has_value() || now < *key.info.expires_unix_s);
}

absl::StatusOr<std::string> KeyRing::Check(std::string_view presented) {
  const auto text = ApiKeyText::Parse(presented);
  Digest digest{};
  const std::string secret = text.ok() ? text->secret : std::string(kApiKeySecretBytes, '\0');
  SHA256(reinterpret_cast<const unsigned char*>(secret.data()), secret.size(), digest.data());
  const int64_t now = clock_();
  MutexLock lock(&mu_);
  const auto it = text.ok() ? keys_.find(text->id) : keys_.end();
  static const Digest kNobodys{};
  const Digest& expected = it != keys_.end() ? it->second.secret_sha256 : kNobodys;
  const bool equal = CRYPTO_memcmp(digest.data(), expected.data(), digest.size()) == 0;
  if (it == keys_.end() || !equal || !Live(it->second, now)) return NotAnApiKey();
  Key& key = it->second;
  if (!key.info.last_used_unix_s.has_value() ||
      now - *key.info.last_used_unix_s >= kUseStepSeconds) {
    key.info.last_used_unix_s = now;
    key.unwritten_use = true;
  }
  return key.info.id;
}

bool KeyRing::IsLive(std::string_view id) const {
  const int64_t now = clock_();
  MutexLock lock(&mu_);
  const auto it = keys_.find(id);
  return it != keys_.end() && Live(it->second, now);
}

absl::StatusOr<NewApiKey> KeyRing::Create(std::string_view name,
                                          std::optional<int64_t> ttl_seconds) {
  RETURN_IF_ERROR(CheckName(name));
  if (ttl_seconds.has_value() && (*ttl_seconds < 1 || *ttl_seconds > kMaxApiKeySeconds)) {
    return InvalidArgument("a key cannot be valid for ", *ttl_seconds, " s; 1 s to ",
                           kMaxApiKeySeconds, " s (10 years)");
  }
  MutexLock change(&change_mu_);
  {
    MutexLock lock(&mu_);
    const auto live = std::count_if(keys_.begin(), keys_.end(),
                                    [](const auto& k) { return !k.second.info.revoked_unix_s; });
    if (static_cast<size_t>(live) >= kMaxApiKeys) {
      return ResourceExhausted("there are ", kMaxApiKeys,
                               " keys already; revoke some: lanyard key revoke NAME");
    }
    if (Find(name) != nullptr) {
      return absl::AlreadyExistsError(
          absl::StrCat("there is a key named '", AbslView(name), "' already; choose another name, ",
                       "or revoke it: lanyard key revoke ", AbslView(name)));
    }
  }
  ASSIGN_OR_RETURN(const ApiKeyText text, ApiKeyText::Make());
  Key key;
  key.info.id = text.id;
  key.info.name = std::string(name);
  key.info.created_unix_s = clock_();
  if (ttl_seconds.has_value()) key.info.expires_unix_s = key.info.created_unix_s + *ttl_seconds;
  SHA256(reinterpret_cast<const unsigned char*>(text.secret.data()), text.secret.size(),
         key.secret_sha256.data());
  RETURN_IF_ERROR(store_.Write([&](SQLite::Database& database) {
    SQLite::Statement insert(
        database,
        "INSERT INTO api_keys (id, name, secret_sha256, created_unix_s, expires_unix_s) "
        "VALUES (?, ?, ?, ?, ?)");
    insert.bind(1, key.info.id);
    insert.bind(2, key.info.name);
    insert.bind(3, key.secret_sha256.data(), static_cast<int>(key.secret_sha256.size()));
    insert.bind(4, key.info.created_unix_s);
    BindTime(insert, 5, key.info.expires_unix_s);
    insert.exec();
    return absl::OkStatus();
  }));
  MutexLock lock(&mu_);
  keys_.emplace(text.id, key);
  return NewApiKey{key.info, text.Encode()};
}

absl::StatusOr<std::vector<ApiKeyInfo>> KeyRing::List() {
  std::vector<ApiKeyInfo> out;
  {
    MutexLock lock(&mu_);
    for (const auto& [id, key] : keys_) out.push_back(key.info);
  }
  std::sort(out.begin(), out.end(), [](const ApiKeyInfo& a, const ApiKeyInfo& b) {
    return std::tie(a.created_unix_s, a.name) < std::tie(b.created_unix_s, b.name);
  });
  return out;
}

KeyRing::Key* KeyRing::Find(std::string_view name_or_id) {
  if (const auto it = keys_.find(name_or_id); it != keys_.end()) return &it->second;
  for (auto& [id, key] : keys_) {
    if (key.info.name == name_or_id && !key.info.revoked_unix_s.has_value()) return &key;
  }
  return nullptr;
}

absl::StatusOr<ApiKeyInfo> KeyRing::Revoke(std::string_view name_or_id) {
  MutexLock change(&change_mu_);
  ApiKeyInfo info;
  {
    MutexLock lock(&mu_);
    const Key* key = Find(name_or_id);
    if (key == nullptr) {
      return NotFound("there is no key named '", AbslView(name_or_id.substr(0, kMaxNameBytes)),
                      "'; lanyard key list shows them");
    }
    info = key->info;
  }
  if (info.revoked_unix_s.has_value()) return info;
  info.revoked_unix_s = clock_();
  RETURN_IF_ERROR(store_.Write([&](SQLite::Database& database) {
    SQLite::Statement update(database, "UPDATE api_keys SET revoked_unix_s = ? WHERE id = ?");
    update.bind(1, *info.revoked_unix_s);
    update.bind(2, info.id);
    update.exec();
    return absl::OkStatus();
  }));
  MutexLock lock(&mu_);
  keys_.at(info.id).info.revoked_unix_s = info.revoked_unix_s;
  return info;
}

void KeyRing::Flush() {
  MutexLock change(&change_mu_);
  std::map<std::string, int64_t> used;
  {
    MutexLock lock(&mu_);
    for (auto& [id, key] : keys_) {
      if (key.unwritten_use) used.emplace(id, *key.info.last_used_unix_s);
      key.unwritten_use = false;
    }
  }
  if (used.empty()) return;
  const absl::Status written = store_.Write([&](SQLite::Database& database) {
    SQLite::Statement update(database, "UPDATE api_keys SET last_used_unix_s = ? WHERE id = ?");
    for (const auto& [id, time] : used) {
      update.bind(1, time);
      update.bind(2, id);
      update.exec();
      update.reset();
    }
    return absl::OkStatus();
  });
  if (!written.ok()) LogWarning("when API keys were used is not written down: ", written.message());
}

}  // namespace lanyard::coordinator
