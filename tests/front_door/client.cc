#include "tests/front_door/client.h"

#include <arpa/inet.h>
#include <netinet/in.h>
#include <netinet/tcp.h>
#include <openssl/err.h>
#include <poll.h>
#include <sys/socket.h>
#include <unistd.h>

#include <cstdlib>

namespace lanyard::front_door {

Client::Client(const std::string& address, Options options) {
  fd_ = ::socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0);
  sockaddr_in at{};
  at.sin_family = AF_INET;
  if (!options.from.empty()) {
    inet_pton(AF_INET, options.from.c_str(), &at.sin_addr);
    if (::bind(fd_, reinterpret_cast<sockaddr*>(&at), sizeof(at)) != 0) return;
  }
  at.sin_port = htons(static_cast<uint16_t>(std::atoi(address.c_str() + address.rfind(':') + 1)));
  at.sin_addr.s_addr = htonl(INADDR_LOOPBACK);
  if (::connect(fd_, reinterpret_cast<sockaddr*>(&at), sizeof(at)) != 0) return;
  connected_ = true;
  const int on = 1;
  ::setsockopt(fd_, IPPROTO_TCP, TCP_NODELAY, &on, sizeof(on));
  if (options.tls == nullptr) return;
  ssl_ = SSL_new(options.tls.get());
  SSL_set_fd(ssl_, fd_);
  ERR_clear_error();
  if (SSL_connect(ssl_) == 1) return;
  connected_ = false;
  const char* reason = ERR_reason_error_string(ERR_peek_last_error());
  error_ = reason != nullptr ? reason : "closed";
}

Client::~Client() {
  SSL_free(ssl_);
  if (fd_ >= 0) ::close(fd_);
}

bool Client::Send(const std::string& bytes) {
  size_t done = 0;
  while (done < bytes.size()) {
    const ssize_t n =
        ssl_ != nullptr
            ? SSL_write(ssl_, bytes.data() + done, static_cast<int>(bytes.size() - done))
            : ::send(fd_, bytes.data() + done, bytes.size() - done, MSG_NOSIGNAL);
    if (n <= 0) return false;
    done += static_cast<size_t>(n);
  }
  return true;
}

bool Client::ReadSome() {
  if (ssl_ == nullptr || SSL_pending(ssl_) == 0) {
    pollfd fd{.fd = fd_, .events = POLLIN, .revents = 0};
    if (::poll(&fd, 1, 10'000) <= 0) return false;
  }
  char buffer[65536];
  const ssize_t n = ssl_ != nullptr ? SSL_read(ssl_, buffer, sizeof(buffer))
                                    : ::recv(fd_, buffer, sizeof(buffer), 0);
  if (n <= 0) {
    closed_ = true;
    if (const char* reason = ERR_reason_error_string(ERR_peek_error());
        ssl_ != nullptr && reason != nullptr)
      error_ = reason;
    return false;
  }
  got_.append(buffer, static_cast<size_t>(n));
  return true;
}

bool Client::ReadUntil(const std::string& text) {
  while (got_.find(text) == std::string::npos) {
    if (!ReadSome()) return false;
  }
  return true;
}

bool Client::ReadToEnd() {
  while (ReadSome()) {
  }
  return closed_;
}

std::string Client::ReadAnswer() {
  if (!ReadUntil("\r\n\r\n")) return got_;
  const size_t head = got_.find("\r\n\r\n") + 4;
  const size_t at = got_.find("Content-Length: ");
  const size_t length = at < head ? std::stoul(got_.substr(at + 16)) : 0;
  while (got_.size() < head + length && ReadSome()) {
  }
  std::string answer = got_.substr(0, head + length);
  got_.erase(0, head + length);
  return answer;
}

std::string Get(const std::string& path, const std::string& headers) {
  return "GET " + path + " HTTP/1.1\r\nHost: localhost\r\n" + headers + "\r\n";
}

std::string Post(const std::string& path, const std::string& body, const std::string& headers) {
  return "POST " + path +
         " HTTP/1.1\r\nHost: localhost\r\nContent-Length: " + std::to_string(body.size()) + "\r\n" +
         headers + "\r\n" + body;
}

int StatusOf(const std::string& answer) {
  return answer.size() < 12 ? 0 : std::atoi(answer.c_str() + 9);
}

std::string BodyOf(const std::string& answer) {
  const size_t at = answer.find("\r\n\r\n");
  return at == std::string::npos ? "" : answer.substr(at + 4);
}

}  // namespace lanyard::front_door
