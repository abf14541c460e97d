// Finds a cluster's coordinator in the office's network, as a convenience beside giving its
// address. A machine that joins sends a datagram to a multicast group (IPv4 and IPv6) and the
// broadcast address of every interface; Coordinators answer with their cluster's id, version and
// where machines join. Nothing in it is secret and nothing is trusted: the token's CA hash decides
// which cluster is meant, and an address counts only after TLS has proved that hash (net::Join).
//
// A query is padded to kDiscoveryBytes and an answer is never longer, so a coordinator cannot be
// used to amplify traffic.
#pragma once

#include <cstdint>
#include <map>
#include <memory>
#include <string>
#include <string_view>
#include <vector>

#include "base/clock.h"
#include "base/status.h"

namespace lanyard::net {

inline constexpr uint16_t kDiscoveryPort = 7471;
// Size of a query, and the largest size of an answer.
inline constexpr size_t kDiscoveryBytes = 512;
inline constexpr char kDiscoveryGroup4[] = "239.255.74.71";
inline constexpr char kDiscoveryGroup6[] = "ff02::4c61:7471";  // link-local

struct Beacon {
  std::string cluster;  // identity::ClusterIdOf the CA: 16 hex digits
  std::string version;
  std::vector<std::string>
      addresses;  // host:port where machines join; the one that the answer came from is first
};

// Codes the datagrams as bytes. A query carries 16 random bytes that its answer repeats.
std::string EncodeQuery(std::string_view nonce);
absl::StatusOr<std::string> DecodeQuery(std::string_view bytes);  // returns the nonce
std::string EncodeAnswer(std::string_view nonce, const Beacon& beacon);
absl::StatusOr<Beacon> DecodeAnswer(std::string_view nonce, std::string_view bytes);

// Limits the answers a second, to one address and to all together. Not thread-safe.
class AnswerLimiter {
 public:
  bool MayAnswer(const std::string& address, TimeNs now);

 private:
  static constexpr int kPerAddress = 8;
  static constexpr int kAll = 64;
  std::map<std::string, int> answered_;  // answers in the current second
  int all_ = 0;
  TimeNs since_ = 0;
};

struct ResponderOptions {
  std::string cluster;
  std::string join_address;        // host:port as bound; of a wildcard only the port counts
  uint16_t port = kDiscoveryPort;  // 0: any, for tests
};

class DiscoveryResponder {
 public:
  // Unavailable names the port and the errno.
  static absl::StatusOr<std::unique_ptr<DiscoveryResponder>> Start(const ResponderOptions& options);
  virtual ~DiscoveryResponder() = default;
  virtual uint16_t port() const = 0;
};

// Starts one, or logs why not and returns null: on loopback, where no other machine is, and where
// the port is taken. A coordinator works without it.
std::unique_ptr<DiscoveryResponder> Announce(const ResponderOptions& options);

struct DiscoverOptions {
  int timeout_ms = 2000;
  uint16_t port = kDiscoveryPort;
};

// Returns every coordinator that answered, by cluster; blocks for the whole time. Unavailable when
// nothing could be sent.
absl::StatusOr<std::vector<Beacon>> Discover(const DiscoverOptions& options);

// Returns the address of the coordinator whose CA has this fingerprint (32 raw bytes): of the
// addresses found, the first that proves it. NotFound says which others answered.
absl::StatusOr<std::string> FindCoordinator(std::string_view ca_fingerprint,
                                            const DiscoverOptions& options = {});

// Resolves the value of --join. An address stays as it is; "auto" is looked for by the token's
// cluster. The result is empty, which means "where the machine was before", when there is no token
// or nothing is found and the machine is a member already (its identity is in `folder`).
absl::StatusOr<std::string> AddressToJoin(const std::string& join, const std::string& token,
                                          const std::string& folder);

}  // namespace lanyard::net
