// One connection's bytes, in plaintext or TLS, with time-outs. It is used by one coroutine at a
// time, on the I/O thread only.
#pragma once

#include <openssl/ssl.h>

#include <boost/asio/as_tuple.hpp>
#include <boost/asio/awaitable.hpp>
#include <boost/asio/buffer.hpp>
#include <boost/asio/ip/tcp.hpp>
#include <boost/asio/ssl/stream.hpp>
#include <boost/asio/use_awaitable.hpp>
#include <boost/beast/core/tcp_stream.hpp>
#include <chrono>
#include <memory>
#include <string>
#include <tuple>

namespace lanyard::web {

namespace asio = boost::asio;
using asio::ip::tcp;

inline constexpr auto kToken = asio::as_tuple(asio::use_awaitable);

// Makes the kernel give a connection up whose peer has answered nothing for two minutes, as one
// does that lost its power or its network.
void NoticeLostPeer(tcp::socket& socket);

class Transport {
 public:
  using Result = std::tuple<boost::system::error_code, size_t>;

  explicit Transport(tcp::socket socket) : tcp_(std::move(socket)) {}

  enum class Greeting { kTls, kPlaintext, kFailed };
  // Does the server's part of TLS. kPlaintext: the client's first bytes are not TLS, and nothing
  // has been answered yet.
  asio::awaitable<Greeting> StartTls(std::shared_ptr<SSL_CTX> context);
  // The certificate (PEM) that the client showed and the context verified; empty without one.
  const std::string& peer_certificate_pem() const { return peer_certificate_pem_; }

  asio::awaitable<Result> Read(asio::mutable_buffer to);
  asio::awaitable<Result> WriteSome(asio::const_buffer from);
  // TLS only, once: closes properly, so that the client knows that nothing was cut off. It waits
  // for the client's goodbye, or until the client sends something else.
  asio::awaitable<void> SayGoodbye(std::chrono::milliseconds timeout);
  // Reads what comes after the goodbye, of which nobody makes anything.
  asio::awaitable<Result> Discard(asio::mutable_buffer to);

  // The next calls together may take this long; then the socket is closed, and they end with an
  // error.
  void ExpireAfter(std::chrono::milliseconds timeout) { tcp_.expires_after(timeout); }
  void ExpireNever() { tcp_.expires_never(); }
  void Close() { tcp_.close(); }
  tcp::socket& socket() { return tcp_.socket(); }

 private:
  boost::beast::tcp_stream tcp_;
  std::unique_ptr<asio::ssl::stream<boost::beast::tcp_stream&>> tls_;
  std::string peer_certificate_pem_;
  bool said_goodbye_ = false;
};

}  // namespace lanyard::web
