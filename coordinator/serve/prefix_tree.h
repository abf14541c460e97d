// What was read before: a tree whose every path from a root spells the tokens of a beginning, a
// block of tokens a node, with the KV blocks that hold them. It only keeps the tree; who holds a
// block, and which one goes when room is needed, is said by KvPool.
#pragma once

#include <cstdint>
#include <limits>
#include <map>
#include <memory>
#include <span>
#include <string>
#include <vector>

namespace lanyard::coordinator {

inline constexpr uint32_t kNoBlock = std::numeric_limits<uint32_t>::max();

struct PrefixNode {
  struct Less {
    using is_transparent = void;
    bool operator()(std::span<const int32_t> a, std::span<const int32_t> b) const;
  };
  using Children = std::map<std::vector<int32_t>, std::unique_ptr<PrefixNode>, Less>;

  PrefixNode* parent = nullptr;  // null: a tenant's root, which stands for no tokens
  Children children;
  Children::iterator place;      // in the parent's children
  std::vector<uint32_t> blocks;  // one a state group; kNoBlock: none, or it was taken away
  bool ready = false;            // its KV was made; the groups that lost theirs say so in `blocks`
  uint32_t users = 0;            // sequences whose tokens begin with this path
  uint64_t step = 0;             // not ready: the last step that has rows of it
  uint64_t used_at = 0;          // when its last user left, in KvPool's count
  bool leaf() const { return children.empty(); }
};

// Not thread-safe: a part of KvPool.
class PrefixTree {
 public:
  explicit PrefixTree(size_t n_groups) : n_groups_(n_groups) {}

  // A node below `parent`, or below the tenant's root if that is null, whose tokens begin with
  // these: of a whole block, the node of these tokens. null when there is none. Tokens are compared
  // one by one, never by a hash alone.
  PrefixNode* Child(PrefixNode* parent, const std::string& tenant,
                    std::span<const int32_t> tokens) const;
  PrefixNode* AddChild(PrefixNode* parent, const std::string& tenant,
                       std::span<const int32_t> tokens);
  // Removes a leaf that nobody uses.
  void Remove(PrefixNode* leaf);

 private:
  const size_t n_groups_;
  std::map<std::string, std::unique_ptr<PrefixNode>> roots_;  // by tenant
};

}  // namespace lanyard::coordinator
