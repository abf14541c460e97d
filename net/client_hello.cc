#include "net/client_hello.h"

#include <optional>

namespace lanyard::net {
namespace {

constexpr uint8_t kHandshakeRecord = 22;
constexpr uint8_t kClientHelloMessage = 1;
constexpr uint16_t kSupportedVersions = 43;
constexpr uint16_t kAlpn = 16;
constexpr uint16_t kTls13 = 0x0304;
constexpr size_t kRecordHeader = 5;

// Reads big-endian numbers and vectors. A short read empties it and is remembered.
class Reader {
 public:
  explicit Reader(std::span<const uint8_t> bytes) : bytes_(bytes) {}

  bool good() const { return good_; }
  bool empty() const { return bytes_.empty(); }
  uint32_t Number(size_t n) {
    uint32_t out = 0;
    for (const uint8_t byte : Take(n)) out = out << 8 | byte;
    return out;
  }
  // Reads a vector that has its length in front, in `n` bytes.
  std::span<const uint8_t> Vector(size_t n) { return Take(Number(n)); }
  std::span<const uint8_t> Take(size_t n) {
    if (n > bytes_.size()) {
      good_ = false;
      bytes_ = {};
      return {};
    }
    const auto out = bytes_.first(n);
    bytes_ = bytes_.subspan(n);
    return out;
  }

 private:
  std::span<const uint8_t> bytes_;
  bool good_ = true;
};

bool ReadExtensions(std::span<const uint8_t> bytes, ClientHello* out) {
  Reader extensions(bytes);
  while (!extensions.empty()) {
    const uint32_t type = extensions.Number(2);
    Reader body(extensions.Vector(2));
    if (type == kSupportedVersions) {
      Reader versions(body.Vector(1));
      while (!versions.empty()) out->tls13 |= versions.Number(2) == kTls13;
      if (!versions.good()) return false;
    } else if (type == kAlpn) {
      Reader names(body.Vector(2));
      while (!names.empty()) {
        const auto name = names.Vector(1);
        out->alpn.emplace_back(name.begin(), name.end());
      }
      if (!names.good()) return false;
    }
    if (!body.good()) return false;
  }
  return extensions.good();
}

bool ReadHello(std::span<const uint8_t> record, ClientHello* out) {
  Reader reader(record);
  if (reader.Number(1) != kClientHelloMessage) return false;
  Reader hello(reader.Vector(3));
  hello.Take(2 + 32);  // legacy version, random
  hello.Vector(1);     // session id
  hello.Vector(2);     // cipher suites
  hello.Vector(1);     // compression methods
  if (!reader.good() || !hello.good()) return false;
  if (hello.empty()) return true;  // there are no extensions: it is an old client
  const auto extensions = hello.Vector(2);
  return hello.good() && ReadExtensions(extensions, out);
}

}  // namespace

ClientHello ParseClientHello(std::span<const uint8_t> bytes) {
  ClientHello out;
  if (!bytes.empty() && bytes[0] != kHandshakeRecord) out.state = ClientHello::State::kNotTls;
  if (bytes.size() > 1 && bytes[1] != 3) out.state = ClientHello::State::kNotTls;
  if (out.state == ClientHello::State::kNotTls || bytes.size() < kRecordHeader) return out;
  const size_t length = static_cast<size_t>(bytes[3]) << 8 | bytes[4];
  if (length == 0 || kRecordHeader + length > kMaxClientHelloBytes) {
    out.state = ClientHello::State::kBad;
  } else if (bytes.size() >= kRecordHeader + length) {
    out.state = ReadHello(bytes.subspan(kRecordHeader, length), &out) ? ClientHello::State::kDone
                                                                      : ClientHello::State::kBad;
  }
  return out;
}

}  // namespace lanyard::net
