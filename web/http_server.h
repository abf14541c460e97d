// The HTTP/1.1 front. One I/O thread runs coroutines for all connections; a few handler threads
// answer.
#pragma once

#include <chrono>
#include <cstddef>
#include <cstdint>
#include <functional>
#include <memory>
#include <string>
#include <vector>

#include "base/status.h"
#include "coordinator/access/api_keys.h"
#include "coordinator/access/cluster_admin.h"
#include "coordinator/serve/generator.h"

struct ssl_ctx_st;  // OpenSSL's SSL_CTX

namespace lanyard::web {

struct ServerLimits {
  size_t max_body_bytes = 16u << 20;  // a larger body is a 413
  // Of larger bodies only this many are read and handled at a time, one of each key; the others
  // wait as long as large_body_wait, and are then a 429.
  size_t large_body_bytes = 1u << 20;
  size_t large_bodies = 2;
  size_t max_header_bytes = 16u << 10;  // a larger header is a 431
  size_t max_headers = 100;             // more headers are a 431
  // With more, the oldest connection that has shown no key or certificate yet makes room (of the
  // address that has the most such), then the oldest that has and is given nothing now; where there
  // is none, the new one gets a 503.
  size_t max_connections = 1536;
  // Of these no completion takes any: they are for administrators, /health, and those who are yet
  // to say who they are. Of the others one key may hold half; with more it gets a 429. At most half
  // of max_connections counts.
  size_t reserved_connections = 512;
  // Connections of one address (IPv6: of one /64) without key or certificate; with more, the oldest
  // of them makes room. So many may come at once, as a proxy's do.
  size_t max_strangers_per_client = 512;
  // Bytes that a slow client has not read; with more, its request is cancelled.
  size_t max_queued_bytes = 1u << 20;
  std::chrono::milliseconds handshake_timeout{10'000};  // for TLS
  // For the whole header, however slowly it comes.
  std::chrono::milliseconds header_timeout{10'000};
  std::chrono::milliseconds body_timeout{30'000};  // for the whole body
  std::chrono::milliseconds large_body_wait{60'000};
  std::chrono::milliseconds idle_timeout{60'000};   // of a kept connection between requests
  std::chrono::milliseconds write_timeout{30'000};  // without any progress
  std::chrono::milliseconds ping_interval{10'000};  // in a stream, while there is no text
  double failed_keys_per_second = 10;  // from one address; with more, the answer is a 429
};

struct ServerOptions {
  std::string listen =
      "127.0.0.1:8080";  // ADDRESS:PORT, "localhost:PORT" or "[::1]:PORT"; port 0: a free one
  bool open = false;     // no keys: whoever reaches the port may do everything; loopback only
  bool public_address = false;  // the internet may reach the address, and that is meant
  std::vector<std::string> host_names = {};  // in lower case; what Host may say besides the address
  // Of web pages that may ask besides the server's own: "https://chat.example".
  std::vector<std::string> origins = {};
  ServerLimits limits = {};
  coordinator::ApiKeys* keys = nullptr;  // must outlive the server; null: no key is valid
  // Must outlive the server; null: no machine can join.
  coordinator::ClusterAdmin* cluster = nullptr;
  // Returns the TLS context for the connection that was just accepted, so that certificates are
  // renewed under a running server. The context decides which versions and client certificates are
  // taken; its app data stays unused. Absent: plaintext.
  std::function<std::shared_ptr<ssl_ctx_st>()> tls = {};
  // Decides whether a client certificate that the context verified is an administrator's; see
  // GateOptions.
  std::function<absl::StatusOr<std::string>(const std::string& peer_certificate_pem)> admin_of = {};
};

class HttpServer {
 public:
  // The errors that Start would give for the address, with who has its port: before work that they
  // would waste. `secure`: TLS and keys will be there.
  static absl::Status Check(const ServerOptions& options, bool secure);
  // Binds and serves. The generator must outlive the server. InvalidArgument: the address is
  // malformed, an origin is, or others can reach it and it lacks what that takes (TLS and keys; for
  // a public one also public_address). Unavailable: the port is in use (the text holds the
  // address).
  static absl::StatusOr<std::unique_ptr<HttpServer>> Start(const ServerOptions& options,
                                                           coordinator::Generator* generator);
  // Stops accepting, cancels the answers in flight, closes every connection, joins the threads.
  ~HttpServer();
  HttpServer(const HttpServer&) = delete;
  HttpServer& operator=(const HttpServer&) = delete;

  // "127.0.0.1:8080", with the port that was bound.
  std::string address() const;
  // "http://127.0.0.1:8080"
  std::string url() const;
  // The number of open connections.
  size_t connections() const;

 private:
  struct Impl;
  explicit HttpServer(std::unique_ptr<Impl> impl);
  std::unique_ptr<Impl> impl_;
};

}  // namespace lanyard::web
