#include "net/acceptor.h"

#include <arpa/inet.h>
#include <fcntl.h>
#include <netdb.h>
#include <netinet/tcp.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <unistd.h>

#include <algorithm>
#include <array>
#include <boost/asio/as_tuple.hpp>
#include <boost/asio/awaitable.hpp>
#include <boost/asio/co_spawn.hpp>
#include <boost/asio/detached.hpp>
#include <boost/asio/io_context.hpp>
#include <boost/asio/ip/tcp.hpp>
#include <boost/asio/post.hpp>
#include <boost/asio/steady_timer.hpp>
#include <boost/asio/use_awaitable.hpp>
#include <cerrno>
#include <cstring>
#include <list>
#include <map>
#include <thread>

#include "base/clock.h"
#include "base/log.h"
#include "net/client_hello.h"
#include "net/join.h"

namespace lanyard::net {
namespace {

namespace asio = boost::asio;
using asio::ip::tcp;
constexpr auto kWithErrorCode = asio::as_tuple(asio::use_awaitable);
constexpr TimeNs kTick = 100 * kMillisecond;
constexpr int kBacklog = 512;
// gRPC sets this on its own listeners (keepalive time-out).
constexpr int kUserTimeoutMs = 1000;

IpAddress AddressOf(const tcp::endpoint& from) {
  const asio::ip::address address = from.address();
  if (address.is_v6()) return IpAddress(address.to_v6().to_bytes());
  const auto v4 = address.to_v4().to_bytes();
  return IpAddress::V4(v4[0], v4[1], v4[2], v4[3]);
}

std::string PeerText(const tcp::endpoint& from) {
  asio::ip::address address = from.address();
  if (address.is_v6() && address.to_v6().is_v4_mapped()) {
    address = asio::ip::make_address_v4(asio::ip::v4_mapped, address.to_v6());
  }
  const std::string text = address.to_string();
  return absl::StrCat(address.is_v4() ? text : "[" + text + "]", ":", from.port());
}

ino_t InodeOf(int fd) {
  struct stat info {};
  return fstat(fd, &info) == 0 ? info.st_ino : 0;
}

absl::StatusOr<int> Listen(const std::string& host, const std::string& port) {
  const std::string where = absl::StrCat(host, ":", port);
  addrinfo hints{};
  hints.ai_socktype = SOCK_STREAM;
  hints.ai_flags = AI_PASSIVE;
  addrinfo* found = nullptr;
  const int rc = getaddrinfo(host.empty() ? nullptr : host.c_str(), port.c_str(), &hints, &found);
  if (rc != 0) return Unavailable("cannot listen on ", where, ": ", gai_strerror(rc));
  const std::unique_ptr<addrinfo, decltype(&freeaddrinfo)> owner(found, freeaddrinfo);
  const int fd = socket(found->ai_family, SOCK_STREAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0);
  const int one = 1;
  const int zero = 0;
  if (fd >= 0) setsockopt(fd, SOL_SOCKET, SO_REUSEADDR, &one, sizeof(one));
  if (fd >= 0 && found->ai_family == AF_INET6)
    setsockopt(fd, IPPROTO_IPV6, IPV6_V6ONLY, &zero, sizeof(zero));
  if (fd >= 0 && bind(fd, found->ai_addr, found->ai_addrlen) == 0 && listen(fd, kBacklog) == 0)
    return fd;
  const int error = errno;
  if (fd >= 0) close(fd);
  return Unavailable(
      "cannot listen on ", where, ": ", std::strerror(error), " (errno ", error, ")",
      error == EADDRINUSE ? "; stop what uses the port, or choose another with --listen" : "");
}

class AcceptorImpl final : public Acceptor {
 public:
  explicit AcceptorImpl(Options options)
      : options_(std::move(options)), listener_(io_), tick_(io_) {
    if (options_.limits.networks.empty()) options_.limits.networks = OfficeNetworks();
  }

  ~AcceptorImpl() override {
    io_.stop();
    if (thread_.joinable()) thread_.join();
  }

  absl::Status Start() {
    ASSIGN_OR_RETURN(const int fd, Listen(options_.host, options_.port));
    sockaddr_storage bound{};
    socklen_t length = sizeof(bound);
    getsockname(fd, reinterpret_cast<sockaddr*>(&bound), &length);
    boost::system::error_code ec;
    listener_.assign(bound.ss_family == AF_INET ? tcp::v4() : tcp::v6(), fd, ec);
    if (ec) {
      close(fd);
      return Unavailable("cannot listen on ", options_.host, ":", options_.port, ": ",
                         ec.message());
    }
    port_ = listener_.local_endpoint(ec).port();
    asio::co_spawn(io_, AcceptLoop(), asio::detached);
    asio::co_spawn(io_, TickLoop(), asio::detached);
    thread_ = std::thread([this] { io_.run(); });
    return absl::OkStatus();
  }

  uint16_t port() const override { return port_; }
  void CutAllBut(std::set<std::string> peers) override {
    asio::post(io_, [this, peers = std::move(peers)] {
      for (const auto& [peer, handed] : handed_) {
        if (handed.grpc && peers.count(peer) == 0) Shut(handed);
      }
    });
  }

 private:
  struct Greeting {
    tcp::socket socket;
    IpAddress address;  // the client's
    std::string peer;
    TimeNs deadline;
  };
  struct Handed {
    int fd;
    ino_t inode;  // gRPC closes the descriptor, and another file may have its number then
    IpAddress address;
    bool grpc;  // false: a joining machine's
  };
  static void Shut(const Handed& handed) {
    if (InodeOf(handed.fd) == handed.inode) shutdown(handed.fd, SHUT_RDWR);
  }
  struct OfAddress {
    int greeting = 0;
    int handed = 0;
    int new_this_second = 0;
  };

  asio::awaitable<void> AcceptLoop() {
    while (true) {
      auto [ec, socket] = co_await listener_.async_accept(kWithErrorCode);
      if (ec == asio::error::operation_aborted) co_return;
      if (ec) {
        // There are no descriptors left, or the client has gone already; the others wait in the
        // backlog.
        asio::steady_timer pause(io_, std::chrono::milliseconds(10));
        co_await pause.async_wait(kWithErrorCode);
        continue;
      }
      Admit(std::move(socket));
    }
  }

  asio::awaitable<void> TickLoop() {
    int ticks = 0;
    while (true) {
      tick_.expires_after(std::chrono::nanoseconds(kTick));
      const auto [ec] = co_await tick_.async_wait(kWithErrorCode);
      if (ec) co_return;
      const TimeNs now = MonotonicNow();
      for (Greeting& greeting : greetings_) {
        boost::system::error_code ignored;
        // The socket's coroutine ends it.
        if (now > greeting.deadline) greeting.socket.cancel(ignored);
      }
      Prune();
      if (++ticks % 10 == 0) {
        for (auto& [address, of] : addresses_) of.new_this_second = 0;
        std::erase_if(addresses_, [](const auto& entry) {
          return entry.second.greeting + entry.second.handed == 0;
        });
        TellRefused();
      }
    }
  }

  void Prune() {
    for (auto it = handed_.begin(); it != handed_.end();) {
      if (InodeOf(it->second.fd) == it->second.inode) {
        ++it;
        continue;
      }
      --addresses_[it->second.address].handed;
      it = handed_.erase(it);
    }
  }

  void TellRefused() {
    const uint64_t refused = refused_network_ + refused_limit_ + refused_hello_;
    if (refused == told_refused_) return;
    LogWarning("refused ", refused - told_refused_, " connections in the last second on port ",
               port_, " (of all: ", refused_network_, " from other networks, ", refused_limit_,
               " beyond limits, ", refused_hello_, " that do not speak TLS 1.3)");
    told_refused_ = refused;
  }

  void Admit(tcp::socket socket) {
    boost::system::error_code ec;
    const tcp::endpoint from = socket.remote_endpoint(ec);
    if (ec) return;
    const AcceptLimits& limits = options_.limits;
    const IpAddress numeric = AddressOf(from);
    if (std::none_of(limits.networks.begin(), limits.networks.end(),
                     [&](const Network& network) { return network.Contains(numeric); })) {
      ++refused_network_;
      return;
    }
    const IpAddress address = numeric.Client();
    OfAddress& of = addresses_[address];
    if (static_cast<int>(handed_.size()) >= limits.max_connections) Prune();
    if (static_cast<int>(handed_.size() + greetings_.size()) >= limits.max_connections ||
        of.handed + of.greeting >= limits.max_per_address ||
        of.greeting >= limits.max_greeting_per_address ||
        ++of.new_this_second > limits.max_new_per_second) {
      ++refused_limit_;
      return;  // it was closed
    }
    Greeting greeting{std::move(socket), address, PeerText(from),
                      MonotonicNow() + limits.hello_timeout_ms * kMillisecond};
    if (!options_.tls) {
      HandOn(greeting, options_.grpc);
      return;
    }
    if (static_cast<int>(greetings_.size()) >= limits.max_greeting) DropSlowest();
    ++of.greeting;
    greetings_.push_back(std::move(greeting));
    asio::co_spawn(io_, Greet(std::prev(greetings_.end())), asio::detached);
  }

  // Too many connections greet at once: the oldest of the address that has most of them makes room.
  void DropSlowest() {
    int most = 0;
    for (const Greeting& greeting : greetings_)
      most = std::max(most, addresses_[greeting.address].greeting);
    for (Greeting& greeting : greetings_) {
      if (greeting.deadline == 0 || addresses_[greeting.address].greeting < most) continue;
      boost::system::error_code ignored;
      greeting.deadline = 0;
      greeting.socket.cancel(ignored);  // the socket's coroutine ends it
      return;
    }
  }

  asio::awaitable<void> Greet(std::list<Greeting>::iterator at) {
    bool silent = false;
    const ClientHello hello = co_await ReadHello(*at, &silent);
    --addresses_[at->address].greeting;
    const bool join =
        std::find(hello.alpn.begin(), hello.alpn.end(), kJoinAlpn) != hello.alpn.end();
    const Take& take = join ? options_.join : options_.grpc;
    if (hello.state == ClientHello::State::kDone && hello.tls13 && take) {
      HandOn(*at, take);
    } else if (!silent) {
      ++refused_hello_;
    }
    greetings_.erase(at);
  }

  // Looks at the hello without taking it from the socket. *silent: the other side closed without a
  // byte, as whoever only asks whether the port answers does (`lanyard doctor`, a load balancer).
  asio::awaitable<ClientHello> ReadHello(Greeting& greeting, bool* silent) {
    std::array<uint8_t, kMaxClientHelloBytes> bytes;
    ClientHello hello;
    ssize_t before = 0;  // bytes that were there the last time
    while (MonotonicNow() < greeting.deadline) {
      const ssize_t n = recv(greeting.socket.native_handle(), bytes.data(), bytes.size(),
                             MSG_PEEK | MSG_DONTWAIT);
      const bool gone = n == 0 || (n < 0 && errno != EAGAIN && errno != EINTR);
      *silent = gone && before == 0;
      if (gone) break;
      if (n > 0) hello = ParseClientHello({bytes.data(), static_cast<size_t>(n)});
      if (hello.state != ClientHello::State::kNeedMore) break;
      if (n > 0) {
        // The socket stays readable, so we wait for more by the clock.
        asio::steady_timer pause(io_, std::chrono::milliseconds(n == before ? 20 : 1));
        co_await pause.async_wait(kWithErrorCode);
      } else {
        const auto [ec] =
            co_await greeting.socket.async_wait(tcp::socket::wait_read, kWithErrorCode);
        if (ec) break;
      }
      before = std::max<ssize_t>(before, n);
    }
    co_return hello;
  }

  void HandOn(Greeting& greeting, const Take& take) {
    boost::system::error_code ec;
    const int fd = greeting.socket.release(ec);
    if (ec) return;
    const int one = 1;
    fcntl(fd, F_SETFL, fcntl(fd, F_GETFL) | O_NONBLOCK);
    setsockopt(fd, IPPROTO_TCP, TCP_NODELAY, &one, sizeof(one));
    setsockopt(fd, IPPROTO_TCP, TCP_USER_TIMEOUT, &kUserTimeoutMs, sizeof(kUserTimeoutMs));
    if (const auto old = handed_.find(greeting.peer); old != handed_.end()) {
      --addresses_[old->second.address].handed;  // it was closed since, which we have not seen yet
    }
    handed_[greeting.peer] = {fd, InodeOf(fd), greeting.address, &take == &options_.grpc};
    ++addresses_[greeting.address].handed;
    take(fd, greeting.peer);
  }

  Options options_;
  asio::io_context io_{1};
  tcp::acceptor listener_;
  asio::steady_timer tick_;
  uint16_t port_ = 0;
  // Only the thread uses these.
  std::list<Greeting> greetings_;
  std::map<std::string, Handed> handed_;  // by peer
  std::map<IpAddress, OfAddress> addresses_;
  uint64_t refused_network_ = 0;
  uint64_t refused_limit_ = 0;
  uint64_t refused_hello_ = 0;  // not TLS 1.3, malformed, or too late
  uint64_t told_refused_ = 0;
  std::thread thread_;
};

}  // namespace

absl::StatusOr<std::unique_ptr<Acceptor>> Acceptor::Start(Options options) {
  auto acceptor = std::make_unique<AcceptorImpl>(std::move(options));
  RETURN_IF_ERROR(acceptor->Start());
  return acceptor;
}

}  // namespace lanyard::net
