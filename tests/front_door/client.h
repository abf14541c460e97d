// A blocking HTTP/1.1 client for tests, in plaintext or TLS. It sends any bytes from any loopback
// address.
#pragma once

#include <openssl/ssl.h>

#include <memory>
#include <string>

namespace lanyard::front_door {

class Client {
 public:
  struct Options {
    std::string from;              // a source address such as 127.0.0.2; empty: any
    std::shared_ptr<SSL_CTX> tls;  // null: plaintext
  };
  // `address` is "127.0.0.1:PORT". A failed TLS handshake leaves connected() false and error() in
  // OpenSSL's words.
  Client(const std::string& address, Options options);
  explicit Client(const std::string& address) : Client(address, Options()) {}
  ~Client();
  Client(const Client&) = delete;
  Client& operator=(const Client&) = delete;

  bool connected() const { return connected_; }
  const std::string& error() const { return error_; }
  bool Send(const std::string& bytes);
  // Reads until `text` was seen; false when the peer closed, or after 10 s.
  bool ReadUntil(const std::string& text);
  // Returns true when the peer closed.
  bool ReadToEnd();
  // Reads one answer with Content-Length and leaves the rest.
  std::string ReadAnswer();
  const std::string& got() const { return got_; }

 private:
  bool ReadSome();

  int fd_ = -1;
  SSL* ssl_ = nullptr;
  bool connected_ = false;
  bool closed_ = false;
  std::string got_;
  std::string error_;
};

std::string Get(const std::string& path, const std::string& headers = "");
std::string Post(const std::string& path, const std::string& body, const std::string& headers = "");
int StatusOf(const std::string& answer);
std::string BodyOf(const std::string& answer);

}  // namespace lanyard::front_door
