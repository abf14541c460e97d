// The first message of a TLS connection (RFC 8446, 4.1.2), which is read before the peer is trusted
// in anything. A connection that is not TLS 1.3 goes no further, and ALPN says what it is for.
#pragma once

#include <cstddef>
#include <cstdint>
#include <span>
#include <string>
#include <vector>

namespace lanyard::net {

inline constexpr size_t kMaxClientHelloBytes = size_t{4} << 10;

struct ClientHello {
  enum class State : uint8_t {
    kNeedMore,  // the bytes are the beginning of one
    kDone,
    kNotTls,  // another protocol, or plaintext
    kBad,     // TLS, but malformed, too long, or cut into several records
  };
  State state = State::kNeedMore;
  bool tls13 = false;             // TLS 1.3 is among the versions offered
  std::vector<std::string> alpn;  // in the order offered
};

// It never reads beyond `bytes`.
ClientHello ParseClientHello(std::span<const uint8_t> bytes);

}  // namespace lanyard::net
