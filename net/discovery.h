// Finding a cluster's coordinator in the office's network, a convenience beside giving its address:
// a machine that joins sends a datagram to a multicast group (IPv4 and IPv6) and the broadcast
// address of every interface; coordinators answer with their cluster's id, version and where
// machines join. Nothing in it is secret and nothing is trusted: the token's CA hash decides which
// cluster is meant, and an address counts only after TLS has proved that hash (net::Join).
//
// A query is padded to kDiscoveryBytes and an answer is never longer: nobody can use a coordinator
// to amplify traffic.
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
inline constexpr size_t kDiscoveryBytes = 512;  // of a query; the most of an answer
inline constexpr char kDiscoveryGroup4[] = "239.255.74.71";
inline constexpr char kDiscoveryGroup6[] = "ff02::4c61:7471";  // of one link

struct Beacon {
  std::string cluster;  // identity::ClusterIdOf the CA: 16 hex digits
  std::string version;
  std::vector<std::string>
      addresses;  // host:port where machines join; the one it answered from comes first
};

// The datagrams, as bytes. A query carries 16 random bytes that its answer repeats.
std::string EncodeQuery(std::string_view nonce);
absl::StatusOr<std::string> DecodeQuery(std::string_view bytes);  // the nonce
std::string EncodeAnswer(std::string_view nonce, const Beacon& beacon);
absl::StatusOr<Beacon> DecodeAnswer(std::string_view nonce, std::string_view bytes);

// So many answers a second, to one address and to all together. Not thread-safe.
class AnswerLimiter {
 public:
  bool MayAnswer(const std::string& address, TimeNs now);

 private:
  static constexpr int kPerAddress = 8;
  static constexpr int kAll = 64;
  std::map<std::string, int> answered_;  // in the current second
  int all_ = 0;
  TimeNs since_ = 0;
};

struct ResponderOptions {
  std::string cluster;
  std::string join_address;        // host:port as bound; of a wildcard the port counts alone
  uint16_t port = kDiscoveryPort;  // 0: any, for tests
};

class DiscoveryResponder {
 public:
  // Unavailable naming port and errno.
  static absl::StatusOr<std::unique_ptr<DiscoveryResponder>> Start(const ResponderOptions& options);
  virtual ~DiscoveryResponder() = default;
  virtual uint16_t port() const = 0;
};

// Starts one, or says in the log why not: null on loopback, where nobody else is, and where the
// port is taken. A coordinator works without.
std::unique_ptr<DiscoveryResponder> Announce(const ResponderOptions& options);

struct DiscoverOptions {
  int timeout_ms = 2000;
  uint16_t port = kDiscoveryPort;
};

// Everyone who answered, by cluster; blocks for the whole time. Unavailable when nothing could be
// sent.
absl::StatusOr<std::vector<Beacon>> Discover(const DiscoverOptions& options);

// The address of the coordinator whose CA has this fingerprint (32 raw bytes): of what was found,
// the first that proves it. NotFound says who else answered.
absl::StatusOr<std::string> FindCoordinator(std::string_view ca_fingerprint,
                                            const DiscoverOptions& options = {});

// What a --join means: an address stays itself; "auto" is looked for by the token's cluster.
// Without a token, and where nothing is found by a machine that is a member already (its identity
// is in `folder`), it is empty: where the machine was before.
absl::StatusOr<std::string> AddressToJoin(const std::string& join, const std::string& token,
                                          const std::string& folder);

}  // namespace lanyard::net
