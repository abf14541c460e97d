#include "identity/tls.h"

#include <openssl/err.h>

#include "absl/strings/ascii.h"

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

constexpr char kTls12Ciphers[] =
    "ECDHE-ECDSA-AES128-GCM-SHA256:ECDHE-RSA-AES128-GCM-SHA256:"
    "ECDHE-ECDSA-AES256-GCM-SHA384:ECDHE-RSA-AES256-GCM-SHA384:"
    "ECDHE-ECDSA-CHACHA20-POLY1305:ECDHE-RSA-CHACHA20-POLY1305";

absl::Status Show(SSL_CTX* context, const ServerCertificate& shown) {
  bool good = SSL_CTX_use_certificate(context, shown.chain.front().get()) == 1;
  for (size_t i = 1; i < shown.chain.size(); ++i)
    good = good && SSL_CTX_add1_chain_cert(context, shown.chain[i].get()) == 1;
  if (good && SSL_CTX_use_PrivateKey(context, shown.key.get()) == 1) return absl::OkStatus();
  return absl::UnauthenticatedError(
      absl::StrCat("the certificate and its key do not fit: ", OpenSslError()));
}

absl::StatusOr<std::shared_ptr<const ServerCertificate>> OfCluster(const Credential& credential) {
  return ServerCertificate::FromPem(credential.certificate_pem + credential.ca_pem,
                                    credential.key_pem);
}

// The contexts of the names that have one of their own.
using ByName = std::map<std::string, SslContext>;

int ByNameIndex() {
  static const int index = SSL_CTX_get_ex_new_index(
      0, nullptr, nullptr, nullptr, [](void*, void* data, CRYPTO_EX_DATA*, int, long, void*) {
        delete static_cast<ByName*>(data);
      });
  return index;
}

// Called in every handshake, with and without a name, once the version is chosen.
int OnServerName(SSL* ssl, int* /*alert*/, void* /*unused*/) {
  if (SSL_version(ssl) < TLS1_3_VERSION) SSL_set_verify(ssl, SSL_VERIFY_NONE, nullptr);
  const char* name = SSL_get_servername(ssl, TLSEXT_NAMETYPE_host_name);
  const auto* by_name =
      static_cast<const ByName*>(SSL_CTX_get_ex_data(SSL_get_SSL_CTX(ssl), ByNameIndex()));
  if (name == nullptr || by_name == nullptr) return SSL_TLSEXT_ERR_NOACK;
  const auto found = by_name->find(absl::AsciiStrToLower(name));
  if (found != by_name->end()) SSL_set_SSL_CTX(ssl, found->second.get());
  return SSL_TLSEXT_ERR_OK;
}

absl::StatusOr<SslContext> HttpsContextOf(const ServerCertificate& shown, X509* clients_ca,
                                          bool tls12) {
  SslContext context = NewContext(TLS_server_method());
  if (context == nullptr) return Internal("cannot make a TLS context: ", OpenSslError());
  SSL_CTX* const c = context.get();
  if (tls12 && (SSL_CTX_set_min_proto_version(c, TLS1_2_VERSION) != 1 ||
                SSL_CTX_set_cipher_list(c, kTls12Ciphers) != 1)) {
    return Internal("cannot use TLS 1.2: ", OpenSslError());
  }
  RETURN_IF_ERROR(Show(c, shown));
  X509_STORE_add_cert(SSL_CTX_get_cert_store(c), clients_ca);
  SSL_CTX_add_client_CA(c, clients_ca);
  SSL_CTX_set_verify(c, SSL_VERIFY_PEER, nullptr);
  return context;
}

}  // namespace

absl::StatusOr<SslContext> MakeServerContext(const Credential& credential) {
  SslContext context = NewContext(TLS_server_method());
  if (context == nullptr) return Internal("cannot make a TLS context: ", OpenSslError());
  ASSIGN_OR_RETURN(const auto shown, OfCluster(credential));
  RETURN_IF_ERROR(Show(context.get(), *shown));
  return context;
}

absl::StatusOr<SslContext> MakeHttpsContext(const HttpsContextParts& parts) {
  const X509Ptr ca = X509FromPem(parts.cluster->ca_pem);
  if (ca == nullptr) return Internal("the cluster's CA is not PEM");
  ASSIGN_OR_RETURN(const auto cluster, OfCluster(*parts.cluster));
  const ServerCertificate& usual = parts.usual != nullptr ? *parts.usual : *cluster;
  ASSIGN_OR_RETURN(SslContext out, HttpsContextOf(usual, ca.get(), parts.tls12));
  auto by_name = std::make_unique<ByName>();
  for (const auto& [name, shown] : parts.by_name) {
    ASSIGN_OR_RETURN((*by_name)[name], HttpsContextOf(*shown, ca.get(), parts.tls12));
  }
  ASSIGN_OR_RETURN((*by_name)[TlsName(Role::kCoordinator, "")],
                   HttpsContextOf(*cluster, ca.get(), parts.tls12));
  if (SSL_CTX_set_ex_data(out.get(), ByNameIndex(), by_name.get()) != 1)
    return Internal("cannot make a TLS context: ", OpenSslError());
  static_cast<void>(by_name.release());  // its context frees it
  SSL_CTX_set_tlsext_servername_callback(out.get(), OnServerName);
  return out;
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
