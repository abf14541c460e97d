// A node's key pair (ECDSA P-256), which is made on the node and never sent. The node's id is the
// hash of its public key, so a name or a certificate can be given anew, but never the id.
#pragma once

#include <string>
#include <string_view>

#include "base/status.h"
#include "identity/openssl.h"

namespace lanyard::identity {

// 32 hex digits: the first half of SHA-256 over the SubjectPublicKeyInfo (DER).
std::string NodeIdOf(EVP_PKEY* key);
bool IsNodeId(std::string_view s);

// Immutable. Copies share the key.
class KeyPair {
 public:
  static absl::StatusOr<KeyPair> Generate();
  // Takes PKCS#8, unencrypted. InvalidArgument for anything but a P-256 key.
  static absl::StatusOr<KeyPair> FromPem(std::string_view pem);

  std::string ToPem() const;
  const std::string& node_id() const { return node_id_; }
  EVP_PKEY* get() const { return key_.get(); }

  // Makes a certificate request (PKCS#10, PEM) signed by this key, which proves that its sender
  // holds the key.
  absl::StatusOr<std::string> MakeRequest() const;

 private:
  explicit KeyPair(PkeyPtr key);

  std::shared_ptr<EVP_PKEY> key_;
  std::string node_id_;
};

// Returns the public key of a request whose signature holds. InvalidArgument otherwise, and for
// keys other than P-256.
absl::StatusOr<PkeyPtr> PublicKeyOfRequest(std::string_view request_pem);

}  // namespace lanyard::identity
