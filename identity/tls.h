// TLS ends for what is not gRPC (joining, HTTPS): OpenSSL contexts of this cluster. No session
// tickets, no renegotiation. TLS 1.3; HTTPS also 1.2, which some clients need.
#pragma once

#include <map>
#include <memory>
#include <string>

#include "base/status.h"
#include "identity/credential.h"
#include "identity/server_certificate.h"

namespace lanyard::identity {

using SslContext = std::shared_ptr<SSL_CTX>;

// For joining: sends certificate and CA, asks for none. Unauthenticated when key and certificate do
// not fit.
absl::StatusOr<SslContext> MakeServerContext(const Credential& credential);

struct HttpsContextParts {
  // Its CA says which client certificates are taken. It is also what a client gets that asks for
  // TlsName(Role::kCoordinator, ""): `lanyard` with an administrator's folder, whatever other
  // clients get.
  std::shared_ptr<const Credential> cluster;
  std::shared_ptr<const ServerCertificate> usual = nullptr;  // null: the cluster's
  std::map<std::string, std::shared_ptr<const ServerCertificate>> by_name = {};  // in lower case
  bool tls12 = true;                                                             // false: 1.3 only
};
// A client may show a certificate of the cluster, one of another CA fails the handshake. In TLS 1.2
// none is asked for: it would cross the network in the clear.
absl::StatusOr<SslContext> MakeHttpsContext(const HttpsContextParts& parts);

// For joining: it takes any certificate in the handshake, and the caller compares the chain before
// it sends anything (CheckCoordinatorChain).
absl::StatusOr<SslContext> MakeJoinContext();

// Checks the chain that a server sent: its CA has this SHA-256 (32 raw bytes), and the leaf is a
// coordinator's and valid at `now`. PermissionDenied when the CA is another one (an impostor, or
// another cluster). `ca_pem` gets the CA.
absl::StatusOr<Peer> CheckCoordinatorChain(SSL* ssl, std::string_view ca_fingerprint, UnixTime now,
                                           std::string* ca_pem);

}  // namespace lanyard::identity
