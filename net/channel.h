// Channels and servers with the settings that every link of a pool needs: a dead or hung peer is
// noticed within 2 s, messages are bounded and not compressed, and TLS 1.3 is mutual. Plaintext is
// possible on loopback only.
#pragma once

#include <grpcpp/channel.h>
#include <grpcpp/impl/codegen/service_type.h>
#include <grpcpp/server.h>
#include <grpcpp/server_builder.h>

#include <memory>
#include <string>
#include <vector>

#include "net/acceptor.h"
#include "net/control.h"
#include "net/join.h"
#include "net/peer_guard.h"

namespace lanyard::net {

// Each call makes a connection of its own, so that steps, control and weights never queue behind
// each other. `tls_name` is the name that the certificate at the address must be good for
// (identity::TlsName).
struct Target {
  std::string address;
  std::shared_ptr<identity::LiveCredential> credential = {};  // null: plaintext
  std::string tls_name = {};
};
constexpr size_t kMaxReplyBytes = size_t{2} << 20;  // a pong carries its payload back
std::shared_ptr<grpc::Channel> MakeChannel(const Target& target, size_t max_receive_bytes);

// A gRPC server behind an acceptor.
class BoundServer {
 public:
  BoundServer() = default;
  // To be called once. Calls may arrive before it returns. InvalidArgument: the address is
  // malformed. PermissionDenied: it lies beyond loopback and there is no credential. Unavailable:
  // it cannot be bound; the text names address and errno.
  absl::Status Start(const ServerOptions& options, const std::vector<grpc::Service*>& services,
                     size_t max_receive_bytes);
  // Takes no more connections and cancels every call. The services must live until it has returned.
  void Shutdown();
  ~BoundServer() { Shutdown(); }

  const std::string& address() const { return address_; }  // the host:port that was bound
  // Says who opened the stream of this context. See PeerGuard::Open.
  absl::StatusOr<std::unique_ptr<PeerGuard>> Guard(const grpc::ServerContextBase& context) {
    return PeerGuard::Open(security_, context, &peers_);
  }
  // Cuts every connection of a node, and those whose owner is not known from any stream.
  void CutOff(const std::string& node);

 private:
  Security security_;
  PeerTable peers_;
  std::string address_;
  std::unique_ptr<grpc::experimental::ExternalConnectionAcceptor> external_;
  std::unique_ptr<grpc::Server> server_;
  std::unique_ptr<JoinServer> join_;
  std::unique_ptr<Acceptor> acceptor_;
};

// True for "localhost", 127.0.0.0/8 and ::1 (with or without brackets).
bool IsLoopbackHost(std::string_view host);

}  // namespace lanyard::net
