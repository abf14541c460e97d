// Takes connections before gRPC sees them. Debian's gRPC 1.51 has a connection flood that works
// before TLS (CVE-2023-4785) and faults in HTTP/2 that only strangers' absence hides; so strangers
// meet this file first: networks, counts, rates, and a complete TLS 1.3 hello within a time limit.
// A connection that passes is handed on as a socket.
#pragma once

#include <functional>
#include <memory>
#include <set>
#include <string>
#include <vector>

#include "base/ip.h"
#include "base/status.h"

namespace lanyard::net {

struct AcceptLimits {
  int max_connections = 1024;  // open at once; those handed on and not yet closed count too
  int max_per_address = 128;
  int max_greeting = 128;  // connections that have not sent their hello yet
  int max_greeting_per_address = 32;
  int max_new_per_second = 64;  // from one address
  int hello_timeout_ms = 3000;
  // Empty means OfficeNetworks().
  std::vector<Network> networks = {};
};

class Acceptor {
 public:
  // Takes over the socket (non-blocking, no delay). It is called from the acceptor's thread and
  // must not block.
  using Take = std::function<void(int fd, const std::string& peer)>;
  struct Options {
    std::string host;  // without brackets; "" and names are resolved
    std::string port;
    AcceptLimits limits;
    bool tls = true;  // false: every connection goes to `grpc` at once
    Take grpc;
    Take join;  // takes connections whose ALPN is kJoinAlpn; absent: they are closed
  };

  // Unavailable names the address and the errno.
  static absl::StatusOr<std::unique_ptr<Acceptor>> Start(Options options);
  // No callback comes after it; connections that were handed on stay open.
  virtual ~Acceptor() = default;

  virtual uint16_t port() const = 0;
  // Closes both directions of every open connection that was handed to `grpc`, except those of
  // `peers` ("ip:port", as `Take` got them).
  virtual void CutAllBut(std::set<std::string> peers) = 0;
};

}  // namespace lanyard::net
