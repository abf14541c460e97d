#include "net/tls_credentials.h"

#include <grpc/grpc.h>
#include <grpc/grpc_security.h>

#include <atomic>
#include <cstdlib>

#include "absl/strings/str_replace.h"

namespace lanyard::net {
namespace {

// gRPC 1.51 allows TLS 1.2 and has no setting for it. Its cipher list counts for 1.2 alone: with a
// list that our keys (ECDSA) cannot serve, 1.2 never agrees on a cipher. (The acceptor refuses such
// clients before that.)
void ForbidTls12() {
  static const bool once = [] {
    setenv("GRPC_SSL_CIPHER_SUITES", "ECDHE-RSA-AES256-GCM-SHA384", 1);
    return true;
  }();
  static_cast<void>(once);
}

grpc_ssl_server_certificate_config* ConfigOf(const identity::Credential& credential) {
  const std::string chain = credential.certificate_pem;
  const grpc_ssl_pem_key_cert_pair pair{credential.key_pem.c_str(), chain.c_str()};
  return grpc_ssl_server_certificate_config_create(credential.ca_pem.c_str(), &pair, 1);
}

// SslServerCredentials of the C++ API always hold the same certificate; the C API's fetcher is
// asked at each handshake.
class LiveServerCredentials final : public grpc::ServerCredentials {
 public:
  explicit LiveServerCredentials(std::shared_ptr<identity::LiveCredential> live)
      : live_(std::move(live)) {
    core_ = grpc_ssl_server_credentials_create_with_options(
        grpc_ssl_server_credentials_create_options_using_config_fetcher(
            GRPC_SSL_REQUEST_AND_REQUIRE_CLIENT_CERTIFICATE_AND_VERIFY, &Fetch, this));
  }
  ~LiveServerCredentials() override { grpc_server_credentials_release(core_); }

  void SetAuthMetadataProcessor(const std::shared_ptr<grpc::AuthMetadataProcessor>&) override {}

 private:
  int AddPortToServer(const std::string& address, grpc_server* server) override {
    return grpc_server_add_http2_port(server, address.c_str(), core_);
  }

  // gRPC makes one call at a time (it holds the port's lock).
  static grpc_ssl_certificate_config_reload_status Fetch(void* self,
                                                         grpc_ssl_server_certificate_config** out) {
    auto* const credentials = static_cast<LiveServerCredentials*>(self);
    std::shared_ptr<const identity::Credential> now = credentials->live_->Get();
    if (now == credentials->fetched_) return GRPC_SSL_CERTIFICATE_CONFIG_RELOAD_UNCHANGED;
    *out = ConfigOf(*now);
    credentials->fetched_ = std::move(now);
    return GRPC_SSL_CERTIFICATE_CONFIG_RELOAD_NEW;
  }

  const std::shared_ptr<identity::LiveCredential> live_;
  std::shared_ptr<const identity::Credential> fetched_;
  grpc_server_credentials* core_ = nullptr;
};

}  // namespace

std::shared_ptr<grpc::ServerCredentials> ServerTls(
    std::shared_ptr<identity::LiveCredential> credential) {
  ForbidTls12();
  return std::make_shared<LiveServerCredentials>(std::move(credential));
}

std::shared_ptr<grpc::ChannelCredentials> ClientTls(const identity::Credential& credential) {
  ForbidTls12();
  return grpc::SslCredentials({credential.ca_pem, credential.key_pem, credential.certificate_pem});
}

absl::StatusOr<identity::Peer> PeerOf(const grpc::ServerContextBase& context) {
  const auto pem = context.auth_context()->FindPropertyValues(GRPC_X509_PEM_CERT_PROPERTY_NAME);
  if (pem.size() != 1) return absl::UnauthenticatedError("the connection shows no certificate");
  return identity::PeerOfPem({pem[0].data(), pem[0].size()});
}

std::string PeerAddress(const grpc::ServerContextBase& context) {
  const std::string peer = context.peer();  // "ipv4:127.0.0.1:80" "ipv6:%5B::1%5D:80"
  return absl::StrReplaceAll(peer.substr(peer.find(':') + 1),
                             {{"%5B", "["}, {"%5D", "]"}, {"%25", "%"}});
}

}  // namespace lanyard::net
