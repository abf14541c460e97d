#include "web/transport.h"

#include <netinet/in.h>
#include <netinet/tcp.h>
#include <openssl/bio.h>
#include <openssl/err.h>
#include <openssl/pem.h>
#include <openssl/x509.h>
#include <sys/socket.h>

#include <array>

namespace lanyard::web {
namespace {

constexpr char kTlsHandshakeRecord = 0x16;  // RFC 8446, 5.1

std::string VerifiedPeerPem(SSL* ssl) {
  const std::unique_ptr<X509, decltype(&X509_free)> certificate(SSL_get1_peer_certificate(ssl),
                                                                X509_free);
  if (certificate == nullptr || SSL_get_verify_result(ssl) != X509_V_OK) return "";
  const std::unique_ptr<BIO, decltype(&BIO_free_all)> bio(BIO_new(BIO_s_mem()), BIO_free_all);
  if (bio == nullptr || PEM_write_bio_X509(bio.get(), certificate.get()) != 1) return "";
  char* data = nullptr;
  const long n = BIO_get_mem_data(bio.get(), &data);
  return n > 0 ? std::string(data, static_cast<size_t>(n)) : std::string();
}

}  // namespace

void NoticeLostPeer(tcp::socket& socket) {
  const auto set = [&socket](int level, int name, int value) {
    ::setsockopt(socket.native_handle(), level, name, &value, sizeof(value));
  };
  set(SOL_SOCKET, SO_KEEPALIVE, 1);
  set(IPPROTO_TCP, TCP_KEEPIDLE, 60);   // seconds
  set(IPPROTO_TCP, TCP_KEEPINTVL, 15);  // seconds
  set(IPPROTO_TCP, TCP_KEEPCNT, 4);
  set(IPPROTO_TCP, TCP_USER_TIMEOUT, 120'000);  // milliseconds, while something is unacknowledged
}

asio::awaitable<Transport::Greeting> Transport::StartTls(std::shared_ptr<SSL_CTX> context) {
  std::array<char, 4096> first{};
  auto [read_error, n] = co_await tcp_.async_read_some(asio::buffer(first), kToken);
  if (read_error) co_return Greeting::kFailed;
  if (first[0] != kTlsHandshakeRecord) co_return Greeting::kPlaintext;
  SSL* const ssl = context != nullptr ? SSL_new(context.get()) : nullptr;
  if (ssl == nullptr) {
    ERR_clear_error();
    co_return Greeting::kFailed;
  }
  // There are no tickets: a resumed session would carry a client's certificate past its revocation,
  // and keys past their renewal.
  SSL_set_options(ssl, SSL_OP_NO_TICKET | SSL_OP_NO_RENEGOTIATION);
  SSL_set_num_tickets(ssl, 0);
  SSL_set_mode(ssl, SSL_MODE_RELEASE_BUFFERS);
  tls_ = std::make_unique<asio::ssl::stream<boost::beast::tcp_stream&>>(tcp_, ssl);
  auto [error, used] = co_await tls_->async_handshake(asio::ssl::stream_base::server,
                                                      asio::buffer(first.data(), n), kToken);
  if (error) {
    // A last message of OpenSSL's (an alert) may be on its way, so the destructor closes the socket
    // without a reset.
    co_return Greeting::kFailed;
  }
  // Without tickets the server has nothing to send now; a client with Nagle's algorithm on would
  // wait 40 ms for the acknowledgement of its handshake before it asks.
  const int on = 1;
  ::setsockopt(tcp_.socket().native_handle(), IPPROTO_TCP, TCP_QUICKACK, &on, sizeof(on));
  peer_certificate_pem_ = VerifiedPeerPem(tls_->native_handle());
  co_return Greeting::kTls;
}

asio::awaitable<Transport::Result> Transport::Read(asio::mutable_buffer to) {
  if (tls_ != nullptr) co_return co_await tls_->async_read_some(to, kToken);
  co_return co_await tcp_.async_read_some(to, kToken);
}

asio::awaitable<Transport::Result> Transport::WriteSome(asio::const_buffer from) {
  if (tls_ != nullptr) co_return co_await tls_->async_write_some(from, kToken);
  co_return co_await tcp_.async_write_some(from, kToken);
}

asio::awaitable<void> Transport::SayGoodbye(std::chrono::milliseconds timeout) {
  if (said_goodbye_) co_return;
  said_goodbye_ = true;
  ExpireAfter(timeout);
  if (tls_ != nullptr) co_await tls_->async_shutdown(kToken);
}

asio::awaitable<Transport::Result> Transport::Discard(asio::mutable_buffer to) {
  co_return co_await tcp_.async_read_some(to, kToken);
}

}  // namespace lanyard::web
