#include "net/reach.h"

#include <netdb.h>
#include <netinet/in.h>
#include <poll.h>
#include <sys/socket.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <cstring>
#include <memory>

#include "base/clock.h"
#include "net/convert_control.h"

namespace lanyard::net {
namespace {

using AddressList = std::unique_ptr<addrinfo, decltype(&freeaddrinfo)>;

absl::StatusOr<AddressList> Resolve(const std::string& host, const char* port) {
  addrinfo hints{};
  hints.ai_socktype = SOCK_STREAM;
  addrinfo* found = nullptr;
  const int rc = getaddrinfo(host.c_str(), port, &hints, &found);
  AddressList list(found, freeaddrinfo);
  if (rc == 0) return list;
  if (rc == EAI_AGAIN)
    return Unavailable("the name server does not answer for '", host, "': ", gai_strerror(rc));
  return NotFound("the name '", host, "' is not known: ", gai_strerror(rc));
}

class Socket {
 public:
  explicit Socket(const addrinfo& to)
      : fd_(socket(to.ai_family, to.ai_socktype | SOCK_CLOEXEC | SOCK_NONBLOCK, to.ai_protocol)) {}
  ~Socket() {
    if (fd_ >= 0) close(fd_);
  }
  Socket(const Socket&) = delete;
  Socket& operator=(const Socket&) = delete;
  int get() const { return fd_; }

 private:
  const int fd_;
};

uint32_t MtuOf(int fd, int family) {
  int mtu = 0;
  socklen_t size = sizeof(mtu);
  const bool known = family == AF_INET6 ? getsockopt(fd, IPPROTO_IPV6, IPV6_MTU, &mtu, &size) == 0
                                        : getsockopt(fd, IPPROTO_IP, IP_MTU, &mtu, &size) == 0;
  return known && mtu > 0 ? static_cast<uint32_t>(mtu) : 0;
}

absl::StatusOr<Reached> ReachOne(const addrinfo& to, const std::string& address, TimeNs end,
                                 int timeout_ms) {
  const Socket socket(to);
  if (socket.get() < 0) return Unavailable("no socket: ", std::strerror(errno));
  const TimeNs start = MonotonicNow();
  int error = connect(socket.get(), to.ai_addr, to.ai_addrlen) == 0 ? 0 : errno;
  if (error == EINPROGRESS) {
    pollfd wait{.fd = socket.get(), .events = POLLOUT, .revents = 0};
    const auto left_ms = static_cast<int>(std::max<TimeNs>(0, end - start) / kMillisecond);
    if (poll(&wait, 1, left_ms) <= 0) {
      return absl::DeadlineExceededError(
          absl::StrCat(address, " does not answer within ", timeout_ms, " ms"));
    }
    socklen_t size = sizeof(error);
    getsockopt(socket.get(), SOL_SOCKET, SO_ERROR, &error, &size);
  }
  if (error != 0) return Unavailable(address, ": ", std::strerror(error));
  return Reached{static_cast<uint64_t>(MonotonicNow() - start), MtuOf(socket.get(), to.ai_family)};
}

}  // namespace

void SplitAddress(const std::string& address, std::string* host, std::string* port) {
  const size_t colon = address.rfind(':');
  *host = address.substr(0, colon);
  *port = address.substr(colon + 1);
  if (host->size() >= 2 && host->front() == '[' && host->back() == ']')
    *host = host->substr(1, host->size() - 2);
}

absl::StatusOr<std::vector<std::string>> ResolveHost(const std::string& host) {
  ASSIGN_OR_RETURN(const AddressList list, Resolve(host, nullptr));
  std::vector<std::string> out;
  for (const addrinfo* a = list.get(); a != nullptr; a = a->ai_next) {
    char text[NI_MAXHOST] = {};
    if (getnameinfo(a->ai_addr, a->ai_addrlen, text, sizeof(text), nullptr, 0, NI_NUMERICHOST) != 0)
      continue;
    if (std::find(out.begin(), out.end(), text) == out.end()) out.emplace_back(text);
  }
  return out;
}

absl::StatusOr<Reached> Reach(const std::string& address, int timeout_ms) {
  RETURN_IF_ERROR(CheckAddress(address));
  std::string host, port;
  SplitAddress(address, &host, &port);
  ASSIGN_OR_RETURN(const AddressList list, Resolve(host, port.c_str()));
  const TimeNs end = MonotonicNow() + timeout_ms * kMillisecond;
  absl::Status last = Unavailable(address, ": no address");
  for (const addrinfo* a = list.get(); a != nullptr; a = a->ai_next) {
    absl::StatusOr<Reached> reached = ReachOne(*a, address, end, timeout_ms);
    if (reached.ok()) return reached;
    last = reached.status();
  }
  return last;
}

}  // namespace lanyard::net
