// Logical KV blocks: which pool blocks a sequence holds in each state group. These are numbers
// only; the memory is with the workers. A block whose tokens are all known stays behind when its
// sequence leaves, so that a later one with the same beginning need not read it again; it goes when
// room is needed.
#pragma once

#include <cstdint>
#include <deque>
#include <set>
#include <span>
#include <string>
#include <utility>
#include <vector>

#include "coordinator/serve/prefix_tree.h"
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

// What a sequence holds.
struct KvTables {
  std::vector<KvTable> groups;  // one a group; empty: the sequence holds nothing
  // The tree's nodes of its first blocks. They belong to the pool that these tables are of.
  std::vector<PrefixNode*> path;
  uint32_t kept = 0;  // of the path, those that were offered to the tree
  bool empty() const { return groups.empty(); }
};

// A sequence's tokens, and whose they are: nothing is shared between tenants.
struct KvTokens {
  const std::string& tenant;
  std::span<const int32_t> ids;
};

// Not thread-safe: a part of the scheduler.
class KvPool {
 public:
  // Without `keep`, nothing is shared and nothing stays behind.
  explicit KvPool(std::vector<KvGroup> groups, bool keep = false);

  size_t n_groups() const { return groups_.size(); }
  uint32_t total() const;  // blocks of all groups
  uint32_t used() const;   // of these, what sequences hold; a shared one counts once
  uint32_t kept() const;   // of these, what nobody holds but the tree
  // The length in tokens of the longest sequence that an empty pool can hold; UINT32_MAX without a
  // bounded group.
  uint32_t CapacityTokens() const;

  // How many rows from `pos` on the blocks that nobody holds allow, at most n_rows.
  uint32_t RowsThatFit(const KvTables& tables, uint32_t pos, uint32_t n_rows) const;
  // Adds blocks so that rows up to position end - 1 have a place. Precondition: RowsThatFit allowed
  // them.
  void Grow(KvTables* tables, uint32_t end);
  // Gives back the blocks that no row at `pos` or later reads.
  void Trim(KvTables* tables, uint32_t pos);
  void Release(KvTables* tables);
  // Releases what may be wrong: nothing of it stays behind that nobody else holds.
  void Discard(KvTables* tables);

  // What is there of a beginning.
  struct Match {
    uint32_t end = 0;                // position behind it
    std::vector<PrefixNode*> nodes;  // from the asked position on
    std::vector<uint32_t> held;      // of each group, blocks that are held by others already
  };
  // What is there behind `pos`, of all tokens but the last, whose row has to run in any case. It
  // begins and ends with a block; nothing is there for a `pos` within one.
  Match Find(const KvTables& tables, const KvTokens& tokens, uint32_t pos) const;
  // Takes what Find finds and returns the position behind it. Precondition: no row of the sequence
  // is in flight.
  uint32_t Adopt(KvTables* tables, const KvTokens& tokens, uint32_t pos);
  // Says that `step` has rows [pos, end) of the sequence, so that others need not read the same.
  void Announce(KvTables* tables, const KvTokens& tokens, uint32_t pos, uint32_t end,
                uint64_t step);
  // The last step in which another sequence has rows of the very block that comes at `pos`; 0:
  // none.
  uint64_t AnnouncedBy(const KvTables& tables, const KvTokens& tokens, uint32_t pos) const;
  // The rows before `end` are in the KV: their full blocks are there for others.
  void Keep(KvTables* tables, const KvTokens& tokens, uint32_t end);

  // The most blocks of a group that a sequence of `tokens` tokens holds while it runs in short
  // chunks.
  uint32_t Need(size_t group, uint32_t tokens) const;
  uint32_t group_blocks(size_t group) const { return groups_[group].n_blocks; }
  // By how many blocks what sequences hold is less than the sum of their tables.
  uint32_t shared(size_t group) const { return state_[group].shared; }

  // The tables of a run of rows, trimmed to what these rows read and write.
  std::vector<stage::BlockTable> TablesFor(const KvTables& tables, uint32_t pos,
                                           uint32_t n_rows) const;

 private:
  using Oldest = std::set<std::pair<uint64_t, PrefixNode*>>;  // by when the last user left
  struct Block {
    uint32_t holders = 0;        // sequences
    PrefixNode* node = nullptr;  // that keeps it
    uint64_t left_at = 0;        // when the last holder left
  };
  struct Group {
    std::vector<Block> blocks;
    std::deque<uint32_t> free;
    uint32_t held = 0;    // blocks with holders
    uint32_t shared = 0;  // holders beyond the first, of all blocks
    uint32_t idle = 0;    // a full group's blocks of nodes without users
    Oldest spare;         // a window's blocks that only a node keeps
  };

  uint32_t FirstBlock(size_t group, uint32_t pos) const;
  bool full(size_t group) const { return groups_[group].window == 0; }
  uint32_t Available(size_t group) const;
  void Hold(size_t group, uint32_t block);
  void Leave(size_t group, uint32_t block);
  void TrimTo(size_t group, KvTable* table, uint32_t first);
  void Use(PrefixNode* node);
  void Unuse(PrefixNode* node);
  void MakeFree(size_t group);    // takes a block from the tree
  void Forget(PrefixNode* leaf);  // a leaf without users
  void TakeFrom(PrefixNode* node, size_t group);
  void Extend(KvTables* tables, const KvTokens& tokens, size_t index);
  PrefixNode* Next(const KvTables& tables, const KvTokens& tokens, size_t index,
                   PrefixNode* before) const;

  std::vector<KvGroup> groups_;
  std::vector<Group> state_;
  const bool keep_;
  bool has_full_ = false;
  PrefixTree tree_;
  Oldest leaves_;  // ready leaves without users
  uint64_t count_ = 0;
};

}  // namespace lanyard::coordinator
