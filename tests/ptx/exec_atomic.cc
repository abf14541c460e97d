// atom and red. Lanes take their turns in a random order, as on a card: a result that depends on it
// differs from seed to seed.
#include <bit>

#include "tests/ptx/atomic.h"
#include "tests/ptx/half.h"
#include "tests/ptx/program.h"

namespace lanyard::ptx {

namespace {

template <typename U>
U Apply(const Op& op, U old, U value, U second) {
  using S = std::make_signed_t<U>;
  const bool is_signed = op.bytes * 8 == sizeof(U) * 8 && (op.flags & kSignExtend) != 0;
  const bool less = is_signed ? static_cast<S>(value) < static_cast<S>(old) : value < old;
  switch (static_cast<AtomicKind>(op.mode)) {
    case AtomicKind::kAdd:
      return old + value;
    case AtomicKind::kMin:
      return less ? value : old;
    case AtomicKind::kMax:
      return less ? old : value;
    case AtomicKind::kAnd:
      return old & value;
    case AtomicKind::kOr:
      return old | value;
    case AtomicKind::kXor:
      return old ^ value;
    case AtomicKind::kExchange:
      return value;
    case AtomicKind::kCompare:
      return old == value ? second : old;
    case AtomicKind::kIncrement:
      return old >= value ? 0 : old + 1;
    case AtomicKind::kDecrement:
      return old == 0 || old > value ? value : old - 1;
    case AtomicKind::kAddFloat:
      break;
  }
  if constexpr (sizeof(U) == 4) {
    const float sum = std::bit_cast<float>(old) + std::bit_cast<float>(value);
    return sum != sum ? kFloatNan : std::bit_cast<U>(sum);
  } else {
    const double sum = std::bit_cast<double>(old) + std::bit_cast<double>(value);
    return sum != sum ? kDoubleNan : std::bit_cast<U>(sum);
  }
}

template <typename U>
void OneLane(Warp& w, const Op& op, uint32_t lane, uint64_t host) {
  U old;
  std::memcpy(&old, reinterpret_cast<const void*>(host), sizeof(U));
  const U second = op.src[2] != 0 ? w.R<U>(op.src[2])[lane] : U{0};
  const U result = Apply<U>(op, old, w.R<U>(op.src[1])[lane], second);
  std::memcpy(reinterpret_cast<void*>(host), &result, sizeof(U));
  if ((op.flags & kHasDst) != 0) w.R<U>(op.dst)[lane] = old;
}

// op.count is the Space, op.mode the AtomicKind; src: address, operand, second operand (of cas).
void Atomic(Warp& w, const Op& op, uint32_t mask) {
  uint64_t host[32];
  for (uint32_t i = 0; i < 32; ++i) {
    host[i] =
        static_cast<uint64_t>(op.imm) +
        ((op.flags & kAddress32) != 0 ? w.R<uint32_t>(op.src[0])[i] : w.R<uint64_t>(op.src[0])[i]);
  }
  Access access;
  access.space = static_cast<Space>(op.count);
  access.kind = kReadWrite;
  access.bytes = op.bytes;
  access.atomic = true;
  if (access.space == Space::kGeneric && !ResolveGeneric(w, op, mask, host, &access.space)) return;
  if (!CheckAccess(w, op, mask, host, access)) return;
  w.launch->counters->atomics += static_cast<uint32_t>(std::popcount(mask));
  uint32_t lanes[32], n = 0;
  for (uint32_t rest = mask; rest != 0; rest &= rest - 1)
    lanes[n++] = static_cast<uint32_t>(std::countr_zero(rest));
  for (uint32_t i = n; i > 1; --i) std::swap(lanes[i - 1], lanes[w.launch->Random() % i]);
  for (uint32_t i = 0; i < n; ++i) {
    if (op.bytes == 8)
      OneLane<uint64_t>(w, op, lanes[i], host[lanes[i]]);
    else
      OneLane<uint32_t>(w, op, lanes[i], host[lanes[i]]);
  }
}

}  // namespace

void AddAtomicHandlers(SpecialHandlers* h) { h->atomic = Atomic; }

}  // namespace lanyard::ptx
