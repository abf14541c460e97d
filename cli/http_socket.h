// A connection for HttpClient: a socket with time-outs, in plaintext or TLS. Its errors say in
// words what to do next.
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
  std::string cert;  // this client's certificate, PEM; empty: none
  std::string key;   // the key of that certificate, PEM
};
// InvalidArgument names the file that holds something else, or does not belong to the other one; of
// one that cannot be read the error is that of FileError (base/file.h).
absl::StatusOr<std::shared_ptr<ssl_ctx_st>> MakeTlsContext(const TlsFiles& files);

struct SocketOptions {
  std::string url;  // for errors
  std::string host;
  std::string port;
  int connect_timeout_ms = 5'000;  // TLS handshake included
  int silence_timeout_ms = 600'000;
  const std::atomic<bool>* stop = nullptr;
  std::shared_ptr<ssl_ctx_st> tls;  // null: plaintext
  std::string tls_name;             // the name that the certificate must be for; empty: the host
  TlsFiles files;                   // for errors
};

class HttpSocket {
 public:
  // Unavailable: no server answers. Unauthenticated: it is not the server that it should be
  // (unknown CA, expired certificate, another name). FailedPrecondition: it does not speak TLS.
  static absl::StatusOr<std::unique_ptr<HttpSocket>> Connect(const SocketOptions& options);
  // To close early tells the pool to cancel the request.
  ~HttpSocket();
  HttpSocket(const HttpSocket&) = delete;
  HttpSocket& operator=(const HttpSocket&) = delete;

  // The result is OK also when the other side stopped reading, since its answer may be here
  // already.
  absl::Status Send(std::string_view bytes);
  // Returns 0 when the other side ended. Unauthenticated: it refused this client's certificate.
  absl::StatusOr<size_t> Receive(char* to, size_t bytes);

 private:
  struct Verdict;  // what was wrong with the certificate

  HttpSocket(const SocketOptions& options, int fd);
  absl::Status Handshake();
  // Waits for what OpenSSL needs; an error when it needs nothing.
  absl::Status WaitForTls(int result, int timeout_ms);
  absl::Status TlsError() const;

  const SocketOptions options_;
  const int fd_;
  ssl_st* ssl_ = nullptr;
  std::unique_ptr<Verdict> verdict_;
};

}  // namespace lanyard::cli
