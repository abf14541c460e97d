// TLS ends for all that is not gRPC (joining, HTTPS): OpenSSL contexts of this cluster, for TLS 1.3
// only and without session tickets.
#pragma once

#include <memory>

#include "base/status.h"
#include "identity/credential.h"

namespace lanyard::identity {

using SslContext = std::shared_ptr<SSL_CTX>;

enum class ClientCertificate : uint8_t {
  kNone,
  kOptional,  // it is asked for; a certificate of another CA fails the handshake
};

// Sends the certificate and the CA's. Unauthenticated when key and certificate do not fit.
absl::StatusOr<SslContext> MakeServerContext(const Credential& credential,
                                             ClientCertificate client);

// For joining: it takes any certificate in the handshake, and the caller compares the chain before
// it sends anything (CheckCoordinatorChain).
absl::StatusOr<SslContext> MakeJoinContext();

// Checks the chain that a server sent: its CA has this SHA-256 (32 raw bytes), and the leaf is a
// coordinator's and valid at `now`. PermissionDenied when the CA is another one (an impostor, or
// another cluster). `ca_pem` gets the CA.
absl::StatusOr<Peer> CheckCoordinatorChain(SSL* ssl, std::string_view ca_fingerprint, UnixTime now,
                                           std::string* ca_pem);

}  // namespace lanyard::identity
