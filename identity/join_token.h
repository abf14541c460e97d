// The line that lets a machine into the cluster once. It carries the CA's hash, so that the machine
// recognises the true coordinator before it sends the secret. (The idea is k3s'; here with the
// whole hash, one use and one hour.)
//
//   "lyt1." base64url(cluster's CA SHA-256 [32] | token id [8] | secret [32] | check [4])
//
// The check is the beginning of the SHA-256 of all before it; base64url has no padding.
#pragma once

#include <cstdint>
#include <string>
#include <string_view>

#include "base/status.h"

namespace lanyard::identity {

inline constexpr size_t kTokenIdBytes = 8;
inline constexpr size_t kTokenSecretBytes = 32;
// What a coordinator gives at most.
inline constexpr int64_t kMaxTokenSeconds = int64_t{7} * 24 * 3600;
inline constexpr uint32_t kMaxTokenUses = 1000;

struct JoinToken {
  std::string ca_fingerprint;  // 32 raw bytes
  std::string id;              // 16 hex digits; may be shown and logged
  std::string secret;          // 32 raw bytes

  // Makes a token with a new id and secret.
  static absl::StatusOr<JoinToken> Make(std::string_view ca_fingerprint);
  std::string Encode() const;
  // InvalidArgument tells apart in words what is no token at all, cut short (with both numbers of
  // characters), altered (a mistyped character), or of another version.
  static absl::StatusOr<JoinToken> Decode(std::string_view text);
};

// What the coordinator keeps of a secret: its SHA-256 in hex. (The secret is random, so nothing
// slower is needed.)
std::string SecretHash(std::string_view secret);
// Compares in constant time.
bool EqualSecretHash(std::string_view a, std::string_view b);

}  // namespace lanyard::identity
