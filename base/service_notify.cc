#include "base/service_notify.h"

#include <sys/socket.h>
#include <sys/un.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <charconv>
#include <cstddef>
#include <cstring>

#include "base/environment.h"
#include "base/log.h"

namespace lanyard {
namespace {

std::string OneLine(std::string text) {
  std::replace_if(
      text.begin(), text.end(), [](char c) { return static_cast<unsigned char>(c) < 0x20; }, ' ');
  return text;
}

int64_t NumberOr(const std::string& text, int64_t fallback) {
  int64_t value = 0;
  const auto [end, error] = std::from_chars(text.data(), text.data() + text.size(), value);
  return error == std::errc() && end == text.data() + text.size() && value > 0 ? value : fallback;
}

}  // namespace

ServiceNotifier ServiceNotifier::FromEnvironment() {
  const int64_t usec = NumberOr(EnvironmentOr("WATCHDOG_USEC", ""), 0);
  const bool ours = NumberOr(EnvironmentOr("WATCHDOG_PID", ""), getpid()) == getpid();
  return {EnvironmentOr("NOTIFY_SOCKET", ""), ours ? usec * 1000 : 0};
}

void ServiceNotifier::Ready(const std::string& status) {
  if (ready_) return Status(status);
  ready_ = true;
  last_status_ = OneLine(status);
  Send("READY=1\nSTATUS=" + last_status_);
}

void ServiceNotifier::Status(const std::string& status) {
  std::string line = OneLine(status);
  if (line == last_status_) return;
  last_status_ = std::move(line);
  Send("STATUS=" + last_status_);
}

void ServiceNotifier::Alive() { Send("WATCHDOG=1"); }

void ServiceNotifier::Stopping(const std::string& status) {
  last_status_ = OneLine(status);
  Send("STOPPING=1\nSTATUS=" + last_status_);
}

void ServiceNotifier::Send(const std::string& text) {
  if (!supervised()) return;
  sockaddr_un to{};
  to.sun_family = AF_UNIX;
  std::string why = "the path is too long";
  if (socket_.size() < sizeof(to.sun_path)) {
    std::memcpy(to.sun_path, socket_.data(), socket_.size());
    if (socket_[0] == '@') to.sun_path[0] = '\0';
    const int fd = ::socket(AF_UNIX, SOCK_DGRAM | SOCK_CLOEXEC, 0);
    const auto size = static_cast<socklen_t>(offsetof(sockaddr_un, sun_path) + socket_.size());
    const bool sent = fd >= 0 && ::sendto(fd, text.data(), text.size(), MSG_NOSIGNAL,
                                          reinterpret_cast<const sockaddr*>(&to), size) >= 0;
    why = std::strerror(errno);
    if (fd >= 0) ::close(fd);
    if (sent) return;
  }
  if (!complained_)
    LogWarning("the supervisor's socket NOTIFY_SOCKET=", socket_, " takes nothing: ", why);
  complained_ = true;
}

}  // namespace lanyard
