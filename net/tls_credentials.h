// gRPC's side of identities: credentials that use the current certificate in each handshake, and
// the question who a peer is.
#pragma once

#include <grpcpp/security/credentials.h>
#include <grpcpp/security/server_credentials.h>
#include <grpcpp/server_context.h>

#include <memory>
#include <string>

#include "base/status.h"
#include "identity/credential.h"
#include "identity/peer.h"

namespace lanyard::net {

// Both sides show certificates of the cluster. The server asks `credential` for its own at each
// handshake.
std::shared_ptr<grpc::ServerCredentials> ServerTls(
    std::shared_ptr<identity::LiveCredential> credential);
std::shared_ptr<grpc::ChannelCredentials> ClientTls(const identity::Credential& credential);

// The peer whose certificate TLS checked. Unauthenticated when there is none, or when it names no
// node.
absl::StatusOr<identity::Peer> PeerOf(const grpc::ServerContextBase& context);
// "10.0.0.7:41222", in the form in which the acceptor names connections.
std::string PeerAddress(const grpc::ServerContextBase& context);

}  // namespace lanyard::net
