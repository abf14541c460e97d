// What the machine knows about memory besides its bytes: which were written, and which warp touched
// a word last (for races). See README.md.
#pragma once

#include <cstdint>
#include <deque>
#include <map>
#include <memory>
#include <string>
#include <vector>

#include "tests/ptx/machine.h"

namespace lanyard::ptx {

// The last accesses of a word of 4 bytes, or of a byte of a word that was split.
struct Cell {
  uint32_t write_time = 0, read_time = 0;
  uint32_t read_warps = 0;  // warps that read at read_time or since the last write
  uint16_t writer = 0;      // warp * 32 + lane
  uint8_t read_lane = 0;    // of the last reading warp, or kSeveralLanes
  uint8_t flags = 0;
};
constexpr uint8_t kSeveralLanes = 0xff;
constexpr uint8_t kWriteAtomic = 1, kReadByOtherBlock = 2, kSplit = 4, kReadAtomic = 8;

// The cells of a piece of memory, all zero at first. Pages exist once they were touched.
class CellTable {
 public:
  CellTable() = default;
  ~CellTable();
  CellTable(const CellTable&) = delete;
  CellTable& operator=(const CellTable&) = delete;
  void Resize(size_t bytes);  // forgets the contents
  Cell& word(uint64_t offset) { return words_[offset >> 2]; }
  Cell& byte(uint64_t offset) { return bytes_[offset]; }
  bool empty() const { return words_ == nullptr; }
  size_t size_bytes() const { return size_; }

 private:
  Cell* words_ = nullptr;
  Cell* bytes_ = nullptr;
  size_t size_ = 0;
};

struct Allocation {
  uint64_t base = 0, bytes = 0;
  std::string name;
  bool live = true, read_only = false;
  uint64_t mapping = 0, mapping_bytes = 0;
  uint64_t unwritten = 0;       // number of bytes; 0: `written` need not be looked at
  uint64_t* written = nullptr;  // calloc'ed, one bit for each byte
  CellTable cells;
  uint32_t tracked_launch = 0;  // launch_start of the launch that may write here
  ~Allocation();
};

struct Memory::Impl {
  std::map<uint64_t, std::unique_ptr<Allocation>> allocations;  // live and freed, by base
  std::deque<uint64_t> freed;
  uint64_t freed_bytes = 0, live_bytes = 0;
  size_t live_count = 0;
  // It steps at every launch, block, barrier and bar.warp.sync. 0 is before everything.
  uint32_t time = 1;

  // The allocation with base <= address, if the address lies within it or its red zones.
  Allocation* Near(uint64_t address) const;
  // The live allocation that holds the range, or nullptr.
  Allocation* Holding(uint64_t address, uint64_t bytes) const;
  std::string Describe(uint64_t address) const;
};

// True when bits [offset, offset + bytes) of a map are all set.
bool AllSet(const uint64_t* map, uint64_t offset, uint64_t bytes);
// Sets the bits and returns how many were not set.
uint64_t SetBits(uint64_t* map, uint64_t offset, uint64_t bytes);
uint64_t ClearBits(uint64_t* map, uint64_t offset, uint64_t bytes);  // returns how many were set
int64_t FirstClear(const uint64_t* map, uint64_t offset, uint64_t bytes);  // its offset, or -1

// The thread that accesses, for the race rules.
struct Accessor {
  uint32_t now = 0;
  // Accesses before this belong to earlier launches (global) or blocks (shared).
  uint32_t epoch_start = 0;
  uint32_t block_start = 0;  // accesses before this belong to another block
  uint32_t sync_min = 0;
  const uint32_t* sync = nullptr;  // 32 entries, by warp
  uint32_t warp = 0;
  bool in_warp = true;  // MachineOptions::check_races_in_warp
  bool atomic = false;
};

struct Conflict {
  const char* kind = nullptr;  // "read after write" ...; null: none
  int lane = 0;                // the lane that found it
  uint64_t address = 0;
  uint32_t other_warp = 0, other_lane = 0;
  bool other_block = false, several = false;
};

// One access of a warp: lanes of `mask`, each `bytes` (1, 2, 4, 8 or 16, aligned) at
// addresses[lane] - base in `cells`.
struct WarpAccess {
  CellTable* cells = nullptr;
  uint64_t base = 0;
  const uint64_t* addresses = nullptr;
  uint32_t mask = 0;
  uint32_t bytes = 4;
};
// Notes the accesses, looks for races and returns the first one. A write that leaves the same bytes
// is none: `memory` is where `base` lies now, and data + lane * 16 what a lane writes.
Conflict NoteReads(const WarpAccess& access, const Accessor& who);
Conflict NoteWrites(const WarpAccess& access, const Accessor& who, const uint8_t* memory,
                    const uint8_t* data);

}  // namespace lanyard::ptx
