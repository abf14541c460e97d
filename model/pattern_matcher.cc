#include "model/pattern_matcher.h"

#include <algorithm>

namespace lanyard::model {

PatternMatcher::PatternMatcher(const std::vector<std::string_view>& patterns)
    : nodes_(1), lengths_(patterns.size()), shorter_(patterns.size(), kNone) {
  for (size_t p = 0; p < patterns.size(); ++p) {
    lengths_[p] = static_cast<uint32_t>(patterns[p].size());
    uint32_t node = kRoot;
    for (const char c : patterns[p]) {
      const uint64_t edge = uint64_t{node} << 8 | static_cast<uint8_t>(c);
      const auto [it, is_new] = edges_.try_emplace(edge, static_cast<uint32_t>(nodes_.size()));
      if (is_new) nodes_.push_back({nodes_[node].depth + 1, kRoot, kNone});
      node = it->second;
    }
    if (node != kRoot && nodes_[node].output == kNone) {
      nodes_[node].output = static_cast<int32_t>(p);
    }
  }
  Link();
}

uint32_t PatternMatcher::Child(uint32_t node, uint8_t byte) const {
  const auto it = edges_.find(uint64_t{node} << 8 | byte);
  return it == edges_.end() ? 0 : it->second;
}

uint32_t PatternMatcher::StepSlow(uint32_t state, uint8_t byte) const {
  while (state != kRoot) {
    if (const uint32_t next = Child(state, byte); next != 0) return next;
    state = nodes_[state].fail;
  }
  return root_[byte];
}

// It goes breadth first, so that a node's failure link, which is less deep, is ready before it.
void PatternMatcher::Link() {
  struct Edge {
    uint32_t from, to;
    uint8_t byte;
  };
  uint32_t deepest = 0;
  for (const Node& n : nodes_) deepest = std::max(deepest, n.depth);
  std::vector<std::vector<Edge>> levels(deepest + 1);
  for (const auto& [edge, to] : edges_) {
    const auto from = static_cast<uint32_t>(edge >> 8);
    levels[nodes_[to].depth].push_back({from, to, static_cast<uint8_t>(edge & 0xFF)});
    if (from == kRoot) root_[edge & 0xFF] = to;
  }
  for (const auto& level : levels) {
    for (const auto& [from, to, byte] : level) {
      Node& node = nodes_[to];
      if (from != kRoot) node.fail = StepSlow(nodes_[from].fail, byte);
      const int32_t inherited = nodes_[node.fail].output;
      if (node.output == kNone) {
        node.output = inherited;
      } else {
        shorter_[node.output] = inherited;
      }
    }
  }
}

}  // namespace lanyard::model
