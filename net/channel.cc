#include "net/channel.h"

#include <netdb.h>
#include <netinet/in.h>
#include <sys/socket.h>
#include <unistd.h>

#include <cerrno>
#include <cstring>

#include <grpcpp/create_channel.h>
#include <grpcpp/security/credentials.h>
#include <grpcpp/security/server_credentials.h>
#include <grpcpp/server_builder.h>

#include "absl/synchronization/mutex.h"
#include "base/log.h"
#include "net/convert_control.h"
#include "net/limits.h"

namespace lanyard::net {
namespace {

// Measured on gRPC 1.51: a stopped peer is noticed after 1.6 s with these on both sides (TCP_USER_TIMEOUT follows the
// keepalive time-out), not within 40 s without.
constexpr int kKeepaliveMs = 500;
constexpr int kKeepaliveTimeoutMs = 1000;
constexpr size_t kMaxSendBytes = kMaxFrameMessageBytes;

struct HostPort {
  std::string host;  // without brackets
  std::string port;
};

absl::StatusOr<HostPort> Split(const std::string& address) {
  RETURN_IF_ERROR(CheckAddress(address));
  const size_t colon = address.rfind(':');
  std::string host = address.substr(0, colon);
  if (host.size() >= 2 && host.front() == '[' && host.back() == ']') host = host.substr(1, host.size() - 2);
  return HostPort{host, address.substr(colon + 1)};
}

// gRPC's locks are absl's, and Debian builds absl with its search for deadlocks on, which costs each of them.
const bool kNoDeadlockSearch = [] {
  absl::SetMutexDeadlockDetectionMode(absl::OnDeadlockCycle::kIgnore);
  return true;
}();

// gRPC says only that it could not bind; a plain socket tells why.
absl::Status ProbeBind(const std::string& address, const HostPort& where) {
  addrinfo hints{};
  hints.ai_socktype = SOCK_STREAM;
  hints.ai_flags = AI_PASSIVE;
  addrinfo* found = nullptr;
  const int rc = getaddrinfo(where.host.c_str(), where.port.c_str(), &hints, &found);
  if (rc != 0) return Unavailable("cannot listen on ", address, ": ", gai_strerror(rc));
  absl::Status status = absl::OkStatus();
  const int fd = socket(found->ai_family, SOCK_STREAM | SOCK_CLOEXEC, 0);
  const int one = 1;
  // As gRPC does, so that sockets in TIME_WAIT do not stand in the way.
  if (fd >= 0) setsockopt(fd, SOL_SOCKET, SO_REUSEADDR, &one, sizeof(one));
  if (fd < 0 || bind(fd, found->ai_addr, found->ai_addrlen) != 0 || listen(fd, 1) != 0) {
    const int error = errno;
    status = Unavailable("cannot listen on ", address, ": ", std::strerror(error), " (errno ", error, ")",
                         error == EADDRINUSE ? "; stop what uses the port, or choose another with --listen" : "");
  }
  if (fd >= 0) close(fd);
  freeaddrinfo(found);
  return status;
}

void SetServerArguments(grpc::ServerBuilder* builder, size_t max_receive_bytes) {
  builder->AddChannelArgument(GRPC_ARG_ALLOW_REUSEPORT, 0);
  builder->AddChannelArgument(GRPC_ARG_KEEPALIVE_TIME_MS, kKeepaliveMs);
  builder->AddChannelArgument(GRPC_ARG_KEEPALIVE_TIMEOUT_MS, kKeepaliveTimeoutMs);
  builder->AddChannelArgument(GRPC_ARG_KEEPALIVE_PERMIT_WITHOUT_CALLS, 1);
  builder->AddChannelArgument(GRPC_ARG_HTTP2_MAX_PINGS_WITHOUT_DATA, 0);
  builder->AddChannelArgument(GRPC_ARG_HTTP2_MIN_RECV_PING_INTERVAL_WITHOUT_DATA_MS, kKeepaliveMs / 5);
  builder->AddChannelArgument(GRPC_ARG_HTTP2_MAX_PING_STRIKES, 0);
  builder->AddChannelArgument(GRPC_ARG_TCP_TX_ZEROCOPY_ENABLED, 0);
  builder->SetMaxReceiveMessageSize(static_cast<int>(max_receive_bytes));
  builder->SetMaxSendMessageSize(static_cast<int>(kMaxSendBytes));
  builder->SetDefaultCompressionAlgorithm(GRPC_COMPRESS_NONE);
}

}  // namespace

bool IsLoopbackHost(std::string_view host) {
  if (host.size() >= 2 && host.front() == '[' && host.back() == ']') host = host.substr(1, host.size() - 2);
  if (host == "localhost" || host == "::1") return true;
  if (host.substr(0, 4) != "127.") return false;
  return host.find_first_not_of("0123456789.") == std::string_view::npos;
}

absl::StatusOr<std::string> AdvertisedAddress(const std::string& bound, const std::string& peer) {
  ASSIGN_OR_RETURN(const HostPort own, Split(bound));
  if (own.host != "0.0.0.0" && own.host != "::") return bound;
  ASSIGN_OR_RETURN(const HostPort other, Split(peer));
  addrinfo hints{};
  hints.ai_socktype = SOCK_DGRAM;
  addrinfo* found = nullptr;
  const int rc = getaddrinfo(other.host.c_str(), other.port.c_str(), &hints, &found);
  if (rc != 0) return Unavailable("cannot resolve ", peer, ": ", gai_strerror(rc));
  sockaddr_storage local{};
  socklen_t length = sizeof(local);
  char host[NI_MAXHOST] = {};
  // Connecting a datagram socket sends nothing; it only chooses the route.
  const int fd = socket(found->ai_family, SOCK_DGRAM | SOCK_CLOEXEC, 0);
  const bool good = fd >= 0 && connect(fd, found->ai_addr, found->ai_addrlen) == 0 &&
                    getsockname(fd, reinterpret_cast<sockaddr*>(&local), &length) == 0 &&
                    getnameinfo(reinterpret_cast<sockaddr*>(&local), length, host, sizeof(host), nullptr, 0,
                                NI_NUMERICHOST) == 0;
  const int error = errno;
  if (fd >= 0) close(fd);
  freeaddrinfo(found);
  if (!good) return Unavailable("no route to ", peer, ": ", std::strerror(error));
  const std::string text(host);
  return absl::StrCat(text.find(':') == std::string::npos ? text : "[" + text + "]", ":", own.port);
}

std::shared_ptr<grpc::Channel> MakeChannel(const std::string& address, size_t max_receive_bytes) {
  grpc::ChannelArguments args;
  // Equal arguments would share one TCP connection otherwise.
  args.SetInt(GRPC_ARG_USE_LOCAL_SUBCHANNEL_POOL, 1);
  args.SetInt(GRPC_ARG_KEEPALIVE_TIME_MS, kKeepaliveMs);
  args.SetInt(GRPC_ARG_KEEPALIVE_TIMEOUT_MS, kKeepaliveTimeoutMs);
  args.SetInt(GRPC_ARG_KEEPALIVE_PERMIT_WITHOUT_CALLS, 1);
  args.SetInt(GRPC_ARG_HTTP2_MAX_PINGS_WITHOUT_DATA, 0);
  args.SetInt(GRPC_ARG_INITIAL_RECONNECT_BACKOFF_MS, 100);
  args.SetInt(GRPC_ARG_MIN_RECONNECT_BACKOFF_MS, 500);  // also the time-out of one attempt to connect
  args.SetInt(GRPC_ARG_MAX_RECONNECT_BACKOFF_MS, 500);
  args.SetInt(GRPC_ARG_TCP_TX_ZEROCOPY_ENABLED, 0);
  args.SetInt(GRPC_ARG_ENABLE_HTTP_PROXY, 0);  // peers of a pool are never behind the office's web proxy
  args.SetInt(GRPC_ARG_SERVICE_CONFIG_DISABLE_RESOLUTION, 1);
  args.SetInt(GRPC_ARG_ENABLE_RETRIES, 0);
  args.SetMaxReceiveMessageSize(static_cast<int>(max_receive_bytes));
  args.SetMaxSendMessageSize(static_cast<int>(kMaxSendBytes));
  return grpc::CreateCustomChannel(address, grpc::InsecureChannelCredentials(), args);
}

absl::StatusOr<BoundServer> StartServer(const ServerOptions& options, const std::vector<grpc::Service*>& services,
                                        size_t max_receive_bytes) {
  ASSIGN_OR_RETURN(const HostPort where, Split(options.listen));
  if (!IsLoopbackHost(where.host)) {
    if (!options.insecure_lan) {
      return absl::PermissionDeniedError(absl::StrCat(
          "refusing to listen on ", options.listen, ": only loopback addresses are safe without TLS; "
          "give --insecure-lan to listen there without encryption or authentication"));
    }
    LogWarning("listening on ", options.listen, " without encryption or authentication (--insecure-lan): anyone who "
               "reaches this port can use and read the pool");
  }
  RETURN_IF_ERROR(ProbeBind(options.listen, where));
  grpc::ServerBuilder builder;
  SetServerArguments(&builder, max_receive_bytes);
  int port = 0;
  builder.AddListeningPort(options.listen, grpc::InsecureServerCredentials(), &port);
  for (grpc::Service* service : services) builder.RegisterService(service);
  std::unique_ptr<grpc::Server> server = builder.BuildAndStart();
  if (server == nullptr || port == 0) {
    RETURN_IF_ERROR(ProbeBind(options.listen, where));  // taken since the first probe
    return Unavailable("cannot listen on ", options.listen, ": gRPC could not start its server there");
  }
  const std::string host = where.host.find(':') == std::string::npos ? where.host : "[" + where.host + "]";
  return BoundServer{std::move(server), absl::StrCat(host, ":", port)};
}

}  // namespace lanyard::net
