#include "coordinator/serve/prefix_tree.h"

#include <algorithm>

namespace lanyard::coordinator {

bool PrefixNode::Less::operator()(std::span<const int32_t> a, std::span<const int32_t> b) const {
  return std::lexicographical_compare(a.begin(), a.end(), b.begin(), b.end());
}

PrefixNode* PrefixTree::Child(PrefixNode* parent, const std::string& tenant,
                              std::span<const int32_t> tokens) const {
  if (parent == nullptr) {
    const auto root = roots_.find(tenant);
    if (root == roots_.end()) return nullptr;
    parent = root->second.get();
  }
  const auto it = parent->children.lower_bound(tokens);
  if (it == parent->children.end() || it->first.size() < tokens.size()) return nullptr;
  const bool same = std::equal(tokens.begin(), tokens.end(), it->first.begin());
  return same ? it->second.get() : nullptr;
}

PrefixNode* PrefixTree::AddChild(PrefixNode* parent, const std::string& tenant,
                                 std::span<const int32_t> tokens) {
  if (parent == nullptr) {
    std::unique_ptr<PrefixNode>& root = roots_[tenant];
    if (root == nullptr) root = std::make_unique<PrefixNode>();
    parent = root.get();
  }
  const auto [place, fresh] = parent->children.try_emplace({tokens.begin(), tokens.end()});
  if (!fresh) return place->second.get();
  place->second = std::make_unique<PrefixNode>();
  PrefixNode* const node = place->second.get();
  node->parent = parent;
  node->place = place;
  node->blocks.assign(n_groups_, kNoBlock);
  return node;
}

void PrefixTree::Remove(PrefixNode* leaf) {
  PrefixNode* const parent = leaf->parent;
  parent->children.erase(leaf->place);
  if (parent->parent != nullptr || !parent->leaf()) return;
  std::erase_if(roots_, [&](const auto& root) { return root.second.get() == parent; });
}

}  // namespace lanyard::coordinator
