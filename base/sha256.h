// SHA-256 by OpenSSL. Digests of weights are lower-case hex, 64 characters.
#pragma once

#include <array>
#include <cstdint>
#include <memory>
#include <span>
#include <string>
#include <string_view>

namespace lanyard {

class Sha256 {
 public:
  Sha256();
  ~Sha256();
  Sha256(const Sha256&) = delete;
  Sha256& operator=(const Sha256&) = delete;

  void Update(std::span<const uint8_t> data);
  // Ends the digest; the object may not be used after it.
  std::string FinishHex();

 private:
  void* ctx_;
};

std::string Sha256Hex(std::span<const uint8_t> data);
// True for exactly 64 characters of 0-9 a-f. A digest from outside is checked by this before it
// becomes part of a path.
bool IsSha256Hex(std::string_view s);

}  // namespace lanyard
