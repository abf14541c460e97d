// The checks of memory accesses: where, aligned, written before, raced with; and what they cost
// (sectors, bank conflicts).
#include <algorithm>
#include <bit>

#include "tests/ptx/program.h"

namespace lanyard::ptx {

namespace {

int FirstMisaligned(uint32_t mask, const uint64_t* addresses, uint32_t bytes) {
  for (uint32_t rest = mask; rest != 0; rest &= rest - 1) {
    if (addresses[FirstLane(rest)] % bytes != 0) return FirstLane(rest);
  }
  return 0;
}

// Wavefronts beyond the first of `lanes` lanes that access words.
uint32_t Conflicts(uint32_t mask, const uint64_t* addresses, uint32_t first, uint32_t lanes,
                   uint32_t words) {
  uint32_t count[32] = {}, most = 1;
  uint32_t seen[128];
  uint32_t n = 0;
  for (uint32_t i = first; i < first + lanes; ++i) {
    if ((mask >> i & 1u) == 0) continue;
    for (uint32_t k = 0; k < words; ++k) {
      const uint32_t word = static_cast<uint32_t>(addresses[i] >> 2) + k;
      if (std::find(seen, seen + n, word) != seen + n) continue;
      seen[n++] = word;
      most = std::max(most, ++count[word & 31u]);
    }
  }
  return most - 1;
}

uint32_t BankConflicts(uint32_t mask, const Range& r, const uint64_t* addresses, uint32_t bytes) {
  // Words within 32 in a row never meet in a bank.
  if ((r.high - r.low) + bytes <= 128 && (r.low & 3u) + (r.high - r.low) + bytes <= 128) return 0;
  if (bytes <= 4) {
    uint32_t banks = 0;
    for (uint32_t i = 0; i < 32; ++i) banks |= 1u << (addresses[i] >> 2 & 31u);
    if (std::popcount(banks) == std::popcount(mask)) return 0;
  }
  const uint32_t words = bytes <= 4 ? 1 : bytes / 4;
  const uint32_t lanes =
      32 / words;  // a request of 8 or 16 bytes a lane takes 2 or 4 wavefronts anyway
  uint32_t extra = 0;
  for (uint32_t first = 0; first < 32; first += lanes)
    extra += Conflicts(mask, addresses, first, lanes, words);
  return extra;
}

Accessor MakeAccessor(const Warp& w, bool atomic, uint32_t epoch_start) {
  Accessor who;
  who.now = w.launch->memory->time;
  who.epoch_start = epoch_start;
  who.block_start = w.block->block_start;
  who.sync_min = w.sync_min;
  who.sync = w.block->sync.data() + w.index * 32;
  who.warp = w.index;
  who.in_warp = w.launch->options->check_races_in_warp;
  who.atomic = atomic;
  return who;
}

Conflict NoteAccess(Warp& w, WarpAccess note, const Access& access, uint32_t epoch_start,
                    const uint8_t* memory) {
  const Accessor who = MakeAccessor(w, access.atomic, epoch_start);
  if (access.kind == kRead) {
    // Many lanes, one address: the first two say all.
    if (note.mask == kAllLanes && std::all_of(note.addresses, note.addresses + 32,
                                              [&](uint64_t a) { return a == note.addresses[0]; })) {
      note.mask = 3;
    }
    return NoteReads(note, who);
  }
  static const uint8_t kNothing[32 * 16] = {};
  return NoteWrites(note, who, memory, access.data != nullptr ? access.data : kNothing);
}

// Lanes whose bytes were not all written; -1 if there is none.
int FirstUnwritten(const uint64_t* written, uint64_t base, uint32_t mask, const uint64_t* addresses,
                   uint32_t bytes) {
  for (uint32_t rest = mask; rest != 0; rest &= rest - 1) {
    const uint64_t offset = addresses[FirstLane(rest)] - base;
    const uint64_t want = (uint64_t{1} << bytes) - 1;  // aligned: never across two words
    if ((written[offset >> 6] >> (offset & 63) & want) != want) return FirstLane(rest);
  }
  return -1;
}

// Lanes of an access that one allocation holds.
struct Lanes {
  uint32_t mask;
  const uint64_t* addresses;
};
bool CheckIn(Warp& w, const Op& op, Allocation& a, const Lanes& lanes, const Access& access) {
  const auto [mask, addresses] = lanes;
  const MachineOptions& options = *w.launch->options;
  if (access.kind != kRead && a.read_only) {
    FailAccess(w, op,
               {access.space, Fault::kReadOnly, FirstLane(mask), addresses[FirstLane(mask)]});
    return false;
  }
  if (access.kind != kWrite && a.unwritten != 0 && options.check_initialised) {
    const int lane = FirstUnwritten(a.written, a.base, mask, addresses, access.bytes);
    if (lane >= 0) {
      FailAccess(w, op, {access.space, Fault::kUnwritten, lane, addresses[lane]});
      return false;
    }
  }
  if (options.check_races) {
    if (access.kind != kRead) a.tracked_launch = w.launch->launch_start;
    if (w.launch->track_all || a.tracked_launch == w.launch->launch_start) {
      if (a.cells.empty()) a.cells.Resize(a.bytes);
      const WarpAccess note{&a.cells, a.base, addresses, mask, access.bytes};
      const Conflict c = NoteAccess(w, note, access, w.launch->launch_start,
                                    reinterpret_cast<const uint8_t*>(a.base));
      if (c.kind != nullptr) {
        FailRace(w, op, access.space, c);
        return false;
      }
    }
  }
  if (access.kind == kWrite && a.unwritten != 0) {
    for (uint32_t rest = mask; rest != 0; rest &= rest - 1) {
      a.unwritten -= SetBits(a.written, addresses[FirstLane(rest)] - a.base, access.bytes);
    }
  }
  return true;
}

void CountGlobal(Warp& w, uint32_t mask, const Range& r, const Access& access) {
  Counters& c = *w.launch->counters;
  const uint32_t sectors = r.sectors;
  const uint64_t bytes = uint64_t{access.bytes} * static_cast<uint32_t>(std::popcount(mask));
  if (access.kind != kWrite) {
    ++c.global_load_requests;
    c.global_read_sectors += sectors;
    c.global_read_bytes += bytes;
  }
  if (access.kind != kRead) {
    ++c.global_store_requests;
    c.global_write_sectors += sectors;
    c.global_write_bytes += bytes;
  }
}

}  // namespace

bool CheckGlobal(Warp& w, const Op& op, uint32_t mask, uint64_t* addresses, const Access& access) {
  const Range r = w.launch->program->table->special.measure(mask, addresses);
  if ((r.bits & (access.bytes - 1)) != 0) {
    const int lane = FirstMisaligned(mask, addresses, access.bytes);
    FailAccess(w, op, {access.space, Fault::kMisaligned, lane, addresses[lane]});
    return false;
  }
  Allocation*& last =
      w.launch->last_allocation[static_cast<size_t>(&op - w.launch->program->code.data())];
  const uint64_t span = r.high - r.low + access.bytes;
  const auto holds = [](const Allocation* a, uint64_t low, uint64_t bytes) {
    return a != nullptr && low >= a->base && low - a->base <= a->bytes &&
           bytes <= a->bytes - (low - a->base);
  };
  if (!holds(last, r.low, span)) {
    Allocation* found = w.launch->memory->Holding(r.low, span);
    if (found != nullptr) last = found;
  }
  if (holds(last, r.low, span)) {
    if (!CheckIn(w, op, *last, {mask, addresses}, access)) return false;
  } else {
    // Lanes in several allocations, or a lane outside.
    for (uint32_t rest = mask; rest != 0;) {
      const int lane = FirstLane(rest);
      Allocation* a = w.launch->memory->Holding(addresses[lane], access.bytes);
      if (a == nullptr) {
        FailAccess(w, op, {access.space, Fault::kOutside, lane, addresses[lane]});
        return false;
      }
      uint32_t same = 0;
      for (uint32_t more = rest; more != 0; more &= more - 1) {
        if (holds(a, addresses[FirstLane(more)], access.bytes)) same |= more & (0 - more);
      }
      if (!CheckIn(w, op, *a, {same, addresses}, access)) return false;
      rest &= ~same;
    }
  }
  CountGlobal(w, mask, r, access);
  return true;
}

bool CheckShared(Warp& w, const Op& op, uint32_t mask, uint64_t* addresses, const Access& access) {
  Block& b = *w.block;
  const MachineOptions& options = *w.launch->options;
  const Range r = w.launch->program->table->special.measure(mask, addresses);
  if ((r.bits & (access.bytes - 1)) != 0) {
    const int lane = FirstMisaligned(mask, addresses, access.bytes);
    FailAccess(w, op, {Space::kShared, Fault::kMisaligned, lane, addresses[lane]});
    return false;
  }
  const uint64_t end = uint64_t{kSharedBase} + b.shared_bytes;
  if (r.low < kSharedBase || r.high >= end || access.bytes > end - r.high) {
    for (uint32_t rest = mask; rest != 0; rest &= rest - 1) {
      const uint64_t a = addresses[FirstLane(rest)];
      if (a >= kSharedBase && a < end && access.bytes <= end - a) continue;
      FailAccess(w, op, {Space::kShared, Fault::kOutside, FirstLane(rest), a});
      return false;
    }
  }
  if (b.in_flight != 0) {
    for (uint32_t rest = mask; rest != 0; rest &= rest - 1) {
      const uint64_t offset = addresses[FirstLane(rest)] - kSharedBase;
      const uint64_t bits =
          b.shared_in_flight[offset >> 6] >> (offset & 63) & ((uint64_t{1} << access.bytes) - 1);
      if (bits == 0) continue;
      FailAccess(w, op,
                 {Space::kShared, Fault::kInFlight, FirstLane(rest), addresses[FirstLane(rest)]});
      return false;
    }
  }
  if (access.kind != kWrite && options.check_initialised) {
    const int lane =
        FirstUnwritten(b.shared_written.data(), kSharedBase, mask, addresses, access.bytes);
    if (lane >= 0) {
      FailAccess(w, op, {Space::kShared, Fault::kUnwritten, lane, addresses[lane]});
      return false;
    }
  }
  if (options.check_races) {
    const WarpAccess note{&b.shared_cells, kSharedBase, addresses, mask, access.bytes};
    const Conflict c = NoteAccess(w, note, access, b.block_start, b.shared.data());
    if (c.kind != nullptr) {
      FailRace(w, op, Space::kShared, c);
      return false;
    }
  }
  if (access.kind == kWrite) {
    for (uint32_t rest = mask; rest != 0; rest &= rest - 1) {
      SetBits(b.shared_written.data(), addresses[FirstLane(rest)] - kSharedBase, access.bytes);
    }
  }
  ++w.launch->counters->shared_requests;
  w.launch->counters->shared_conflicts += BankConflicts(mask, r, addresses, access.bytes);
  const uint64_t host = reinterpret_cast<uint64_t>(b.shared.data()) - kSharedBase;
  for (uint32_t i = 0; i < 32; ++i) addresses[i] += host;
  return true;
}

bool CheckLocal(Warp& w, const Op& op, uint32_t mask, uint64_t* addresses, const Access& access) {
  const uint64_t size = w.launch->program->local_bytes;
  ++w.launch->counters->local_requests;
  for (uint32_t rest = mask; rest != 0; rest &= rest - 1) {
    const int lane = FirstLane(rest);
    const uint64_t a = addresses[lane];
    if (a % access.bytes != 0) {
      FailAccess(w, op, {Space::kLocal, Fault::kMisaligned, lane, a});
      return false;
    }
    if (a >= size || access.bytes > size - a) {
      FailAccess(w, op, {Space::kLocal, Fault::kOutside, lane, a});
      return false;
    }
    const uint64_t offset = static_cast<uint64_t>(lane) * size + a;
    if (access.kind != kRead) {
      SetBits(w.local_written.data(), offset, access.bytes);
    } else if (w.launch->options->check_initialised &&
               !AllSet(w.local_written.data(), offset, access.bytes)) {
      FailAccess(w, op, {Space::kLocal, Fault::kUnwritten, lane, a});
      return false;
    }
    addresses[lane] = reinterpret_cast<uint64_t>(w.local) + offset;
  }
  for (uint32_t i = 0; i < 32; ++i) {
    if ((mask >> i & 1u) == 0) addresses[i] = addresses[FirstLane(mask)];
  }
  return true;
}

bool ResolveGeneric(Warp& w, const Op& op, uint32_t mask, uint64_t* addresses, Space* space) {
  const uint64_t window = addresses[FirstLane(mask)] & kWindowMask;
  for (uint32_t rest = mask; rest != 0; rest &= rest - 1) {
    const int lane = FirstLane(rest);
    if ((addresses[lane] & kWindowMask) != window) {
      FailAccess(w, op, {Space::kGeneric, Fault::kMixedSpaces, lane, addresses[lane]});
      return false;
    }
    addresses[lane] &= window == 0 ? ~uint64_t{0} : ~kWindowMask;
  }
  *space = window == kSharedWindow  ? Space::kShared
           : window == kLocalWindow ? Space::kLocal
                                    : Space::kGlobal;
  if (window != 0 && *space == Space::kGlobal) {
    FailAccess(w, op,
               {Space::kGeneric, Fault::kBadAddress, FirstLane(mask), addresses[FirstLane(mask)]});
    return false;
  }
  return true;
}

// --- Messages

void FailAccess(Warp& w, const Op& op, const AccessFault& f) {
  const Space space = f.space;
  const uint64_t address = f.address;
  std::string where;
  if (space == Space::kGlobal || space == Space::kConst) {
    where = absl::StrCat(SpaceName(space), " address ", w.launch->memory->Describe(address));
  } else if (space == Space::kShared) {
    where = absl::StrCat("shared address ", static_cast<int64_t>(address - kSharedBase), " of ",
                         w.block->shared_bytes, " bytes");
  } else if (space == Space::kLocal) {
    where =
        absl::StrCat("local address ", address, " of ", w.launch->program->local_bytes, " bytes");
  } else {
    where = absl::StrCat(SpaceName(space), " address ", absl::StrFormat("0x%x", address));
  }
  const char* what = "";
  switch (f.fault) {
    case Fault::kMisaligned:
      what = "a misaligned access: ";
      break;
    case Fault::kOutside:
      what = "out of bounds: ";
      break;
    case Fault::kUnwritten:
      what = "a read of memory that nobody wrote: ";
      break;
    case Fault::kInFlight:
      what = "an access to what cp.async is still filling (no cp.async.wait before it): ";
      break;
    case Fault::kReadOnly:
      what = "a write to constant memory: ";
      break;
    case Fault::kMixedSpaces:
      what =
          "lanes of one generic access are in different spaces, which the machine does not know: ";
      break;
    case Fault::kBadAddress:
      what = "a generic address of no space that can be accessed: ";
      break;
  }
  if (f.fault == Fault::kOutside && space == Space::kGlobal) {
    const Allocation* near = w.launch->memory->Near(address);
    if (near != nullptr && !near->live && address >= near->base &&
        address < near->base + near->bytes)
      what = "use after free: ";
  }
  Fail(w, op, f.lane, absl::StrCat(what, where));
}

void FailRace(Warp& w, const Op& op, Space space, const Conflict& c) {
  const std::string where =
      space == Space::kShared
          ? absl::StrCat("shared address ", static_cast<int64_t>(c.address - kSharedBase))
          : absl::StrCat("global address ", w.launch->memory->Describe(c.address));
  std::string other;
  if (c.other_block) {
    other = "another block of the launch";
  } else {
    Warp fake;
    fake.launch = w.launch;
    fake.block = w.block;
    fake.index = c.other_warp;
    other = c.several ? absl::StrCat("several lanes of warp ", c.other_warp)
                      : ThreadName(fake, static_cast<int>(c.other_lane));
    if (c.other_warp == w.index) other += " of the same warp (no bar.warp.sync between)";
  }
  Fail(w, op, c.lane, absl::StrCat("a data race, ", c.kind, ", with ", other, ": ", where));
}

}  // namespace lanyard::ptx
