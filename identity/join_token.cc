#include "identity/join_token.h"

#include <openssl/crypto.h>
#include <openssl/rand.h>
#include <openssl/sha.h>

#include <array>

#include "absl/strings/ascii.h"
#include "absl/strings/escaping.h"
#include "identity/openssl.h"

namespace lanyard::identity {
namespace {

constexpr std::string_view kPrefix = "lyt1.";
constexpr size_t kHashBytes = 32;
constexpr size_t kCheckBytes = 4;
constexpr size_t kBodyBytes = kHashBytes + kTokenIdBytes + kTokenSecretBytes;
constexpr size_t kTextBytes = kPrefix.size() + (4 * (kBodyBytes + kCheckBytes) + 2) / 3;

std::string Sha256Raw(std::string_view data) {
  std::array<unsigned char, SHA256_DIGEST_LENGTH> digest{};
  SHA256(reinterpret_cast<const unsigned char*>(data.data()), data.size(), digest.data());
  return {reinterpret_cast<const char*>(digest.data()), digest.size()};
}

std::string Check(std::string_view body) {
  return Sha256Raw(absl::StrCat("lyt1", AbslView(body))).substr(0, kCheckBytes);
}

}  // namespace

absl::StatusOr<JoinToken> JoinToken::Make(std::string_view ca_fingerprint) {
  std::array<unsigned char, kTokenIdBytes + kTokenSecretBytes> random{};
  if (RAND_bytes(random.data(), random.size()) != 1)
    return Internal("no random bytes: ", OpenSslError());
  const std::string_view bytes(reinterpret_cast<const char*>(random.data()), random.size());
  return JoinToken{std::string(ca_fingerprint),
                   absl::BytesToHexString(AbslView(bytes.substr(0, kTokenIdBytes))),
                   std::string(bytes.substr(kTokenIdBytes))};
}

std::string JoinToken::Encode() const {
  const std::string body = absl::StrCat(ca_fingerprint, absl::HexStringToBytes(id), secret);
  std::string text;
  absl::WebSafeBase64Escape(absl::StrCat(body, Check(body)), &text);
  while (!text.empty() && text.back() == '=') text.pop_back();
  return absl::StrCat(AbslView(kPrefix), text);
}

absl::StatusOr<JoinToken> JoinToken::Decode(std::string_view text) {
  text = StdView(absl::StripAsciiWhitespace(AbslView(text)));
  const std::string again = "; copy the whole line that `lanyard token create` printed";
  if (text.substr(0, kPrefix.size()) != kPrefix) {
    if (text.substr(0, 3) == "lyt")
      return InvalidArgument(
          "the join token is of another version of Lanyard: install the coordinator's version "
          "here");
    return InvalidArgument("this is not a join token (one starts with '", AbslView(kPrefix), "')",
                           again);
  }
  if (text.size() != kTextBytes) {
    return InvalidArgument("the join token is ",
                           text.size() < kTextBytes ? "cut short" : "too long", ": ", text.size(),
                           " characters of ", kTextBytes, again);
  }
  std::string bytes;
  const std::string_view encoded = text.substr(kPrefix.size());
  const bool decoded = absl::WebSafeBase64Unescape(AbslView(encoded), &bytes) &&
                       bytes.size() == kBodyBytes + kCheckBytes;
  if (!decoded ||
      Check(std::string_view(bytes).substr(0, kBodyBytes)) != bytes.substr(kBodyBytes)) {
    return InvalidArgument("the join token was altered (a character is wrong)", again);
  }
  JoinToken out{bytes.substr(0, kHashBytes),
                absl::BytesToHexString(bytes.substr(kHashBytes, kTokenIdBytes)),
                bytes.substr(kHashBytes + kTokenIdBytes, kTokenSecretBytes)};
  // The last character of base64 has bits that decode to nothing.
  if (out.Encode() != text)
    return InvalidArgument("the join token was altered (a character is wrong)", again);
  return out;
}

std::string SecretHash(std::string_view secret) {
  return absl::BytesToHexString(Sha256Raw(secret));
}

bool EqualSecretHash(std::string_view a, std::string_view b) {
  return a.size() == b.size() && CRYPTO_memcmp(a.data(), b.data(), a.size()) == 0;
}

}  // namespace lanyard::identity
