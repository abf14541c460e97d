#include "coordinator/serve/kv_pool.h"

#include <algorithm>
#include <cstdio>
#include <cstdlib>
#include <limits>

namespace lanyard::coordinator {
namespace {

constexpr uint32_t kBlock = stage::kKvBlockTokens;

uint32_t BlocksFor(uint32_t tokens) { return tokens / kBlock + (tokens % kBlock != 0 ? 1 : 0); }

// A failure here is our own bug, never bad input. To go on would hand one sequence's state to
// another.
void Require(bool condition, const char* what) {
  if (condition) return;
  std::fprintf(stderr, "KvPool: %s\n", what);
  std::abort();
}

}  // namespace

KvPool::KvPool(std::vector<KvGroup> groups, PlantedBugs bugs)
    : groups_(std::move(groups)), bugs_(bugs) {
  for (const KvGroup& group : groups_) {
    std::deque<uint32_t>& free = free_.emplace_back();
    for (uint32_t i = 0; i < group.n_blocks; ++i) free.push_back(i);
    held_.emplace_back(group.n_blocks, false);
  }
}

uint32_t KvPool::total() const {
  uint32_t n = 0;
  for (const KvGroup& group : groups_) n += group.n_blocks;
  return n;
}

uint32_t KvPool::used() const {
  uint32_t n = total();
  for (const auto& free : free_) n -= static_cast<uint32_t>(free.size());
  return n;
}

uint32_t KvPool::CapacityTokens() const {
  uint64_t capacity = std::numeric_limits<uint32_t>::max();
  for (size_t g = 0; g < groups_.size(); ++g) {
    const KvGroup& group = groups_[g];
    const bool window_fits = group.window != 0 && group.n_blocks >= Need(g, UINT32_MAX - kBlock);
    if (!window_fits) capacity = std::min(capacity, uint64_t{group.n_blocks} * kBlock);
  }
  return static_cast<uint32_t>(capacity);
}

uint32_t KvPool::FirstBlock(size_t group, uint32_t pos) const {
  uint32_t window = groups_[group].window;
  if (window == 0) return 0;
  if (bugs_.trim_too_early) window = window > kBlock ? window - kBlock : 1;
  return pos + 1 > window ? (pos + 1 - window) / kBlock : 0;
}

uint32_t KvPool::Need(size_t group, uint32_t tokens) const {
  const uint32_t all = BlocksFor(tokens);
  const uint32_t window = groups_[group].window;
  if (window == 0) return all;
  // This is the window of one row, wherever it starts within a block.
  return std::min(all, BlocksFor(window - 1) + 1);
}

uint32_t KvPool::RowsThatFit(const KvTables& tables, uint32_t pos, uint32_t n_rows) const {
  uint64_t end = uint64_t{pos} + n_rows;
  for (size_t g = 0; g < groups_.size(); ++g) {
    const uint32_t have_end = tables.empty() ? 0 : tables[g].end();
    end = std::min(end, (uint64_t{have_end} + free_[g].size()) * kBlock);
  }
  return end > pos ? static_cast<uint32_t>(end - pos) : 0;
}

void KvPool::Grow(KvTables* tables, uint32_t end) {
  if (tables->empty()) tables->resize(groups_.size());
  for (size_t g = 0; g < groups_.size(); ++g) {
    KvTable& table = (*tables)[g];
    while (table.end() < BlocksFor(end)) {
      Require(!free_[g].empty(), "no free block although the rows were said to fit");
      const uint32_t block = free_[g].front();
      if (!bugs_.share_blocks || free_[g].size() < 2) {
        free_[g].pop_front();
        Require(!held_[g][block], "a held block was free");
      }
      held_[g][block] = true;
      table.blocks.push_back(block);
    }
  }
}

void KvPool::Trim(KvTables* tables, uint32_t pos) {
  for (size_t g = 0; g < tables->size(); ++g) {
    KvTable& table = (*tables)[g];
    const uint32_t first = FirstBlock(g, pos);
    while (table.first < first && !table.blocks.empty()) {
      const uint32_t block = table.blocks.front();
      table.blocks.pop_front();
      ++table.first;
      Require(bugs_.share_blocks || held_[g][block], "a block was freed twice");
      held_[g][block] = false;
      free_[g].push_back(block);
    }
    if (table.blocks.empty()) table.first = std::max(table.first, first);
  }
}

void KvPool::Release(KvTables* tables) {
  for (size_t g = 0; g < tables->size(); ++g) {
    for (const uint32_t block : (*tables)[g].blocks) {
      Require(bugs_.share_blocks || held_[g][block], "a block was freed twice");
      held_[g][block] = false;
      free_[g].push_back(block);
    }
  }
  tables->clear();
}

std::vector<stage::BlockTable> KvPool::TablesFor(const KvTables& tables, uint32_t pos,
                                                 uint32_t n_rows) const {
  std::vector<stage::BlockTable> out(groups_.size());
  for (size_t g = 0; g < groups_.size(); ++g) {
    const KvTable& table = tables[g];
    const uint32_t first = std::max(FirstBlock(g, pos), table.first);
    const uint32_t end = BlocksFor(pos + n_rows);
    Require(end <= table.end(), "a run has rows without a block");
    out[g].first = first;
    out[g].blocks.assign(table.blocks.begin() + (first - table.first),
                         table.blocks.begin() + (end - table.first));
  }
  return out;
}

}  // namespace lanyard::coordinator
