#include "identity/tls.h"

#include <openssl/err.h>

namespace lanyard::identity {
namespace {

SslContext NewContext(const SSL_METHOD* method) {
  SslContext context(SSL_CTX_new(method), SSL_CTX_free);
  if (context == nullptr) return context;
  SSL_CTX_set_min_proto_version(context.get(), TLS1_3_VERSION);
  // A resumed session would be checked against the time of its first handshake.
  SSL_CTX_set_session_cache_mode(context.get(), SSL_SESS_CACHE_OFF);
  SSL_CTX_set_num_tickets(context.get(), 0);
  SSL_CTX_set_options(context.get(),
                      SSL_OP_NO_RENEGOTIATION | SSL_OP_NO_COMPRESSION | SSL_OP_NO_TICKET);
  SSL_CTX_set_mode(context.get(), SSL_MODE_RELEASE_BUFFERS);
  return context;
}

}  // namespace

absl::StatusOr<SslContext> MakeServerContext(const Credential& credential,
                                             ClientCertificate client) {
  SslContext context = NewContext(TLS_server_method());
  const X509Ptr leaf = X509FromPem(credential.certificate_pem);
  const X509Ptr ca = X509FromPem(credential.ca_pem);
  if (context == nullptr || leaf == nullptr || ca == nullptr)
    return Internal("cannot make a TLS context: ", OpenSslError());
  if (SSL_CTX_use_certificate(context.get(), leaf.get()) != 1 ||
      SSL_CTX_add1_chain_cert(context.get(), ca.get()) != 1 ||
      SSL_CTX_use_PrivateKey(context.get(), credential.key.get()) != 1) {
    return absl::UnauthenticatedError(
        absl::StrCat("the certificate and its key do not fit: ", OpenSslError()));
  }
  if (client == ClientCertificate::kOptional) {
    X509_STORE* store = SSL_CTX_get_cert_store(context.get());
    X509_STORE_add_cert(store, ca.get());
    SSL_CTX_add_client_CA(context.get(), ca.get());
    SSL_CTX_set_verify(context.get(), SSL_VERIFY_PEER, nullptr);
  }
  return context;
}

absl::StatusOr<SslContext> MakeJoinContext() {
  SslContext context = NewContext(TLS_client_method());
  if (context == nullptr) return Internal("cannot make a TLS context: ", OpenSslError());
  SSL_CTX_set_verify(context.get(), SSL_VERIFY_NONE, nullptr);
  return context;
}

absl::StatusOr<Peer> CheckCoordinatorChain(SSL* ssl, std::string_view ca_fingerprint, UnixTime now,
                                           std::string* ca_pem) {
  STACK_OF(X509)* chain = SSL_get_peer_cert_chain(ssl);
  const int n = chain == nullptr ? 0 : sk_X509_num(chain);
  if (n != 2)
    return absl::PermissionDeniedError(
        "the machine at that address is no coordinator of a Lanyard cluster");
  X509* ca = sk_X509_value(chain, 1);
  if (FingerprintOf(ca) != ca_fingerprint) {
    return absl::PermissionDeniedError(
        absl::StrCat("the machine at that address is the coordinator of cluster ", ClusterIdOf(ca),
                     ", not of the one that the token is for; nothing was told to it"));
  }
  ASSIGN_OR_RETURN(Peer peer, VerifyCertificate(sk_X509_value(chain, 0), ca, now));
  if (peer.role != Role::kCoordinator) {
    return absl::PermissionDeniedError(absl::StrCat("the machine at that address is ",
                                                    RoleName(peer.role), " '", peer.name,
                                                    "', not the coordinator"));
  }
  *ca_pem = PemOf(ca);
  return peer;
}

}  // namespace lanyard::identity
