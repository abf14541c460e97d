#include "coordinator/serve/kv_pool.h"

#include <algorithm>
#include <cstdio>
#include <cstdlib>
#include <limits>
#include <utility>

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

KvPool::KvPool(std::vector<KvGroup> groups, bool keep)
    : groups_(std::move(groups)), keep_(keep), tree_(groups_.size()) {
  for (const KvGroup& group : groups_) {
    Group& state = state_.emplace_back();
    state.blocks.resize(group.n_blocks);
    for (uint32_t i = 0; i < group.n_blocks; ++i) state.free.push_back(i);
    has_full_ = has_full_ || group.window == 0;
  }
}

uint32_t KvPool::total() const {
  uint32_t n = 0;
  for (const KvGroup& group : groups_) n += group.n_blocks;
  return n;
}

uint32_t KvPool::used() const {
  uint32_t n = 0;
  for (const Group& state : state_) n += state.held;
  return n;
}

uint32_t KvPool::kept() const {
  uint32_t n = total() - used();
  for (const Group& state : state_) n -= static_cast<uint32_t>(state.free.size());
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
  const uint32_t window = groups_[group].window;
  if (window == 0) return 0;
  return pos + 1 > window ? (pos + 1 - window) / kBlock : 0;
}

uint32_t KvPool::Need(size_t group, uint32_t tokens) const {
  const uint32_t all = BlocksFor(tokens);
  const uint32_t window = groups_[group].window;
  if (window == 0) return all;
  // This is the window of one row, wherever it starts within a block.
  return std::min(all, BlocksFor(window - 1) + 1);
}

uint32_t KvPool::Available(size_t group) const {
  const Group& state = state_[group];
  return static_cast<uint32_t>(state.free.size()) +
         (full(group) ? state.idle : static_cast<uint32_t>(state.spare.size()));
}

uint32_t KvPool::RowsThatFit(const KvTables& tables, uint32_t pos, uint32_t n_rows) const {
  uint64_t end = uint64_t{pos} + n_rows;
  for (size_t g = 0; g < groups_.size(); ++g) {
    const uint32_t have_end = tables.empty() ? 0 : tables.groups[g].end();
    end = std::min(end, (uint64_t{have_end} + Available(g)) * kBlock);
  }
  return end > pos ? static_cast<uint32_t>(end - pos) : 0;
}

void KvPool::Grow(KvTables* tables, uint32_t end) {
  tables->groups.resize(groups_.size());
  for (size_t g = 0; g < groups_.size(); ++g) {
    KvTable& table = tables->groups[g];
    std::deque<uint32_t>& free = state_[g].free;
    while (table.end() < BlocksFor(end)) {
      if (free.empty()) MakeFree(g);
      const uint32_t block = free.front();
      free.pop_front();
      Require(state_[g].blocks[block].holders == 0, "a held block was free");
      Hold(g, block);
      table.blocks.push_back(block);
    }
  }
}

void KvPool::Hold(size_t group, uint32_t block) {
  Group& state = state_[group];
  Block& b = state.blocks[block];
  if (b.holders++ > 0) {
    ++state.shared;
    return;
  }
  ++state.held;
  if (b.node != nullptr && !full(group)) state.spare.erase({b.left_at, b.node});
}

void KvPool::Leave(size_t group, uint32_t block) {
  Group& state = state_[group];
  Block& b = state.blocks[block];
  Require(b.holders > 0, "a block was freed twice");
  if (--b.holders > 0) {
    --state.shared;
    return;
  }
  --state.held;
  if (b.node == nullptr) {
    state.free.push_back(block);
  } else if (!full(group)) {
    b.left_at = ++count_;
    state.spare.insert({b.left_at, b.node});
  }
}

void KvPool::TrimTo(size_t group, KvTable* table, uint32_t first) {
  while (table->first < first && !table->blocks.empty()) {
    Leave(group, table->blocks.front());
    table->blocks.pop_front();
    ++table->first;
  }
  if (table->blocks.empty()) table->first = std::max(table->first, first);
}

void KvPool::Trim(KvTables* tables, uint32_t pos) {
  for (size_t g = 0; g < tables->groups.size(); ++g) {
    TrimTo(g, &tables->groups[g], FirstBlock(g, pos));
  }
}

void KvPool::Release(KvTables* tables) {
  for (size_t g = 0; g < tables->groups.size(); ++g) {
    for (const uint32_t block : tables->groups[g].blocks) Leave(g, block);
  }
  // What comes later in a sequence goes first, so that a beginning outlives what came behind it.
  for (auto node = tables->path.rbegin(); node != tables->path.rend(); ++node) Unuse(*node);
  *tables = {};
}

void KvPool::Discard(KvTables* tables) {
  std::vector<PrefixNode*> kept(tables->path.begin(), tables->path.begin() + tables->kept);
  Release(tables);
  for (auto node = kept.rbegin(); node != kept.rend(); ++node) {
    if ((*node)->users > 0 || !(*node)->leaf()) return;
    Forget(*node);
  }
}

void KvPool::Use(PrefixNode* node) {
  if (node->users++ > 0) return;
  if (!node->ready) return;
  leaves_.erase({node->used_at, node});
  for (size_t g = 0; g < groups_.size(); ++g) {
    if (full(g)) --state_[g].idle;
  }
}

void KvPool::Unuse(PrefixNode* node) {
  if (--node->users > 0) return;
  if (!node->ready) {
    Require(node->leaf(), "what was not read has something behind it");
    tree_.Remove(node);
    return;
  }
  node->used_at = ++count_;
  if (node->leaf()) leaves_.insert({node->used_at, node});
  for (size_t g = 0; g < groups_.size(); ++g) {
    if (full(g)) ++state_[g].idle;
  }
}

void KvPool::TakeFrom(PrefixNode* node, size_t group) {
  Group& state = state_[group];
  const uint32_t block = std::exchange(node->blocks[group], kNoBlock);
  if (block == kNoBlock) return;
  Block& b = state.blocks[block];
  b.node = nullptr;
  if (b.holders > 0) return;
  if (!full(group)) state.spare.erase({b.left_at, node});
  state.free.push_back(block);
}

void KvPool::Forget(PrefixNode* leaf) {
  leaves_.erase({leaf->used_at, leaf});
  for (size_t g = 0; g < groups_.size(); ++g) {
    TakeFrom(leaf, g);
    if (full(g)) --state_[g].idle;
  }
  PrefixNode* const parent = leaf->parent;
  const bool top = parent->parent == nullptr;
  tree_.Remove(leaf);
  if (!top && parent->leaf() && parent->users == 0) leaves_.insert({parent->used_at, parent});
}

void KvPool::MakeFree(size_t group) {
  if (full(group)) {
    Require(!leaves_.empty(), "no free block although the rows were said to fit");
    Forget(leaves_.begin()->second);
    return;
  }
  Require(!state_[group].spare.empty(), "no free block although the rows were said to fit");
  PrefixNode* node = state_[group].spare.begin()->second;
  TakeFrom(node, group);
  if (has_full_) return;  // the node goes when its full block does
  const auto empty = [](const PrefixNode* n) {
    return std::all_of(n->blocks.begin(), n->blocks.end(),
                       [](uint32_t block) { return block == kNoBlock; });
  };
  while (node->users == 0 && node->leaf() && empty(node)) {
    PrefixNode* const parent = node->parent;
    const bool top = parent->parent == nullptr;
    Forget(node);
    if (top) return;
    node = parent;
  }
}

PrefixNode* KvPool::Next(const KvTables& tables, const KvTokens& tokens, size_t index,
                         PrefixNode* before) const {
  if (index < tables.path.size()) return tables.path[index];
  return tree_.Child(before, tokens.tenant, tokens.ids.subspan(index * kBlock, kBlock));
}

KvPool::Match KvPool::Find(const KvTables& tables, const KvTokens& tokens, uint32_t pos) const {
  Match match;
  match.end = pos;
  match.held.resize(groups_.size());
  const uint32_t begin = pos / kBlock;
  // A sequence that is in the middle of a block, or whose rows are on their way, goes on itself.
  if (!keep_ || pos % kBlock != 0 || tables.kept != begin) {
    return match;
  }
  // Behind which block a window may begin: what the sequence holds itself is there.
  std::vector<uint32_t> whole_from(groups_.size(), 0);
  PrefixNode* node = begin == 0 ? nullptr : tables.path[begin - 1];
  for (uint32_t i = begin; (i + 1) * kBlock < tokens.ids.size(); ++i) {
    node = Next(tables, tokens, i, node);
    if (node == nullptr || !node->ready) break;
    match.nodes.push_back(node);
    const uint32_t end = (i + 1) * kBlock;
    bool usable = true;
    for (size_t g = 0; g < groups_.size(); ++g) {
      if (node->blocks[g] == kNoBlock) whole_from[g] = i + 1;
      usable = usable && whole_from[g] <= FirstBlock(g, end);
    }
    if (usable) match.end = end;
  }
  match.nodes.resize(match.end / kBlock - begin);
  for (size_t g = 0; g < groups_.size(); ++g) {
    for (uint32_t i = std::max(begin, FirstBlock(g, match.end)); i < match.end / kBlock; ++i) {
      const uint32_t block = match.nodes[i - begin]->blocks[g];
      if (state_[g].blocks[block].holders > 0) ++match.held[g];
    }
  }
  return match;
}

uint32_t KvPool::Adopt(KvTables* tables, const KvTokens& tokens, uint32_t pos) {
  const Match match = Find(*tables, tokens, pos);
  if (match.end == pos) return pos;
  const uint32_t begin = pos / kBlock;
  for (size_t i = tables->path.size() - begin; i < match.nodes.size(); ++i) {
    Use(match.nodes[i]);
    tables->path.push_back(match.nodes[i]);
  }
  tables->kept = match.end / kBlock;
  tables->groups.resize(groups_.size());
  for (size_t g = 0; g < groups_.size(); ++g) {
    KvTable& table = tables->groups[g];
    Require(table.end() == begin || table.blocks.empty(), "a table goes on behind its rows");
    const uint32_t first = FirstBlock(g, match.end);
    std::vector<uint32_t> held;
    for (uint32_t i = std::max(begin, first); i < match.end / kBlock; ++i) {
      held.push_back(match.nodes[i - begin]->blocks[g]);
      Hold(g, held.back());
    }
    TrimTo(g, &table, first);
    if (table.blocks.empty()) table.first = std::max(begin, first);
    table.blocks.insert(table.blocks.end(), held.begin(), held.end());
  }
  return match.end;
}

void KvPool::Announce(KvTables* tables, const KvTokens& tokens, uint32_t pos, uint32_t end,
                      uint64_t step) {
  if (!keep_) return;
  for (uint32_t i = pos / kBlock; i * kBlock < end && (i + 1) * kBlock <= tokens.ids.size(); ++i) {
    if (tables->path.size() < i) return;
    Extend(tables, tokens, i);
    if (!tables->path[i]->ready) tables->path[i]->step = step;
  }
}

void KvPool::Extend(KvTables* tables, const KvTokens& tokens, size_t index) {
  if (index < tables->path.size()) return;
  PrefixNode* const before = index == 0 ? nullptr : tables->path.back();
  PrefixNode* const node =
      tree_.AddChild(before, tokens.tenant, tokens.ids.subspan(index * kBlock, kBlock));
  Use(node);
  tables->path.push_back(node);
}

uint64_t KvPool::AnnouncedBy(const KvTables& tables, const KvTokens& tokens, uint32_t pos) const {
  const size_t i = pos / kBlock;
  // A path that is longer has it already: it is the sequence's own.
  if (!keep_ || pos % kBlock != 0 || tables.path.size() != i) return 0;
  if ((i + 1) * kBlock >= tokens.ids.size()) return 0;
  const PrefixNode* node = Next(tables, tokens, i, i == 0 ? nullptr : tables.path.back());
  return node == nullptr || node->ready ? 0 : node->step;
}

void KvPool::Keep(KvTables* tables, const KvTokens& tokens, uint32_t end) {
  if (!keep_ || tables->empty()) return;
  const size_t n = std::min<size_t>(end, tokens.ids.size()) / kBlock;
  for (; tables->kept < n; ++tables->kept) {
    const uint32_t i = tables->kept;
    Extend(tables, tokens, i);
    PrefixNode* const node = tables->path[i];
    node->ready = true;
    for (size_t g = 0; g < groups_.size(); ++g) {
      KvTable& table = tables->groups[g];
      if (i < table.first || i >= table.end()) continue;  // its window has left it behind
      uint32_t& own = table.blocks[i - table.first];
      if (node->blocks[g] == kNoBlock) {
        node->blocks[g] = own;
        state_[g].blocks[own].node = node;
      } else if (node->blocks[g] != own) {
        // Another sequence read the same at the same time. Frames run in order, so that none that
        // is on its way sees what is written to this one's block later.
        Hold(g, node->blocks[g]);
        Leave(g, std::exchange(own, node->blocks[g]));
      }
    }
  }
}

std::vector<stage::BlockTable> KvPool::TablesFor(const KvTables& tables, uint32_t pos,
                                                 uint32_t n_rows) const {
  std::vector<stage::BlockTable> out(groups_.size());
  for (size_t g = 0; g < groups_.size(); ++g) {
    const KvTable& table = tables.groups[g];
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
