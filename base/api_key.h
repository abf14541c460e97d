// The text of an API key: "lyk_<id>_<base64url(secret | check)>", 65 characters. The check lets a
// client tell a mistyped key from an unknown one without asking the server, which gives both the
// same answer.
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
  // InvalidArgument tells apart in words, none of which holds the text, what is no key at all, cut
  // short or altered.
  static absl::StatusOr<ApiKeyText> Parse(std::string_view text);

  std::string Encode() const;
};

bool IsApiKeyId(std::string_view s);

}  // namespace lanyard
