#include "net/discovery.h"

#include <arpa/inet.h>
#include <ifaddrs.h>
#include <net/if.h>
#include <netdb.h>
#include <netinet/in.h>
#include <openssl/rand.h>
#include <poll.h>
#include <sys/socket.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <cstring>
#include <optional>
#include <stop_token>
#include <thread>

#include "absl/strings/escaping.h"
#include "absl/strings/str_split.h"
#include "base/log.h"
#include "base/version.h"
#include "identity/join_token.h"
#include "net/channel.h"
#include "net/convert_control.h"
#include "net/join.h"
#include "net/reach.h"
#include "net/status_codes.h"

namespace lanyard::net {
namespace {

constexpr char kQueryMagic[] = "lanyard-discover/1\n";
constexpr char kAnswerMagic[] = "lanyard-here/1\n";
constexpr size_t kNonceBytes = 16;
constexpr size_t kMaxAddresses = 4;
constexpr int kPollMs = 200;
constexpr TimeNs kJoinGroupsEvery = 30 * kSecond;  // since interfaces come and go
constexpr int kSendEveryMs = 500;
constexpr int kProbeMs = 2500;

class Udp {
 public:
  explicit Udp(int family)
      : family_(family), fd_(socket(family, SOCK_DGRAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0)) {}
  ~Udp() {
    if (fd_ >= 0) close(fd_);
  }
  Udp(const Udp&) = delete;
  Udp& operator=(const Udp&) = delete;
  int fd() const { return fd_; }
  int family() const { return family_; }
  void Set(int level, int name, int value) const {
    setsockopt(fd_, level, name, &value, sizeof(value));
  }

  // Port 0 means any port.
  absl::Status Bind(uint16_t port) const {
    if (fd_ < 0) return Unavailable("no socket: ", std::strerror(errno));
    Set(SOL_SOCKET, SO_BROADCAST, 1);
    int result = 0;
    if (family_ == AF_INET6) {
      Set(IPPROTO_IPV6, IPV6_V6ONLY, 1);
      sockaddr_in6 any{};
      any.sin6_family = AF_INET6;
      any.sin6_port = htons(port);
      result = bind(fd_, reinterpret_cast<sockaddr*>(&any), sizeof(any));
    } else {
      sockaddr_in any{};
      any.sin_family = AF_INET;
      any.sin_port = htons(port);
      result = bind(fd_, reinterpret_cast<sockaddr*>(&any), sizeof(any));
    }
    return result == 0 ? absl::OkStatus()
                       : Unavailable("UDP port ", port, ": ", std::strerror(errno));
  }
  uint16_t port() const {
    sockaddr_storage own{};
    socklen_t size = sizeof(own);
    getsockname(fd_, reinterpret_cast<sockaddr*>(&own), &size);
    return ntohs(family_ == AF_INET6 ? reinterpret_cast<sockaddr_in6*>(&own)->sin6_port
                                     : reinterpret_cast<sockaddr_in*>(&own)->sin_port);
  }

 private:
  const int family_;
  const int fd_;
};

struct Received {
  std::string bytes;
  sockaddr_storage from{};
  socklen_t from_size = sizeof(sockaddr_storage);
  std::string host;  // numeric; a link-local address has its interface
};

// Returns nullopt when there is none.
std::optional<Received> Receive(const Udp& socket) {
  Received out;
  out.bytes.resize(kDiscoveryBytes + 1);  // so that a longer datagram is recognised
  const ssize_t n = recvfrom(socket.fd(), out.bytes.data(), out.bytes.size(), 0,
                             reinterpret_cast<sockaddr*>(&out.from), &out.from_size);
  if (n < 0) return std::nullopt;
  out.bytes.resize(static_cast<size_t>(n));
  char host[NI_MAXHOST] = {};
  if (getnameinfo(reinterpret_cast<sockaddr*>(&out.from), out.from_size, host, sizeof(host),
                  nullptr, 0, NI_NUMERICHOST) == 0) {
    out.host = host;
  }
  return out;
}

std::string HostPort(const std::string& host, const std::string& port) {
  return absl::StrCat(host.find(':') == std::string::npos ? host : "[" + host + "]", ":", port);
}

using Interfaces = std::unique_ptr<ifaddrs, decltype(&freeifaddrs)>;

Interfaces AllInterfaces() {
  ifaddrs* list = nullptr;
  if (getifaddrs(&list) != 0) list = nullptr;
  return {list, freeifaddrs};
}

bool IsUp(const ifaddrs& i) { return i.ifa_addr != nullptr && (i.ifa_flags & IFF_UP) != 0; }

// A group is joined once on an interface; joining again gives an error that does not matter.
void JoinGroups(const Udp& v4, const Udp& v6) {
  const Interfaces list = AllInterfaces();
  for (const ifaddrs* i = list.get(); i != nullptr; i = i->ifa_next) {
    if (!IsUp(*i)) continue;
    const int index = static_cast<int>(if_nametoindex(i->ifa_name));
    if (i->ifa_addr->sa_family == AF_INET) {
      ip_mreqn group{};
      inet_pton(AF_INET, kDiscoveryGroup4, &group.imr_multiaddr);
      group.imr_ifindex = index;
      setsockopt(v4.fd(), IPPROTO_IP, IP_ADD_MEMBERSHIP, &group, sizeof(group));
    } else if (i->ifa_addr->sa_family == AF_INET6) {
      ipv6_mreq group{};
      inet_pton(AF_INET6, kDiscoveryGroup6, &group.ipv6mr_multiaddr);
      group.ipv6mr_interface = static_cast<unsigned>(index);
      setsockopt(v6.fd(), IPPROTO_IPV6, IPV6_JOIN_GROUP, &group, sizeof(group));
    }
  }
}

void SendTo4(const Udp& socket, const std::string& bytes, in_addr to, uint16_t port) {
  sockaddr_in address{};
  address.sin_family = AF_INET;
  address.sin_port = htons(port);
  address.sin_addr = to;
  sendto(socket.fd(), bytes.data(), bytes.size(), 0, reinterpret_cast<sockaddr*>(&address),
         sizeof(address));
}

// Sends to the groups and the broadcast address of every interface, and to this machine itself.
void SendQuery(const Udp& v4, const Udp& v6, const std::string& bytes, uint16_t port) {
  const Interfaces list = AllInterfaces();
  for (const ifaddrs* i = list.get(); i != nullptr; i = i->ifa_next) {
    if (!IsUp(*i)) continue;
    const int index = static_cast<int>(if_nametoindex(i->ifa_name));
    if (i->ifa_addr->sa_family == AF_INET) {
      ip_mreqn from{};
      from.imr_ifindex = index;
      setsockopt(v4.fd(), IPPROTO_IP, IP_MULTICAST_IF, &from, sizeof(from));
      in_addr group{};
      inet_pton(AF_INET, kDiscoveryGroup4, &group);
      SendTo4(v4, bytes, group, port);
      if ((i->ifa_flags & IFF_BROADCAST) != 0 && i->ifa_broadaddr != nullptr) {
        SendTo4(v4, bytes, reinterpret_cast<sockaddr_in*>(i->ifa_broadaddr)->sin_addr, port);
      } else if ((i->ifa_flags & IFF_LOOPBACK) != 0) {
        SendTo4(v4, bytes, reinterpret_cast<sockaddr_in*>(i->ifa_addr)->sin_addr, port);
      }
    } else if (i->ifa_addr->sa_family == AF_INET6) {
      sockaddr_in6 address{};
      address.sin6_family = AF_INET6;
      address.sin6_port = htons(port);
      address.sin6_scope_id = static_cast<uint32_t>(index);
      inet_pton(AF_INET6, kDiscoveryGroup6, &address.sin6_addr);
      v6.Set(IPPROTO_IPV6, IPV6_MULTICAST_IF, index);
      sendto(v6.fd(), bytes.data(), bytes.size(), 0, reinterpret_cast<sockaddr*>(&address),
             sizeof(address));
    }
  }
}

bool IsClusterId(std::string_view s) {
  return s.size() == 16 && s.find_first_not_of("0123456789abcdef") == std::string_view::npos;
}

class Responder final : public DiscoveryResponder {
 public:
  explicit Responder(const ResponderOptions& options) : v4_(AF_INET), v6_(AF_INET6) {
    beacon_.cluster = options.cluster;
    beacon_.version = kVersion;
    std::string host;
    SplitAddress(options.join_address, &host, &port_text_);
    if (host != "0.0.0.0" && host != "::" && !host.empty())
      beacon_.addresses.push_back(options.join_address);
  }
  ~Responder() override {
    thread_.request_stop();
    if (thread_.joinable()) thread_.join();
  }

  absl::Status Listen(uint16_t port) {
    RETURN_IF_ERROR(v4_.Bind(port));
    if (const absl::Status six = v6_.Bind(v4_.port()); !six.ok())
      LogDebug("discovery without IPv6: ", six.message());
    thread_ = std::jthread([this](std::stop_token stop) { Loop(stop); });
    return absl::OkStatus();
  }
  uint16_t port() const override { return v4_.port(); }

 private:
  void Loop(std::stop_token stop) {
    TimeNs groups_at = 0;
    while (!stop.stop_requested()) {
      const TimeNs now = MonotonicNow();
      if (now >= groups_at) {
        JoinGroups(v4_, v6_);
        groups_at = now + kJoinGroupsEvery;
      }
      pollfd wait[2] = {{v4_.fd(), POLLIN, 0}, {v6_.fd(), POLLIN, 0}};
      if (poll(wait, 2, kPollMs) <= 0) continue;
      for (const Udp* socket : {&v4_, &v6_}) {
        while (const auto query = Receive(*socket)) Answer(*socket, *query);
      }
    }
  }

  // The socket is told which way the query came, so that the querier sees an address of ours that
  // it can reach.
  void Answer(const Udp& socket, const Received& query) {
    const absl::StatusOr<std::string> nonce = DecodeQuery(query.bytes);
    if (!nonce.ok() || !limiter_.MayAnswer(query.host, MonotonicNow())) return;
    Beacon beacon = beacon_;
    if (beacon.addresses.empty())
      // The querier puts the host of the answer before it.
      beacon.addresses.push_back(":" + port_text_);
    const std::string bytes = EncodeAnswer(*nonce, beacon);
    sendto(socket.fd(), bytes.data(), bytes.size(), 0,
           reinterpret_cast<const sockaddr*>(&query.from), query.from_size);
  }

  Beacon beacon_;
  std::string port_text_;
  AnswerLimiter limiter_;
  const Udp v4_;
  const Udp v6_;
  std::jthread thread_;
};

// Replaces ":7300" by the address that the answer came from.
void AddAnswer(Beacon answer, const std::string& from, std::map<std::string, Beacon>* found) {
  Beacon& known =
      found->try_emplace(answer.cluster, Beacon{answer.cluster, answer.version, {}}).first->second;
  for (std::string& address : answer.addresses) {
    if (address.front() == ':') address = HostPort(from, address.substr(1));
    if (!CheckAddress(address).ok() || known.addresses.size() >= 4 * kMaxAddresses) continue;
    auto& all = known.addresses;
    if (std::find(all.begin(), all.end(), address) == all.end()) all.push_back(address);
  }
}

}  // namespace

std::string EncodeQuery(std::string_view nonce) {
  std::string out = kQueryMagic;
  out.append(nonce);
  out.resize(kDiscoveryBytes, '\0');
  return out;
}

absl::StatusOr<std::string> DecodeQuery(std::string_view bytes) {
  constexpr size_t kMagic = sizeof(kQueryMagic) - 1;
  if (bytes.size() != kDiscoveryBytes || bytes.substr(0, kMagic) != kQueryMagic)
    return InvalidArgument("no query of ours");
  return std::string(bytes.substr(kMagic, kNonceBytes));
}

std::string EncodeAnswer(std::string_view nonce, const Beacon& beacon) {
  std::string out = kAnswerMagic;
  out.append(nonce);
  absl::StrAppend(&out, beacon.cluster, "\n", beacon.version, "\n");
  for (const std::string& address : beacon.addresses) {
    if (out.size() + address.size() + 1 <= kDiscoveryBytes) absl::StrAppend(&out, address, "\n");
  }
  return out;
}

absl::StatusOr<Beacon> DecodeAnswer(std::string_view nonce, std::string_view bytes) {
  const std::string head = std::string(kAnswerMagic).append(nonce);
  if (bytes.size() > kDiscoveryBytes || bytes.substr(0, head.size()) != head)
    return InvalidArgument("no answer to this query");
  const std::vector<std::string> lines = absl::StrSplit(AbslView(bytes.substr(head.size())), '\n');
  if (lines.size() < 4 || !lines.back().empty() || lines.size() - 3 > kMaxAddresses ||
      !IsClusterId(lines[0])) {
    return InvalidArgument("a malformed answer");
  }
  Beacon out{lines[0], CleanText(lines[1].substr(0, 32)), {}};
  for (size_t i = 2; i + 1 < lines.size(); ++i) {
    // ":7300" is checked together with the host that it came from.
    const bool whole = !lines[i].empty() && lines[i].front() != ':';
    RETURN_IF_ERROR(CheckAddress(whole ? lines[i] : "host" + lines[i]));
    out.addresses.push_back(lines[i]);
  }
  return out;
}

bool AnswerLimiter::MayAnswer(const std::string& address, TimeNs now) {
  if (now - since_ >= kSecond) {
    since_ = now;
    all_ = 0;
    answered_.clear();
  }
  if (all_ >= kAll || answered_[address] >= kPerAddress) return false;
  ++all_;
  ++answered_[address];
  return true;
}

absl::StatusOr<std::unique_ptr<DiscoveryResponder>> DiscoveryResponder::Start(
    const ResponderOptions& options) {
  if (!IsClusterId(options.cluster))
    return InvalidArgument("'", options.cluster, "' is no cluster's id");
  auto responder = std::make_unique<Responder>(options);
  RETURN_IF_ERROR(responder->Listen(options.port));
  return responder;
}

absl::StatusOr<std::vector<Beacon>> Discover(const DiscoverOptions& options) {
  const Udp v4(AF_INET), v6(AF_INET6);
  RETURN_IF_ERROR(v4.Bind(0));
  v6.Bind(0).IgnoreError();  // fails on a machine without IPv6
  std::string nonce(kNonceBytes, '\0');
  if (RAND_bytes(reinterpret_cast<unsigned char*>(nonce.data()), kNonceBytes) != 1)
    return Internal("no random bytes");
  const std::string query = EncodeQuery(nonce);
  std::map<std::string, Beacon> found;
  const TimeNs end = MonotonicNow() + options.timeout_ms * kMillisecond;
  TimeNs send_at = 0;
  for (TimeNs now = MonotonicNow(); now < end; now = MonotonicNow()) {
    if (now >= send_at) {
      SendQuery(v4, v6, query, options.port);
      send_at = now + kSendEveryMs * kMillisecond;
    }
    pollfd wait[2] = {{v4.fd(), POLLIN, 0}, {v6.fd(), POLLIN, 0}};
    const auto left_ms = static_cast<int>((std::min(end, send_at) - now) / kMillisecond);
    if (poll(wait, 2, std::max(1, left_ms)) <= 0) continue;
    for (const Udp* socket : {&v4, &v6}) {
      while (const auto answer = Receive(*socket)) {
        absl::StatusOr<Beacon> beacon = DecodeAnswer(nonce, answer->bytes);
        if (beacon.ok()) AddAnswer(*std::move(beacon), answer->host, &found);
      }
    }
  }
  std::vector<Beacon> out;
  for (auto& [cluster, beacon] : found) out.push_back(std::move(beacon));
  return out;
}

absl::StatusOr<std::string> FindCoordinator(std::string_view ca_fingerprint,
                                            const DiscoverOptions& options) {
  const std::string cluster = absl::BytesToHexString(AbslView(ca_fingerprint)).substr(0, 16);
  ASSIGN_OR_RETURN(const std::vector<Beacon> found, Discover(options));
  absl::Status last;
  std::string others;
  for (const Beacon& beacon : found) {
    if (beacon.cluster != cluster) {
      absl::StrAppend(&others, others.empty() ? "; other clusters answered: " : ", ",
                      beacon.cluster);
      continue;
    }
    for (const std::string& address : beacon.addresses) {
      JoinOptions greet;
      greet.address = address;
      greet.ca_fingerprint = std::string(ca_fingerprint);
      greet.greet_only = true;
      greet.timeout_ms = kProbeMs;
      last = net::Join(greet).status();
      if (last.ok()) return address;
      LogDebug("discovery: ", last.message());
    }
  }
  if (!last.ok()) return Annotate(last, "the coordinator was found, but cannot be used");
  return NotFound("no coordinator of the token's cluster answers in this network", others,
                  "; give its address, as `lanyard token create` prints it: --join ADDRESS");
}

std::unique_ptr<DiscoveryResponder> Announce(const ResponderOptions& options) {
  std::string host, port;
  SplitAddress(options.join_address, &host, &port);
  if (IsLoopbackHost(host)) return nullptr;
  auto responder = DiscoveryResponder::Start(options);
  if (responder.ok()) return *std::move(responder);
  LogWarning("machines cannot find this coordinator by themselves: ", responder.status().message());
  return nullptr;
}

absl::StatusOr<std::string> AddressToJoin(const std::string& join, const std::string& token,
                                          const std::string& folder) {
  if (join != "auto") return join;
  if (token.empty()) return std::string();
  ASSIGN_OR_RETURN(const identity::JoinToken decoded, identity::JoinToken::Decode(token));
  absl::StatusOr<std::string> found = FindCoordinator(decoded.ca_fingerprint);
  if (found.ok()) LogInfo("found the coordinator at ", *found);
  if (found.ok() || access((folder + "/node.crt").c_str(), F_OK) != 0) return found;
  LogWarning(found.status().message(), "; trying where it was");
  return std::string();
}

}  // namespace lanyard::net
