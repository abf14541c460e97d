// The first message of a TLS connection (RFC 8446, 4.1.2), read before anybody is trusted: what is
// not TLS 1.3 goes no further, and ALPN says what the connection is for.
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
    kNeedMore,  // these bytes are its beginning
    kDone,
    kNotTls,  // another protocol, or plaintext
    kBad,     // TLS, but malformed, too long, or cut into several records
  };
  State state = State::kNeedMore;
  bool tls13 = false;             // offered among the supported versions
  std::vector<std::string> alpn;  // as offered
};

// Never reads beyond `bytes`.
ClientHello ParseClientHello(std::span<const uint8_t> bytes);

}  // namespace lanyard::net
