// TLS ends for what is not gRPC (joining, HTTPS): OpenSSL contexts of this cluster. TLS 1.3 only,
// no session tickets.
#pragma once

#include <memory>

#include "base/status.h"
#include "identity/credential.h"

namespace lanyard::identity {

using SslContext = std::shared_ptr<SSL_CTX>;

enum class ClientCertificate : uint8_t {
  kNone,
  kOptional,  // asked for; one of another CA fails the handshake
};

// Sends certificate and CA. Unauthenticated when key and certificate do not fit.
absl::StatusOr<SslContext> MakeServerContext(const Credential& credential,
                                             ClientCertificate client);

// For joining: takes any certificate in the handshake; the caller compares the chain before it says
// anything (CheckCoordinatorChain).
absl::StatusOr<SslContext> MakeJoinContext();

// The chain that a server sent: its CA has this SHA-256 (32 raw bytes), the leaf is a coordinator's
// and valid at `now`. PermissionDenied when the CA is another (an impostor, or another cluster).
// `ca_pem` gets the CA.
absl::StatusOr<Peer> CheckCoordinatorChain(SSL* ssl, std::string_view ca_fingerprint, UnixTime now,
                                           std::string* ca_pem);

}  // namespace lanyard::identity
