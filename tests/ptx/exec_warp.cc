// What lanes do together: shuffles, votes, barriers, ldmatrix, and the asynchronous copies of a
// warp.
#include <algorithm>

#include "tests/ptx/program.h"

namespace lanyard::ptx {

namespace {

// A .sync instruction with a member mask in op.src[3]: true if all that the lanes' masks name are
// here and agree on the mask.
bool Members(Warp& w, const Op& op, uint32_t mask) {
  const uint32_t* members = w.R<uint32_t>(op.src[3]);
  if (mask == kAllLanes) {  // the usual case: everybody names everybody
    uint32_t named = kAllLanes;
    for (uint32_t i = 0; i < 32; ++i) named &= members[i];
    if (named == kAllLanes) {
      w.last_chance = false;
      return true;
    }
  }
  uint32_t required = 0;
  for (uint32_t rest = mask; rest != 0; rest &= rest - 1) {
    const int lane = FirstLane(rest);
    if ((members[lane] >> lane & 1u) == 0) {
      Fail(w, op, lane,
           absl::StrFormat("the member mask 0x%08x does not name the lane itself (%d)",
                           members[lane], lane));
      return false;
    }
    required |= members[lane];
  }
  if (!Arrive(w, op, mask, required)) return false;
  for (uint32_t rest = mask; rest != 0; rest &= rest - 1) {
    const int lane = FirstLane(rest);
    for (uint32_t others = members[lane] & mask; others != 0; others &= others - 1) {
      const int other = FirstLane(others);
      if (members[other] == members[lane]) continue;
      Fail(w, op, lane,
           absl::StrFormat("member masks differ: lane %d has 0x%08x, lane %d has 0x%08x", lane,
                           members[lane], other, members[other]));
      return false;
    }
  }
  return true;
}

enum ShuffleMode : uint8_t { kIndex, kUp, kDown, kButterfly };

// The lane that is read; *in_range as PTX's predicate says.
uint32_t ShuffleSource(uint8_t mode, uint32_t lane, uint32_t b, uint32_t c, bool* in_range) {
  const auto value = static_cast<int32_t>(b & 31u);
  const uint32_t segment = c >> 8 & 31u, clamp = c & 31u;
  const auto most = static_cast<int32_t>((lane & segment) | (clamp & ~segment));
  const auto self = static_cast<int32_t>(lane);
  int32_t j = 0;
  switch (mode) {
    case kUp:
      j = self - value;
      *in_range = j >= most;
      break;
    case kDown:
      j = self + value;
      *in_range = j <= most;
      break;
    case kButterfly:
      j = self ^ value;
      *in_range = j <= most;
      break;
    default:
      j = static_cast<int32_t>(lane & segment) | (value & ~static_cast<int32_t>(segment));
      *in_range = j <= most;
      break;
  }
  return *in_range ? static_cast<uint32_t>(j) : lane;
}

void Shuffle(Warp& w, const Op& op, uint32_t mask) {
  if (!Members(w, op, mask)) return;
  ++w.launch->counters->shuffles;
  uint32_t values[32];
  std::copy_n(w.R<uint32_t>(op.src[0]), 32, values);
  const uint32_t* b = w.R<uint32_t>(op.src[1]);
  const uint32_t* c = w.R<uint32_t>(op.src[2]);
  uint32_t sources[32], in_range_mask = 0;
  for (uint32_t rest = mask; rest != 0; rest &= rest - 1) {
    const auto lane = static_cast<uint32_t>(FirstLane(rest));
    bool in_range = false;
    const uint32_t source = ShuffleSource(op.mode, lane, b[lane], c[lane], &in_range);
    if (source > 31 || (mask >> source & 1u) == 0) {
      Fail(w, op, static_cast<int>(lane),
           absl::StrFormat("a shuffle reads lane %d, which does not take part (lanes 0x%08x do)",
                           source, mask));
      return;
    }
    sources[lane] = source;
    in_range_mask |= uint32_t{in_range} << lane;
  }
  uint32_t* d = w.R<uint32_t>(op.dst);
  for (uint32_t rest = mask; rest != 0; rest &= rest - 1)
    d[FirstLane(rest)] = values[sources[FirstLane(rest)]];
  if ((op.flags & kHasDst2) != 0) w.P(op.dst2) = (w.P(op.dst2) & ~mask) | (in_range_mask & mask);
}

// op.mode: 0 all, 1 any, 2 uni, 3 ballot.
void Vote(Warp& w, const Op& op, uint32_t mask) {
  if (!Members(w, op, mask)) return;
  ++w.launch->counters->votes;
  const uint32_t predicate = w.P(op.src[0]) ^ ((op.flags & kNegateSource) != 0 ? kAllLanes : 0);
  const uint32_t* members = w.R<uint32_t>(op.src[3]);
  uint32_t result = 0;
  for (uint32_t rest = mask; rest != 0; rest &= rest - 1) {
    const int lane = FirstLane(rest);
    const uint32_t group = members[lane] & mask, yes = predicate & group;
    if (op.mode == 3) {
      w.R<uint32_t>(op.dst)[lane] = yes;
      continue;
    }
    const bool is = op.mode == 0   ? yes == group
                    : op.mode == 1 ? yes != 0
                                   : yes == group || yes == 0;
    result |= uint32_t{is} << lane;
  }
  if (op.mode != 3) w.P(op.dst) = (w.P(op.dst) & ~mask) | (result & mask);
}

// op.mode: 0 any, 1 all (dst2: whether all agree).
void Match(Warp& w, const Op& op, uint32_t mask) {
  if (!Members(w, op, mask)) return;
  ++w.launch->counters->votes;
  const uint32_t* members = w.R<uint32_t>(op.src[3]);
  const auto value = [&](int lane) {
    return op.bytes == 8 ? w.R<uint64_t>(op.src[0])[lane] : w.R<uint32_t>(op.src[0])[lane];
  };
  uint32_t results[32], agree = 0;
  for (uint32_t rest = mask; rest != 0; rest &= rest - 1) {
    const int lane = FirstLane(rest);
    const uint32_t group = members[lane] & mask;
    uint32_t same = 0;
    for (uint32_t others = group; others != 0; others &= others - 1) {
      if (value(FirstLane(others)) == value(lane)) same |= others & (0 - others);
    }
    results[lane] = op.mode == 0 || same == group ? same : 0;
    agree |= uint32_t{same == group} << lane;
  }
  for (uint32_t rest = mask; rest != 0; rest &= rest - 1)
    w.R<uint32_t>(op.dst)[FirstLane(rest)] = results[FirstLane(rest)];
  if ((op.flags & kHasDst2) != 0) w.P(op.dst2) = (w.P(op.dst2) & ~mask) | (agree & mask);
}

// redux.sync; op.mode: 0 add, 1 min, 2 max, 3 and, 4 or, 5 xor; kSignExtend: signed.
void Reduce(Warp& w, const Op& op, uint32_t mask) {
  if (!Members(w, op, mask)) return;
  ++w.launch->counters->shuffles;
  const uint32_t* a = w.R<uint32_t>(op.src[0]);
  const uint32_t* members = w.R<uint32_t>(op.src[3]);
  const bool is_signed = (op.flags & kSignExtend) != 0;
  uint32_t results[32];
  for (uint32_t rest = mask; rest != 0; rest &= rest - 1) {
    const int lane = FirstLane(rest);
    uint32_t group = members[lane] & mask;
    uint32_t total = a[FirstLane(group)];
    for (group &= group - 1; group != 0; group &= group - 1) {
      const uint32_t v = a[FirstLane(group)];
      const bool less =
          is_signed ? static_cast<int32_t>(v) < static_cast<int32_t>(total) : v < total;
      switch (op.mode) {
        case 0:
          total += v;
          break;
        case 1:
          total = less ? v : total;
          break;
        case 2:
          total = less ? total : v;
          break;
        case 3:
          total &= v;
          break;
        case 4:
          total |= v;
          break;
        default:
          total ^= v;
          break;
      }
    }
    results[lane] = total;
  }
  for (uint32_t rest = mask; rest != 0; rest &= rest - 1)
    w.R<uint32_t>(op.dst)[FirstLane(rest)] = results[FirstLane(rest)];
}

void ActiveMask(Warp& w, const Op& op, uint32_t mask) {
  for (uint32_t rest = mask; rest != 0; rest &= rest - 1)
    w.R<uint32_t>(op.dst)[FirstLane(rest)] = mask;
}

void WarpBarrier(Warp& w, const Op& op, uint32_t mask) {
  if (Members(w, op, mask)) SyncWarpItself(w);
}

// bar.sync id{, threads} (op.mode 0) and bar.arrive id, threads (1): src[0], src[1] (0: all
// threads).
void Barrier(Warp& w, const Op& op, uint32_t mask) {
  if (!Arrive(w, op, mask, kAllLanes)) return;
  const int lane = FirstLane(mask);
  const uint32_t id = w.R<uint32_t>(op.src[0])[lane];
  const uint32_t threads = op.src[1] != 0 ? w.R<uint32_t>(op.src[1])[lane] : 0;
  if (id > 15) {
    Fail(w, op, lane, absl::StrCat("barrier ", id, "; there are 16"));
    return;
  }
  if (op.src[1] != 0 && (threads == 0 || threads % 32 != 0)) {
    Fail(w, op, lane,
         absl::StrCat("a barrier of ", threads, " threads; it must be a multiple of 32"));
    return;
  }
  for (uint32_t rest = mask; rest != 0; rest &= rest - 1) {
    const bool same = w.R<uint32_t>(op.src[0])[FirstLane(rest)] == id &&
                      (op.src[1] == 0 || w.R<uint32_t>(op.src[1])[FirstLane(rest)] == threads);
    if (same) continue;
    Fail(w, op, FirstLane(rest), "lanes of a warp name different barriers");
    return;
  }
  ++w.launch->counters->barriers;
  if (op.mode == 1) {
    w.block->arrivals.push_back({w.index, id, w.launch->memory->time++});
    return;
  }
  w.issued_at_barrier = w.issued;
  w.state = WarpState::kAtBarrier;
  w.barrier_id = id;
  w.barrier_threads = threads;
  w.barrier_pc = static_cast<uint32_t>(&op - w.launch->program->code.data());
  w.limit = 0;
}

// ldmatrix: op.count matrices of 8 x 8 16-bit values; lane 8m + r has the address of row r of
// matrix m. mode 1: transposed.
void LoadMatrix(Warp& w, const Op& op, uint32_t mask) {
  if (!Arrive(w, op, mask, kAllLanes)) return;
  if (mask != kAllLanes) {
    Fail(w, op, FirstLane(mask),
         absl::StrFormat("ldmatrix needs all 32 lanes, only 0x%08x are here", mask));
    return;
  }
  ++w.launch->counters->ldmatrix;
  uint64_t addresses[32];
  for (uint32_t i = 0; i < 32; ++i) {
    addresses[i] =
        static_cast<uint64_t>(op.imm) +
        ((op.flags & kAddress32) != 0 ? w.R<uint32_t>(op.src[0])[i] : w.R<uint64_t>(op.src[0])[i]);
  }
  Access access;
  access.space = static_cast<Space>(op.bytes);
  access.bytes = 16;
  const uint32_t readers = op.count == 4 ? kAllLanes : (1u << (8 * op.count)) - 1;
  if (access.space == Space::kGeneric && !ResolveGeneric(w, op, readers, addresses, &access.space))
    return;
  if (access.space != Space::kShared) {
    Fail(w, op, 0, "ldmatrix reads shared memory only");
    return;
  }
  if (!CheckShared(w, op, readers, addresses, access)) return;
  for (uint32_t m = 0; m < op.count; ++m) {
    uint16_t rows[8][8];
    for (uint32_t r = 0; r < 8; ++r)
      std::memcpy(rows[r], reinterpret_cast<const void*>(addresses[8 * m + r]), 16);
    uint32_t* d = w.R<uint32_t>(w.launch->program->aux[op.target + m]);
    for (uint32_t i = 0; i < 32; ++i) {
      const uint32_t a = i / 4, b = i % 4 * 2;
      d[i] = op.mode == 1 ? rows[b][a] | uint32_t{rows[b + 1][a]} << 16
                          : rows[a][b] | uint32_t{rows[a][b + 1]} << 16;
    }
  }
}

// cp.async: src[0] shared address + imm, src[1] global address + aux[target..target+1], src[2]
// bytes to read (0: all), rest zeros.
void StartCopy(Warp& w, const Op& op, uint32_t mask) {
  uint64_t to[32], from[32];
  uint8_t data[32 * 16] = {};
  const uint64_t from_offset =
      w.launch->program->aux[op.target] | uint64_t{w.launch->program->aux[op.target + 1]} << 32;
  uint32_t reads = 0;
  for (uint32_t i = 0; i < 32; ++i) {
    to[i] =
        static_cast<uint64_t>(op.imm) +
        ((op.flags & kAddress32) != 0 ? w.R<uint32_t>(op.src[0])[i] : w.R<uint64_t>(op.src[0])[i]);
    from[i] = w.R<uint64_t>(op.src[1])[i] + from_offset;
    const uint32_t bytes = op.src[2] == 0 ? op.bytes : w.R<uint32_t>(op.src[2])[i];
    if ((mask >> i & 1u) == 0 || bytes == 0) continue;
    if (bytes != op.bytes) {
      Fail(w, op, static_cast<int>(i),
           absl::StrCat("cp.async with ", bytes, " of ", op.bytes,
                        " bytes; the machine knows all or none"));
      return;
    }
    reads |= 1u << i;
  }
  Access read;
  read.bytes = op.bytes;
  if (reads != 0 && !CheckGlobal(w, op, reads, from, read)) return;
  for (uint32_t rest = reads; rest != 0; rest &= rest - 1) {
    std::memcpy(data + FirstLane(rest) * 16, reinterpret_cast<const void*>(from[FirstLane(rest)]),
                op.bytes);
  }
  uint64_t shared[32];
  std::copy_n(to, 32, shared);
  Access write;
  write.kind = kWrite;
  write.bytes = op.bytes;
  write.data = data;
  write.space = (to[FirstLane(mask)] & kWindowMask) == 0 ? Space::kShared : Space::kGeneric;
  if (write.space == Space::kGeneric && !ResolveGeneric(w, op, mask, to, &write.space)) return;
  std::copy_n(to, 32, shared);
  if (!CheckShared(w, op, mask, to, write)) return;
  Block& b = *w.block;
  for (uint32_t rest = mask; rest != 0; rest &= rest - 1) {
    const int lane = FirstLane(rest);
    AsyncCopy copy{};
    copy.to = static_cast<uint32_t>(shared[lane]);
    copy.lane = static_cast<uint32_t>(lane);
    copy.group = ~0u;
    copy.bytes = op.bytes;
    std::memcpy(copy.data.data(), data + lane * 16, 16);
    ClearBits(b.shared_written.data(), copy.to - kSharedBase, op.bytes);
    SetBits(b.shared_in_flight.data(), copy.to - kSharedBase, op.bytes);
    w.copies.push_back(copy);
    ++b.in_flight;
    ++w.launch->counters->async_copies;
  }
}

void AsyncCommit(Warp& w, const Op&, uint32_t mask) {
  for (AsyncCopy& copy : w.copies) {
    if ((mask >> copy.lane & 1u) != 0 && copy.group == ~0u) copy.group = w.commits[copy.lane];
  }
  for (uint32_t rest = mask; rest != 0; rest &= rest - 1) ++w.commits[FirstLane(rest)];
}

// op.imm: groups that may stay in flight; op.mode 1: wait_all, also copies that no commit closed.
void AsyncWait(Warp& w, const Op& op, uint32_t mask) {
  Block& b = *w.block;
  const auto keep = static_cast<uint64_t>(op.imm);
  size_t kept = 0;
  for (size_t i = 0; i < w.copies.size(); ++i) {
    const AsyncCopy copy = w.copies[i];
    const bool done =
        (mask >> copy.lane & 1u) != 0 &&
        (op.mode == 1 || (copy.group != ~0u && copy.group + keep < w.commits[copy.lane]));
    if (!done) {
      w.copies[kept++] = copy;
      continue;
    }
    const uint64_t offset = copy.to - kSharedBase;
    ClearBits(b.shared_in_flight.data(), offset, copy.bytes);
    --b.in_flight;
    uint64_t addresses[32];
    uint8_t data[32 * 16] = {};
    std::fill_n(addresses, 32, uint64_t{copy.to});
    std::memcpy(data + copy.lane * 16, copy.data.data(), 16);
    Access write;
    write.kind = kWrite;
    write.bytes = copy.bytes;
    write.data = data;
    const uint64_t requests = w.launch->counters->shared_requests,
                   conflicts = w.launch->counters->shared_conflicts;
    if (!CheckShared(w, op, 1u << copy.lane, addresses, write)) return;
    w.launch->counters->shared_requests = requests;  // counted when it was issued
    w.launch->counters->shared_conflicts = conflicts;
    std::memcpy(b.shared.data() + offset, copy.data.data(), copy.bytes);
  }
  w.copies.resize(kept);
}

}  // namespace

void UpdateSyncMin(Warp& w) {
  const size_t warps = w.launch->block_dim.Count() / 32 + (w.launch->block_dim.Count() % 32 != 0);
  const uint32_t* row = w.block->sync.data() + w.index * 32;
  w.sync_min = *std::min_element(row, row + warps);
}

void SyncWarpItself(Warp& w) {
  w.block->sync[w.index * 32 + w.index] = w.launch->memory->time++;
  UpdateSyncMin(w);
}

void AddWarpHandlers(SpecialHandlers* h) {
  h->shuffle = Shuffle;
  h->vote = Vote;
  h->match = Match;
  h->reduce = Reduce;
  h->active_mask = ActiveMask;
  h->warp_barrier = WarpBarrier;
  h->barrier = Barrier;
  h->ldmatrix = LoadMatrix;
  h->async_copy = StartCopy;
  h->async_commit = AsyncCommit;
  h->async_wait = AsyncWait;
}

}  // namespace lanyard::ptx
