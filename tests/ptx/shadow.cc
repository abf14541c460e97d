// The race rules. A cell keeps the last write and the last reads of a word; time steps at every
// barrier, so "ordered" is a comparison of times. Words that were touched in parts are split into
// bytes until their epoch is over.
#include "tests/ptx/shadow.h"

#include <bit>
#include <cstring>

namespace lanyard::ptx {

namespace {

// Whether a write of this block is ordered before what (who, lane) does now.
inline bool WriteOrdered(const Cell& c, uint32_t lane, const Accessor& who) {
  const uint32_t warp = c.writer >> 5;
  if (warp != who.warp) return c.write_time <= who.sync[warp];
  return (c.writer & 31u) == lane || !who.in_warp || c.write_time <= who.sync[warp];
}

Conflict WithWriter(const char* kind, const Cell& c, uint32_t lane, const Accessor& who) {
  Conflict found;
  found.kind = kind;
  found.lane = static_cast<int>(lane);
  found.other_block = c.write_time < who.block_start;
  found.other_warp = c.writer >> 5;
  found.other_lane = c.writer & 31u;
  return found;
}

inline void RecordRead(Cell& c, uint32_t lane, const Accessor& who) {
  const uint32_t bit = 1u << who.warp;
  if (c.read_time == who.now && (c.read_warps & bit) != 0) {
    if (c.read_lane != lane) c.read_lane = kSeveralLanes;
    return;
  }
  uint8_t flags = c.flags & (kWriteAtomic | kSplit);
  if (c.read_time >= who.epoch_start) {
    flags |= c.flags & kReadByOtherBlock;
    if (c.read_time < who.block_start) flags |= kReadByOtherBlock;
  }
  const bool keep = c.read_time >= who.block_start && c.read_time > who.sync_min;
  const bool mine_before = keep && (c.read_warps & bit) != 0 && c.read_time > who.sync[who.warp];
  c.read_warps = keep ? c.read_warps | bit : bit;
  c.read_lane = mine_before && c.read_lane != lane ? kSeveralLanes : static_cast<uint8_t>(lane);
  c.read_time = who.now;
  c.flags = flags;
}

inline bool Read(Cell& c, uint32_t lane, const Accessor& who, Conflict* found) {
  if (c.write_time >= who.epoch_start && !(who.atomic && (c.flags & kWriteAtomic) != 0)) {
    if (c.write_time < who.block_start || !WriteOrdered(c, lane, who)) {
      *found = WithWriter("read after write", c, lane, who);
      return false;
    }
  }
  // A synchronising read (ld.acquire) takes part in no race with synchronising writes; with plain
  // ones the write looks at it.
  if (!who.atomic) RecordRead(c, lane, who);
  return true;
}

// Reads that a write now would race with.
inline bool ReadsOrdered(const Cell& c, uint32_t lane, const Accessor& who, Conflict* found) {
  if (c.read_time < who.epoch_start) return true;
  const bool other_block = (c.flags & kReadByOtherBlock) != 0 || c.read_time < who.block_start;
  if (!other_block) {
    if (c.read_time <= who.sync_min) return true;
    uint32_t unordered = 0;
    for (uint32_t rest = c.read_warps; rest != 0; rest &= rest - 1) {
      const auto warp = static_cast<uint32_t>(std::countr_zero(rest));
      if (c.read_time <= who.sync[warp]) continue;
      if (warp == who.warp && (!who.in_warp || c.read_lane == lane)) continue;
      unordered |= 1u << warp;
    }
    if (unordered == 0) return true;
    found->other_warp = static_cast<uint32_t>(std::countr_zero(unordered));
  }
  found->kind = "write after read";
  found->lane = static_cast<int>(lane);
  found->other_block = other_block;
  found->several = c.read_lane == kSeveralLanes;
  found->other_lane = c.read_lane & 31u;
  return false;
}

inline bool Write(Cell& c, uint32_t lane, const Accessor& who, bool same, Conflict* found) {
  const bool both_atomic = who.atomic && (c.flags & kWriteAtomic) != 0;
  if (!same && c.write_time >= who.epoch_start && !both_atomic &&
      (c.write_time < who.block_start || !WriteOrdered(c, lane, who))) {
    *found = WithWriter("write after write", c, lane, who);
    return false;
  }
  if (!same && !ReadsOrdered(c, lane, who, found)) return false;
  c.write_time = who.now;
  c.writer = static_cast<uint16_t>(who.warp << 5 | lane);
  c.flags = static_cast<uint8_t>((c.flags & ~kWriteAtomic) | (who.atomic ? kWriteAtomic : 0));
  return true;
}

// The word's cell, split if `split` or if it was.
inline bool IsSplit(CellTable& cells, uint64_t offset, bool split, const Accessor& who) {
  Cell& c = cells.word(offset);
  if ((c.flags & kSplit) != 0) {
    if (c.write_time >= who.epoch_start || c.read_time >= who.epoch_start || split) return true;
    c = Cell{};
    return false;
  }
  if (!split) return false;
  const uint64_t first = offset & ~uint64_t{3};
  for (uint64_t i = 0; i < 4; ++i) cells.byte(first + i) = c;
  c.flags |= kSplit;
  return true;
}

template <typename PerCell>
inline bool ForCells(const WarpAccess& access, uint64_t offset, const Accessor& who, bool write,
                     PerCell per_cell) {
  const bool part = access.bytes < 4;
  for (uint64_t at = offset; at < offset + access.bytes; at += 4) {
    if (!IsSplit(*access.cells, at, part, who)) {
      if (!per_cell(access.cells->word(at), at, 4u)) return false;
      continue;
    }
    const uint64_t n = part ? access.bytes : 4;
    for (uint64_t i = 0; i < n; ++i) {
      if (!per_cell(access.cells->byte(at + i), at + i, 1u)) return false;
    }
    Cell& word = access.cells->word(at);
    (write ? word.write_time : word.read_time) = who.now;
  }
  return true;
}

}  // namespace

Conflict NoteReads(const WarpAccess& access, const Accessor& who) {
  Conflict found;
  for (uint32_t rest = access.mask; rest != 0; rest &= rest - 1) {
    const auto lane = static_cast<uint32_t>(std::countr_zero(rest));
    const uint64_t offset = access.addresses[lane] - access.base;
    const bool ok = ForCells(access, offset, who, false, [&](Cell& c, uint64_t, uint32_t) {
      return Read(c, lane, who, &found);
    });
    if (!ok) {
      found.address = access.addresses[lane];
      return found;
    }
  }
  return found;
}

Conflict NoteWrites(const WarpAccess& access, const Accessor& who, const uint8_t* memory,
                    const uint8_t* data) {
  Conflict found;
  // What lanes of this very instruction write is not in memory yet: two lanes with one address are
  // compared by their data.
  uint32_t done = 0;
  for (uint32_t rest = access.mask; rest != 0; rest &= rest - 1) {
    const auto lane = static_cast<uint32_t>(std::countr_zero(rest));
    const uint64_t offset = access.addresses[lane] - access.base;
    const uint8_t* mine = data + lane * 16;
    const auto per_cell = [&](Cell& c, uint64_t at, uint32_t bytes) {
      const uint8_t* before = memory + at;
      if (c.write_time == who.now && (c.writer >> 5) == who.warp &&
          (done >> (c.writer & 31u) & 1u) != 0) {
        const uint32_t other = c.writer & 31u;
        const uint64_t other_offset = access.addresses[other] - access.base;
        if (at >= other_offset && at + bytes <= other_offset + access.bytes)
          before = data + other * 16 + (at - other_offset);
      }
      const bool same = !who.atomic && std::memcmp(before, mine + (at - offset), bytes) == 0;
      return Write(c, lane, who, same, &found);
    };
    if (!ForCells(access, offset, who, true, per_cell)) {
      found.address = access.addresses[lane];
      return found;
    }
    done |= 1u << lane;
  }
  return found;
}

}  // namespace lanyard::ptx
