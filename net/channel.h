// Channels and servers with the settings that every link of a pool needs: a dead or hung peer is noticed within 2 s, no
// compression, bounded messages, loopback unless told otherwise. The seam for identities (TLS) is here.
#pragma once

#include <memory>
#include <string>
#include <vector>

#include <grpcpp/channel.h>
#include <grpcpp/impl/codegen/service_type.h>
#include <grpcpp/server.h>

#include "net/control.h"

namespace lanyard::net {

// Each call makes a connection of its own: steps, control and weights never queue behind each other.
std::shared_ptr<grpc::Channel> MakeChannel(const std::string& address, size_t max_receive_bytes);

struct BoundServer {
  std::unique_ptr<grpc::Server> server;
  std::string address;  // host:port actually bound
};

// InvalidArgument for a bad address, PermissionDenied for one beyond loopback without insecure_lan, Unavailable naming
// address and errno when it cannot be bound.
absl::StatusOr<BoundServer> StartServer(const ServerOptions& options, const std::vector<grpc::Service*>& services,
                                        size_t max_receive_bytes);

// "localhost", 127.0.0.0/8 and ::1 (with or without brackets).
bool IsLoopbackHost(std::string_view host);

}  // namespace lanyard::net
