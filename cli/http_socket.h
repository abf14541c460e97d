// A connection for HttpClient: a socket with time-outs, in plaintext or TLS. Errors are in words
// that say what to do next.
#pragma once

#include <atomic>
#include <memory>
#include <string>
#include <string_view>

#include "base/status.h"

struct ssl_ctx_st;  // OpenSSL's SSL_CTX
struct ssl_st;      // OpenSSL's SSL

namespace lanyard::cli {

struct TlsFiles {
  std::string ca;    // PEM; empty: the system's CAs
  std::string cert;  // PEM; of this client; empty: none
  std::string key;   // PEM; of that certificate
};
// InvalidArgument names the file that cannot be read, or that does not belong to the other.
absl::StatusOr<std::shared_ptr<ssl_ctx_st>> MakeTlsContext(const TlsFiles& files);

struct SocketOptions {
  std::string url;  // for errors
  std::string host;
  std::string port;
  int connect_timeout_ms = 5'000;  // TLS included
  int silence_timeout_ms = 600'000;
  const std::atomic<bool>* stop = nullptr;
  std::shared_ptr<ssl_ctx_st> tls;  // null: plaintext
  std::string tls_name;             // what the certificate must be for; empty: the host
  TlsFiles files;                   // for errors
};

class HttpSocket {
 public:
  // Unavailable: nobody answers. Unauthenticated: it is not who it should be (unknown CA, expired,
  // another name). FailedPrecondition: it does not speak TLS.
  static absl::StatusOr<std::unique_ptr<HttpSocket>> Connect(const SocketOptions& options);
  // Closing early is what tells the pool to cancel.
  ~HttpSocket();
  HttpSocket(const HttpSocket&) = delete;
  HttpSocket& operator=(const HttpSocket&) = delete;

  // OK also when the other side stopped reading: its answer may be here already.
  absl::Status Send(std::string_view bytes);
  // 0: the other side ended. Unauthenticated: it refused this client's certificate.
  absl::StatusOr<size_t> Receive(char* to, size_t bytes);

 private:
  struct Verdict;  // what was wrong with the certificate

  HttpSocket(const SocketOptions& options, int fd);
  absl::Status Handshake();
  // Waits for what OpenSSL wants; an error when it wants nothing.
  absl::Status WaitForTls(int result, int timeout_ms);
  absl::Status TlsError() const;

  const SocketOptions options_;
  const int fd_;
  ssl_st* ssl_ = nullptr;
  std::unique_ptr<Verdict> verdict_;
};

}  // namespace lanyard::cli
