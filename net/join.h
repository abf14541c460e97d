// Joining and renewing are a short TLS conversation outside gRPC, so that strangers never reach
// HTTP/2. The node checks the coordinator's CA by the token's hash (or by the CA that it knows)
// before it says anything; the coordinator gives a certificate for the key that signed the request.
// The wire holds messages of lanyard/v1/join.proto, each after its length (4 bytes, big-endian),
// over TLS 1.3 with ALPN kJoinAlpn.
#pragma once

#include <functional>
#include <memory>
#include <string>

#include "base/status.h"
#include "identity/peer.h"

namespace lanyard::identity {
class LiveCredential;
}

namespace lanyard::net {

inline constexpr char kJoinAlpn[] = "lanyard-join/1";
inline constexpr size_t kMaxJoinBytes = size_t{16} << 10;

// What a node asks for. With a token it asks to become a member; without one it asks for a new
// certificate for a key that is a member already.
struct JoinRequest {
  std::string token_id;      // 16 hex digits; empty: a renewal
  std::string token_secret;  // 32 raw bytes
  identity::Role role = identity::Role::kWorker;
  std::string name;  // the machine's name; ignored in a renewal
  std::string
      request_pem;   // certificate request, signed by the node's key (checked by the handler)
  std::string from;  // address of the sender; the server fills it in
};

struct JoinReply {
  std::string certificate_pem;
  std::string name;        // the name that the certificate says
  std::string https = {};  // URL of the HTTP front; may be empty
};

// The coordinator's side. The server's own thread calls it, one request at a time; it may block for
// a write to disk.
using JoinHandler = std::function<absl::StatusOr<JoinReply>(const JoinRequest&)>;

// Speaks with sockets that the acceptor hands on. Thread-safe.
class JoinServer {
 public:
  static std::unique_ptr<JoinServer> Start(std::shared_ptr<identity::LiveCredential> credential,
                                           JoinHandler handler);
  virtual ~JoinServer() = default;  // closes the open connections
  virtual void Take(int fd, const std::string& peer) = 0;
};

struct JoinOptions {
  std::string address;         // host:port of the coordinator
  std::string ca_fingerprint;  // 32 raw bytes, from the token or from the CA that is known already
  JoinRequest request;
  int timeout_ms = 10'000;  // for the whole conversation
  bool greet_only = false;  // only checks the CA and sends nothing; the reply stays empty
};

struct Joined {
  JoinReply reply;
  std::string ca_pem;
};

// Blocks. Unavailable: there is no route, the connection was refused, the other side is silent or
// is no coordinator's port. PermissionDenied: it is another cluster (nothing was said to it).
// FailedPrecondition: it is another version. Other errors are the coordinator's own.
absl::StatusOr<Joined> Join(const JoinOptions& options);

}  // namespace lanyard::net
