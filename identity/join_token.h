// The line that lets a machine into the cluster once. It carries the CA's hash, so that the machine
// knows the true coordinator before it says the secret (k3s' idea, with the whole hash, one use and
// an hour).
//
//   "lyt1." base64url( cluster's CA SHA-256 [32] | token id [8] | secret [32] | SHA-256 of all that
//   [4] ), no padding
#pragma once

#include <string>
#include <string_view>

#include "base/status.h"

namespace lanyard::identity {

inline constexpr size_t kTokenIdBytes = 8;
inline constexpr size_t kTokenSecretBytes = 32;

struct JoinToken {
  std::string ca_fingerprint;  // 32 raw bytes
  std::string id;              // 16 hex digits; may be shown and logged
  std::string secret;          // 32 raw bytes

  // With a new id and secret.
  static absl::StatusOr<JoinToken> Make(std::string_view ca_fingerprint);
  std::string Encode() const;
  // InvalidArgument in different words: no token at all, cut short (so many of so many characters),
  // altered (a mistyped character), of another version.
  static absl::StatusOr<JoinToken> Decode(std::string_view text);
};

// What the coordinator keeps of a secret: SHA-256 (the secret is random, so nothing slower is
// needed), hex.
std::string SecretHash(std::string_view secret);
// In constant time.
bool EqualSecretHash(std::string_view a, std::string_view b);

}  // namespace lanyard::identity
