#include "net/channel.h"

#include <grpcpp/create_channel.h>
#include <grpcpp/security/credentials.h>
#include <grpcpp/security/server_credentials.h>
#include <netdb.h>
#include <netinet/in.h>
#include <sys/socket.h>
#include <unistd.h>

#include <cerrno>
#include <cstring>

#include "absl/synchronization/mutex.h"
#include "base/log.h"
#include "net/convert_control.h"
#include "net/limits.h"
#include "net/tls_credentials.h"

namespace lanyard::net {
namespace {

// With these on both sides a machine that is gone without a word is noticed after about 5 s
// (TCP_USER_TIMEOUT follows the keepalive time-out; kDeadAfterMs), and without them not within 40
// s.
constexpr int kKeepaliveMs = 1000;
constexpr int kKeepaliveTimeoutMs = 4000;
constexpr int kHandshakeTimeoutMs = 5000;
constexpr size_t kMaxSendBytes = kMaxFrameMessageBytes;

struct HostPort {
  std::string host;  // without brackets
  std::string port;
};

absl::StatusOr<HostPort> Split(const std::string& address) {
  RETURN_IF_ERROR(CheckAddress(address));
  const size_t colon = address.rfind(':');
  std::string host = address.substr(0, colon);
  if (host.size() >= 2 && host.front() == '[' && host.back() == ']')
    host = host.substr(1, host.size() - 2);
  return HostPort{host, address.substr(colon + 1)};
}

// gRPC's locks are absl's, and Debian builds absl with its search for deadlocks switched on, which
// makes each of them slower.
const bool kNoDeadlockSearch = [] {
  absl::SetMutexDeadlockDetectionMode(absl::OnDeadlockCycle::kIgnore);
  return true;
}();

void SetServerArguments(grpc::ServerBuilder* builder, size_t max_receive_bytes) {
  builder->AddChannelArgument(GRPC_ARG_ALLOW_REUSEPORT, 0);
  builder->AddChannelArgument(GRPC_ARG_KEEPALIVE_TIME_MS, kKeepaliveMs);
  builder->AddChannelArgument(GRPC_ARG_KEEPALIVE_TIMEOUT_MS, kKeepaliveTimeoutMs);
  builder->AddChannelArgument(GRPC_ARG_KEEPALIVE_PERMIT_WITHOUT_CALLS, 1);
  builder->AddChannelArgument(GRPC_ARG_HTTP2_MAX_PINGS_WITHOUT_DATA, 0);
  builder->AddChannelArgument(GRPC_ARG_HTTP2_MIN_RECV_PING_INTERVAL_WITHOUT_DATA_MS,
                              kKeepaliveMs / 5);
  builder->AddChannelArgument(GRPC_ARG_HTTP2_MAX_PING_STRIKES, 0);
  builder->AddChannelArgument(GRPC_ARG_TCP_TX_ZEROCOPY_ENABLED, 0);
  builder->AddChannelArgument(GRPC_ARG_SERVER_HANDSHAKE_TIMEOUT_MS, kHandshakeTimeoutMs);
  builder->SetMaxReceiveMessageSize(static_cast<int>(max_receive_bytes));
  builder->SetMaxSendMessageSize(static_cast<int>(kMaxSendBytes));
  builder->SetDefaultCompressionAlgorithm(GRPC_COMPRESS_NONE);
}

}  // namespace

bool IsLoopbackHost(std::string_view host) {
  if (host.size() >= 2 && host.front() == '[' && host.back() == ']')
    host = host.substr(1, host.size() - 2);
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
  // To connect a datagram socket sends nothing; it only chooses the route.
  const int fd = socket(found->ai_family, SOCK_DGRAM | SOCK_CLOEXEC, 0);
  const bool good = fd >= 0 && connect(fd, found->ai_addr, found->ai_addrlen) == 0 &&
                    getsockname(fd, reinterpret_cast<sockaddr*>(&local), &length) == 0 &&
                    getnameinfo(reinterpret_cast<sockaddr*>(&local), length, host, sizeof(host),
                                nullptr, 0, NI_NUMERICHOST) == 0;
  const int error = errno;
  if (fd >= 0) close(fd);
  freeaddrinfo(found);
  if (!good) return Unavailable("no route to ", peer, ": ", std::strerror(error));
  const std::string text(host);
  return absl::StrCat(text.find(':') == std::string::npos ? text : "[" + text + "]", ":", own.port);
}

std::shared_ptr<grpc::Channel> MakeChannel(const Target& target, size_t max_receive_bytes) {
  grpc::ChannelArguments args;
  // With equal arguments two channels would share one TCP connection.
  args.SetInt(GRPC_ARG_USE_LOCAL_SUBCHANNEL_POOL, 1);
  args.SetInt(GRPC_ARG_KEEPALIVE_TIME_MS, kKeepaliveMs);
  args.SetInt(GRPC_ARG_KEEPALIVE_TIMEOUT_MS, kKeepaliveTimeoutMs);
  args.SetInt(GRPC_ARG_KEEPALIVE_PERMIT_WITHOUT_CALLS, 1);
  args.SetInt(GRPC_ARG_HTTP2_MAX_PINGS_WITHOUT_DATA, 0);
  args.SetInt(GRPC_ARG_INITIAL_RECONNECT_BACKOFF_MS, 100);
  args.SetInt(GRPC_ARG_MIN_RECONNECT_BACKOFF_MS,
              500);  // also the time-out of one attempt to connect
  args.SetInt(GRPC_ARG_MAX_RECONNECT_BACKOFF_MS, 500);
  args.SetInt(GRPC_ARG_TCP_TX_ZEROCOPY_ENABLED, 0);
  args.SetInt(GRPC_ARG_ENABLE_HTTP_PROXY,
              0);  // peers of a pool are never behind the office's web proxy
  args.SetInt(GRPC_ARG_SERVICE_CONFIG_DISABLE_RESOLUTION, 1);
  args.SetInt(GRPC_ARG_ENABLE_RETRIES, 0);
  args.SetMaxReceiveMessageSize(static_cast<int>(max_receive_bytes));
  args.SetMaxSendMessageSize(static_cast<int>(kMaxSendBytes));
  if (target.credential == nullptr) {
    return grpc::CreateCustomChannel(target.address, grpc::InsecureChannelCredentials(), args);
  }
  args.SetSslTargetNameOverride(target.tls_name);
  return grpc::CreateCustomChannel(target.address, ClientTls(*target.credential->Get()), args);
}

absl::Status BoundServer::Start(const ServerOptions& options,
                                const std::vector<grpc::Service*>& services,
                                size_t max_receive_bytes) {
  ASSIGN_OR_RETURN(const HostPort where, Split(options.listen));
  const bool tls = options.security.credential != nullptr;
  if (!tls && !IsLoopbackHost(where.host)) {
    return absl::PermissionDeniedError(
        absl::StrCat("refusing to listen on ", options.listen,
                     ": without TLS only loopback addresses are allowed"));
  }
  security_ = options.security;
  grpc::ServerBuilder builder;
  SetServerArguments(&builder, max_receive_bytes);
  external_ = builder.experimental().AddExternalConnectionAcceptor(
      grpc::ServerBuilder::experimental_type::ExternalConnectionType::FROM_FD,
      tls ? ServerTls(options.security.credential) : grpc::InsecureServerCredentials());
  for (grpc::Service* service : services) builder.RegisterService(service);
  server_ = builder.BuildAndStart();
  if (server_ == nullptr)
    return Unavailable("gRPC could not start its server for ", options.listen);
  Acceptor::Options accept{where.host, where.port, options.limits, tls, {}, {}};
  accept.grpc = [external = external_.get()](int fd, const std::string&) {
    grpc::experimental::ExternalConnectionAcceptor::NewConnectionParameters connection;
    connection.fd = fd;
    external->HandleNewConnection(&connection);
  };
  if (tls && options.join) {
    join_ = JoinServer::Start(options.security.credential, options.join);
    accept.join = [join = join_.get()](int fd, const std::string& peer) { join->Take(fd, peer); };
  }
  ASSIGN_OR_RETURN(acceptor_, Acceptor::Start(std::move(accept)));
  const std::string host =
      where.host.find(':') == std::string::npos ? where.host : "[" + where.host + "]";
  address_ = absl::StrCat(host, ":", acceptor_->port());
  return absl::OkStatus();
}

void BoundServer::Shutdown() {
  acceptor_.reset();
  join_.reset();
  if (server_ != nullptr) server_->Shutdown(std::chrono::system_clock::now());
  server_.reset();
}

void BoundServer::CutOff(const std::string& node) {
  // Connections without a stream are cut too, since they may be the node's: another node makes its
  // own anew with its next call.
  acceptor_->CutAllBut(peers_.AddressesOfOthers(node));
}

}  // namespace lanyard::net
