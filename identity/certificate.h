// Who a node is, as its certificate says: cluster, role, id, name. Certificates are X.509 (RFC
// 5280), issued by the cluster's own CA (authority.h) only.
#pragma once

#include <string>
#include <string_view>

#include "base/status.h"
#include "identity/openssl.h"
#include "identity/peer.h"

namespace lanyard::identity {

// The TLS name that a certificate of this role and node is good for ("<node>.worker.lanyard"). With
// an empty node, it is the name that every certificate of a coordinator has
// ("coordinator.lanyard").
std::string TlsName(Role role, std::string_view node);

// The first 16 hex digits of the CA certificate's SHA-256.
std::string ClusterIdOf(X509* ca);
// The whole SHA-256 of the certificate (DER), 32 raw bytes.
std::string FingerprintOf(X509* certificate);

UnixTime NotBeforeOf(X509* certificate);
UnixTime NotAfterOf(X509* certificate);
std::string TimeText(UnixTime time);  // "2026-11-29 12:00:00Z"

// Reads who the certificate is for. It does not ask who signed it: TLS did, or VerifyCertificate
// does.
absl::StatusOr<Peer> PeerOf(X509* certificate);
absl::StatusOr<Peer> PeerOfPem(std::string_view pem);

// Accepts a certificate that this CA signed, that is valid at `now`, and that is one of ours.
// Otherwise Unauthenticated, with the reason in words: another cluster, expired (since when), not
// yet valid (is a clock wrong?).
absl::StatusOr<Peer> VerifyCertificate(X509* certificate, X509* ca, UnixTime now);

}  // namespace lanyard::identity
