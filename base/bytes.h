// Reads little-endian numbers from untrusted bytes and calculates with them, with checks.
#pragma once

#include <cstdint>
#include <cstring>
#include <optional>
#include <span>

namespace lanyard {

using ByteSpan = std::span<const uint8_t>;

// nullopt where the result does not fit.
inline std::optional<uint64_t> CheckedMul(uint64_t a, uint64_t b) {
  uint64_t out;
  if (__builtin_mul_overflow(a, b, &out)) return std::nullopt;
  return out;
}
inline std::optional<uint64_t> CheckedAdd(uint64_t a, uint64_t b) {
  uint64_t out;
  if (__builtin_add_overflow(a, b, &out)) return std::nullopt;
  return out;
}

// An unaligned load of a trivially copyable T; the caller has checked the bounds.
template <typename T>
T LoadUnaligned(const void* p) {
  T out;
  std::memcpy(&out, p, sizeof(T));
  return out;
}

}  // namespace lanyard
