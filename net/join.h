// Joining and renewing: a short TLS conversation outside gRPC, so that strangers never reach
// HTTP/2. The node checks the coordinator's CA by the token's hash (or by the CA that it knows)
// before it says anything; the coordinator gives a certificate for the key that signed the request.
// Wire: lanyard/v1/join.proto, each message after its length (4 bytes, big-endian); ALPN kJoinAlpn;
// TLS 1.3.
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

// What a node asks for. With a token: to become a member. Without: a new certificate for a key that
// is one already.
struct JoinRequest {
  std::string token_id;      // 16 hex digits; empty: renewal
  std::string token_secret;  // 32 raw bytes
  identity::Role role = identity::Role::kWorker;
  std::string name;  // of the machine; ignored in a renewal
  std::string
      request_pem;   // certificate request, signed by the node's key (checked by the handler)
  std::string from;  // where it came from; filled by the server
};

struct JoinReply {
  std::string certificate_pem;
  std::string name;        // as the certificate says
  std::string https = {};  // the HTTP front's URL; may be empty
};

// The coordinator's side. Called from the server's own thread, one at a time; may block for a
// disk's write.
using JoinHandler = std::function<absl::StatusOr<JoinReply>(const JoinRequest&)>;

// Speaks with sockets that the acceptor hands on. Thread-safe.
class JoinServer {
 public:
  static std::unique_ptr<JoinServer> Start(std::shared_ptr<identity::LiveCredential> credential,
                                           JoinHandler handler);
  virtual ~JoinServer() = default;  // closes what is open
  virtual void Take(int fd, const std::string& peer) = 0;
};

struct JoinOptions {
  std::string address;         // host:port of the coordinator
  std::string ca_fingerprint;  // 32 raw bytes: of the token, or of the CA known already
  JoinRequest request;
  int timeout_ms = 10'000;  // of the whole
  bool greet_only = false;  // checks the CA and says nothing; the reply stays empty
};

struct Joined {
  JoinReply reply;
  std::string ca_pem;
};

// Blocks. Unavailable: no route, refused, silent, or not a coordinator's port; PermissionDenied:
// another cluster (nothing was said to it); FailedPrecondition: another version; else the
// coordinator's own words.
absl::StatusOr<Joined> Join(const JoinOptions& options);

}  // namespace lanyard::net
