// The kinds of atom and red, for the decoder and the execution (Op::mode).
#pragma once

#include <cstdint>

namespace lanyard::ptx {

enum class AtomicKind : uint8_t {
  kAdd,
  kMin,
  kMax,
  kAnd,
  kOr,
  kXor,
  kExchange,
  kCompare,
  kIncrement,
  kDecrement,
  kAddFloat,
};

}  // namespace lanyard::ptx
