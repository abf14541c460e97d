// Loads and stores: addresses of 32 lanes at a time, then the checks (access.cc), then the bytes.
#include "tests/ptx/exec_lanes.h"

namespace lanyard::ptx::LANYARD_PTX_ISA {

namespace {

inline void Addresses(const Warp& w, const Op& op, uint64_t* addresses) {
  const auto imm = static_cast<uint64_t>(op.imm);
  if ((op.flags & kAddress32) != 0) {
    const uint32_t* base = w.R<uint32_t>(op.src[0]);
    LANYARD_LANES
    for (uint32_t i = 0; i < 32; ++i) addresses[i] = base[i] + imm;
  } else {
    const uint64_t* base = w.R<uint64_t>(op.src[0]);
    LANYARD_LANES
    for (uint32_t i = 0; i < 32; ++i) addresses[i] = base[i] + imm;
  }
}

// By insertion: for the rare access whose lanes jump to and fro over more than 64 sectors.
uint32_t CountDistinctSectors(const uint64_t* addresses) {
  uint64_t seen[32];
  uint32_t n = 0;
  for (uint32_t i = 0; i < 32; ++i) {
    uint32_t k = 0;
    while (k < n && seen[k] != addresses[i] >> 5) ++k;
    if (k == n) seen[n++] = addresses[i] >> 5;
  }
  return n;
}

Range MeasureLanes(uint32_t mask, uint64_t* addresses) {
  const uint64_t first = addresses[__builtin_ctz(mask)];
  if (mask != kAllLanes) {
    LANYARD_LANES
    for (uint32_t i = 0; i < 32; ++i) addresses[i] = (mask >> i & 1u) != 0 ? addresses[i] : first;
  }
  // Signed, which vector units compare: no address has the top bit.
  auto low = static_cast<int64_t>(first), high = low;
  uint64_t bits = 0;
  for (uint32_t i = 0; i < 32; ++i) {
    const auto a = static_cast<int64_t>(addresses[i]);
    low = a < low ? a : low;
    high = a > high ? a : high;
    bits |= addresses[i];
  }
  uint64_t steps = 0, falls = 0;
  for (uint32_t i = 0; i < 31; ++i) {
    const auto here = static_cast<int64_t>(addresses[i] >> 5),
               next = static_cast<int64_t>(addresses[i + 1] >> 5);
    steps += next != here ? 1 : 0;
    falls |= next < here ? 1 : 0;
  }
  Range r{static_cast<uint64_t>(low), static_cast<uint64_t>(high), bits, 1};
  const uint64_t lowest = r.low >> 5, span = (r.high >> 5) - lowest;
  if (falls == 0) {  // ascending: every step is a new sector
    r.sectors = static_cast<uint32_t>(steps) + 1;
  } else if (span < 64) {
    uint64_t seen = 0;
    for (uint32_t i = 0; i < 32; ++i) seen |= uint64_t{1} << ((addresses[i] >> 5) - lowest);
    r.sectors = static_cast<uint32_t>(__builtin_popcountll(seen));
  } else {
    r.sectors = CountDistinctSectors(addresses);
  }
  return r;
}

template <typename T>
inline T ReadAt(uint64_t address) {
  T v;
  __builtin_memcpy(&v, reinterpret_cast<const void*>(address), sizeof(T));
  return v;
}

// D: what the register holds (uint32_t or uint64_t); T: what memory holds, extended as its sign
// says.
template <typename D, typename T>
inline void Gather(D* d, const uint64_t* host, uint32_t offset, uint32_t mask) {
  if (mask == kAllLanes) {
    for (uint32_t i = 0; i < 32; ++i) d[i] = static_cast<D>(ReadAt<T>(host[i] + offset));
    return;
  }
  for (uint32_t rest = mask; rest != 0; rest &= rest - 1) {
    const auto i = static_cast<uint32_t>(__builtin_ctz(rest));
    d[i] = static_cast<D>(ReadAt<T>(host[i] + offset));
  }
}

template <typename D>
void GatherAs(const Op& op, D* d, const uint64_t* host, uint32_t offset, uint32_t mask) {
  const bool sign = (op.flags & kSignExtend) != 0;
  switch (op.bytes) {
    case 1:
      sign ? Gather<D, int8_t>(d, host, offset, mask) : Gather<D, uint8_t>(d, host, offset, mask);
      break;
    case 2:
      sign ? Gather<D, int16_t>(d, host, offset, mask) : Gather<D, uint16_t>(d, host, offset, mask);
      break;
    case 4:
      sign ? Gather<D, int32_t>(d, host, offset, mask) : Gather<D, uint32_t>(d, host, offset, mask);
      break;
    default:
      Gather<D, uint64_t>(d, host, offset, mask);
      break;
  }
  if ((op.flags & kDest16) != 0) {
    for (uint32_t i = 0; i < 32; ++i) d[i] &= 0xffffu;
  }
}

void Load(Warp& w, const Op& op, uint32_t mask) {
  alignas(64) uint64_t host[32];
  Addresses(w, op, host);
  Access access;
  access.space = static_cast<Space>(op.mode);
  access.bytes = uint32_t{op.bytes} * op.count;
  access.atomic = (op.flags & kAtomicAccess) != 0;
  if (access.space == Space::kGeneric && !ResolveGeneric(w, op, mask, host, &access.space)) return;
  if (!CheckAccess(w, op, mask, host, access)) return;
  if (op.count == 4 && op.bytes == 4 && (op.flags & (kWideDest | kDest16)) == 0) {
    uint32_t* d[4];
    for (uint32_t c = 0; c < 4; ++c) d[c] = w.R<uint32_t>(w.launch->program->aux[op.target + c]);
    for (uint32_t rest = mask; rest != 0; rest &= rest - 1) {
      const auto i = static_cast<uint32_t>(__builtin_ctz(rest));
      uint32_t v[4];
      __builtin_memcpy(v, reinterpret_cast<const void*>(host[i]), 16);
      for (uint32_t c = 0; c < 4; ++c) d[c][i] = v[c];
    }
    return;
  }
  for (uint32_t c = 0; c < op.count; ++c) {
    const uint32_t dst = op.count == 1 ? op.dst : w.launch->program->aux[op.target + c];
    if ((op.flags & kWideDest) != 0) {
      GatherAs(op, w.R<uint64_t>(dst), host, c * op.bytes, mask);
    } else {
      GatherAs(op, w.R<uint32_t>(dst), host, c * op.bytes, mask);
    }
  }
}

void Store(Warp& w, const Op& op, uint32_t mask) {
  alignas(64) uint64_t host[32];
  alignas(64) uint8_t data[32 * 16];
  Addresses(w, op, host);
  for (uint32_t c = 0; c < op.count; ++c) {
    const uint32_t src = op.count == 1 ? op.src[1] : w.launch->program->aux[op.target + c];
    for (uint32_t i = 0; i < 32; ++i) {
      uint8_t* to = data + i * 16 + c * op.bytes;
      const uint64_t v =
          (op.flags & kWideDest) != 0 ? w.R<uint64_t>(src)[i] : w.R<uint32_t>(src)[i];
      switch (op.bytes) {
        case 1:
          *to = static_cast<uint8_t>(v);
          break;
        case 2:
          __builtin_memcpy(to, &v, 2);
          break;
        case 4:
          __builtin_memcpy(to, &v, 4);
          break;
        default:
          __builtin_memcpy(to, &v, 8);
          break;
      }
    }
  }
  Access access;
  access.space = static_cast<Space>(op.mode);
  access.kind = kWrite;
  access.bytes = uint32_t{op.bytes} * op.count;
  access.atomic = (op.flags & kAtomicAccess) != 0;
  access.data = data;
  if (access.space == Space::kGeneric && !ResolveGeneric(w, op, mask, host, &access.space)) return;
  if (!CheckAccess(w, op, mask, host, access)) return;
  for (uint32_t rest = mask; rest != 0; rest &= rest - 1) {
    const auto i = static_cast<uint32_t>(__builtin_ctz(rest));
    void* to = reinterpret_cast<void*>(host[i]);
    switch (access.bytes) {
      case 1:
        __builtin_memcpy(to, data + i * 16, 1);
        break;
      case 2:
        __builtin_memcpy(to, data + i * 16, 2);
        break;
      case 4:
        __builtin_memcpy(to, data + i * 16, 4);
        break;
      case 8:
        __builtin_memcpy(to, data + i * 16, 8);
        break;
      default:
        __builtin_memcpy(to, data + i * 16, 16);
        break;
    }
  }
}

// The same for every lane: op.imm is the offset; the address register (if any) is added by hand for
// each.
void LoadParam(Warp& w, const Op& op, uint32_t mask) {
  alignas(64) uint64_t host[32];
  const bool has_base = op.src[0] != 0;
  const uint32_t bytes = uint32_t{op.bytes} * op.count;
  for (uint32_t i = 0; i < 32; ++i) {
    uint64_t offset = static_cast<uint64_t>(op.imm);
    if (has_base)
      offset +=
          (op.flags & kAddress32) != 0 ? w.R<uint32_t>(op.src[0])[i] : w.R<uint64_t>(op.src[0])[i];
    if ((offset & kWindowMask) == kParamWindow) offset &= ~kWindowMask;
    if ((mask >> i & 1u) == 0) {
      host[i] = reinterpret_cast<uint64_t>(w.launch->params);
      continue;
    }
    if (offset > w.launch->program->param_bytes ||
        bytes > w.launch->program->param_bytes - offset) {
      FailAccess(w, op, {Space::kParam, Fault::kOutside, static_cast<int>(i), offset});
      return;
    }
    host[i] = reinterpret_cast<uint64_t>(w.launch->params) + offset;
  }
  for (uint32_t c = 0; c < op.count; ++c) {
    const uint32_t dst = op.count == 1 ? op.dst : w.launch->program->aux[op.target + c];
    if ((op.flags & kWideDest) != 0) {
      GatherAs(op, w.R<uint64_t>(dst), host, c * op.bytes, mask);
    } else {
      GatherAs(op, w.R<uint32_t>(dst), host, c * op.bytes, mask);
    }
  }
}

}  // namespace

void AddMemoryHandlers(OpTable* t) {
  t->special.load = Load;
  t->special.store = Store;
  t->special.load_param = LoadParam;
  t->special.measure = MeasureLanes;
}

}  // namespace lanyard::ptx::LANYARD_PTX_ISA
