// Logical KV blocks: which pool blocks a sequence holds in each state group. These are numbers
// only; the memory is with the workers.
#pragma once

#include <cstdint>
#include <deque>
#include <vector>

#include "coordinator/serve/planted_bugs.h"
#include "stage/types.h"

namespace lanyard::coordinator {

// One state group. A row at position p reads positions > p - window (all of them when window is 0).
struct KvGroup {
  uint32_t window = 0;
  uint32_t n_blocks = 0;
};

// What a sequence holds of one group: logical blocks first, first+1, ...
struct KvTable {
  uint32_t first = 0;
  std::deque<uint32_t> blocks;
  uint32_t end() const { return first + static_cast<uint32_t>(blocks.size()); }
};
using KvTables = std::vector<KvTable>;  // one entry a group; empty: the sequence holds nothing

// Not thread-safe: a part of the scheduler.
class KvPool {
 public:
  explicit KvPool(std::vector<KvGroup> groups, PlantedBugs bugs = {});

  size_t n_groups() const { return groups_.size(); }
  uint32_t total() const;  // blocks of all groups
  uint32_t used() const;
  // The length in tokens of the longest sequence that an empty pool can hold; UINT32_MAX without a
  // bounded group.
  uint32_t CapacityTokens() const;

  // How many rows from `pos` on the free blocks allow, at most n_rows. `tables` may be empty.
  uint32_t RowsThatFit(const KvTables& tables, uint32_t pos, uint32_t n_rows) const;
  // Adds blocks so that rows up to position end - 1 have a place. Precondition: RowsThatFit allowed
  // them.
  void Grow(KvTables* tables, uint32_t end);
  // Frees the blocks that no row at `pos` or later reads.
  void Trim(KvTables* tables, uint32_t pos);
  void Release(KvTables* tables);

  // The most blocks of a group that a sequence of `tokens` tokens holds while it runs in short
  // chunks.
  uint32_t Need(size_t group, uint32_t tokens) const;
  uint32_t group_blocks(size_t group) const { return groups_[group].n_blocks; }

  // The tables of a run of rows, trimmed to what these rows read and write.
  std::vector<stage::BlockTable> TablesFor(const KvTables& tables, uint32_t pos,
                                           uint32_t n_rows) const;

 private:
  uint32_t FirstBlock(size_t group, uint32_t pos) const;

  std::vector<KvGroup> groups_;
  std::vector<std::deque<uint32_t>> free_;
  std::vector<std::vector<bool>> held_;  // catches a block that is freed or given out twice
  PlantedBugs bugs_;
};

}  // namespace lanyard::coordinator
