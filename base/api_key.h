// The text of an API key: "lyk_<id>_<base64url(secret | check)>", 65 characters. The check lets a
// program tell a mistyped key from an unknown one without asking anybody; client and server say the
// same of both (NotAnApiKey).
#pragma once

#include <cstddef>
#include <string>
#include <string_view>

#include "base/status.h"

namespace lanyard {

inline constexpr size_t kApiKeyIdBytes = 6;       // 12 hex digits in the text
inline constexpr size_t kApiKeySecretBytes = 32;  // from OpenSSL's random numbers
inline constexpr std::string_view kApiKeyPrefix = "lyk_";

struct ApiKeyText {
  std::string id;      // 12 hex digits; may be shown and logged
  std::string secret;  // 32 raw bytes

  // Makes a key with a new id and secret. Internal when the system gives no random bytes.
  static absl::StatusOr<ApiKeyText> Make();
  // NotAnApiKey for what is none, is cut short or was altered.
  static absl::StatusOr<ApiKeyText> Parse(std::string_view text);

  std::string Encode() const;
};

// What is said of every key that is none, is cut short, unknown, expired or revoked, whoever finds
// out: Unauthenticated.
absl::Status NotAnApiKey();

bool IsApiKeyId(std::string_view s);

}  // namespace lanyard
