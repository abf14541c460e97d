#include "base/api_key.h"

#include <openssl/rand.h>
#include <openssl/sha.h>

#include <array>

#include "absl/strings/escaping.h"

namespace lanyard {
namespace {

constexpr size_t kCheckBytes = 4;
// 36 bytes are 48 characters of base64 without a spare bit, so every character counts.
constexpr size_t kTailChars = (kApiKeySecretBytes + kCheckBytes) / 3 * 4;
constexpr size_t kTextChars = kApiKeyPrefix.size() + 2 * kApiKeyIdBytes + 1 + kTailChars;

std::string Check(std::string_view id, std::string_view secret) {
  const std::string text = absl::StrCat("lyk ", AbslView(id), " ", AbslView(secret));
  std::array<unsigned char, SHA256_DIGEST_LENGTH> digest{};
  SHA256(reinterpret_cast<const unsigned char*>(text.data()), text.size(), digest.data());
  return {reinterpret_cast<const char*>(digest.data()), kCheckBytes};
}

}  // namespace

absl::Status NotAnApiKey() {
  return absl::UnauthenticatedError(
      "The API key is not valid. Copy the whole line that `lanyard key create NAME` printed; "
      "`lanyard key list` shows an administrator which keys are expired or revoked.");
}

bool IsApiKeyId(std::string_view s) {
  return s.size() == 2 * kApiKeyIdBytes &&
         s.find_first_not_of("0123456789abcdef") == std::string_view::npos;
}

absl::StatusOr<ApiKeyText> ApiKeyText::Make() {
  std::array<unsigned char, kApiKeyIdBytes + kApiKeySecretBytes> random{};
  if (RAND_bytes(random.data(), random.size()) != 1)
    return Internal("the system gives no random bytes for a key");
  const std::string_view bytes(reinterpret_cast<const char*>(random.data()), random.size());
  return ApiKeyText{absl::BytesToHexString(AbslView(bytes.substr(0, kApiKeyIdBytes))),
                    std::string(bytes.substr(kApiKeyIdBytes))};
}

std::string ApiKeyText::Encode() const {
  return absl::StrCat(AbslView(kApiKeyPrefix), id, "_",
                      absl::WebSafeBase64Escape(absl::StrCat(secret, Check(id, secret))));
}

absl::StatusOr<ApiKeyText> ApiKeyText::Parse(std::string_view text) {
  if (text.size() != kTextChars || text.substr(0, kApiKeyPrefix.size()) != kApiKeyPrefix)
    return NotAnApiKey();
  const std::string_view id = text.substr(kApiKeyPrefix.size(), 2 * kApiKeyIdBytes);
  const std::string_view tail = text.substr(text.size() - kTailChars);
  std::string bytes;
  const bool whole = IsApiKeyId(id) && text[kApiKeyPrefix.size() + id.size()] == '_' &&
                     absl::WebSafeBase64Unescape(AbslView(tail), &bytes) &&
                     bytes.size() == kApiKeySecretBytes + kCheckBytes;
  ApiKeyText key{std::string(id), whole ? bytes.substr(0, kApiKeySecretBytes) : ""};
  if (!whole || bytes.substr(kApiKeySecretBytes) != Check(key.id, key.secret)) return NotAnApiKey();
  return key;
}

}  // namespace lanyard
