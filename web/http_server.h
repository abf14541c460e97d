// The HTTP/1.1 front: one I/O thread of coroutines for all connections, a few handler threads.
#pragma once

#include <cstddef>
#include <chrono>
#include <cstdint>
#include <functional>
#include <memory>
#include <string>

#include "base/status.h"
#include "coordinator/serve/generator.h"
#include "web/router.h"

namespace lanyard::web {

struct ServerLimits {
  size_t max_body_bytes = 16u << 20;    // beyond: 413
  size_t max_header_bytes = 16u << 10;  // beyond: 431
  size_t max_headers = 100;             // beyond: 431
  size_t max_connections = 1024;        // beyond: 503
  size_t max_queued_bytes = 1u << 20;   // unread by a slow client; beyond: its request is cancelled
  std::chrono::milliseconds header_timeout{10'000};
  std::chrono::milliseconds body_timeout{30'000};
  std::chrono::milliseconds idle_timeout{60'000};   // of a kept connection
  std::chrono::milliseconds write_timeout{30'000};  // without any progress
  std::chrono::milliseconds ping_interval{10'000};  // of a stream without text
};

struct ServerOptions {
  std::string listen = "127.0.0.1:8080";  // ADDRESS:PORT, "localhost:PORT" or "[::1]:PORT"; port 0: a free one
  bool insecure_lan = false;              // needed for any address that is not loopback; the server logs a warning
  ServerLimits limits;
  // The seam for keys and roles; asked before every handler. Absent: everybody may do everything.
  std::function<absl::Status(const Request&, Access)> authorize;
};

class HttpServer {
 public:
  // Binds and serves. The generator must outlive the server. InvalidArgument: the address is malformed or needs
  // insecure_lan. Unavailable: the port is in use (the text holds the address).
  static absl::StatusOr<std::unique_ptr<HttpServer>> Start(const ServerOptions& options,
                                                           coordinator::Generator* generator);
  // Stops accepting, cancels the answers in flight, closes every connection, joins the threads.
  ~HttpServer();
  HttpServer(const HttpServer&) = delete;
  HttpServer& operator=(const HttpServer&) = delete;

  // "127.0.0.1:8080", with the port that was bound.
  std::string address() const;
  // Open connections now.
  size_t connections() const;

 private:
  struct Impl;
  explicit HttpServer(std::unique_ptr<Impl> impl);
  std::unique_ptr<Impl> impl_;
};

}  // namespace lanyard::web
