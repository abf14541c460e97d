// Searches for many fixed strings at once in linear time (Aho-Corasick). It is used for special
// tokens and for stop strings.
#pragma once

#include <array>
#include <cstdint>
#include <string>
#include <string_view>
#include <vector>

#include "absl/container/flat_hash_map.h"

namespace lanyard::model {

// Immutable and thread-safe once built. Patterns are named by their index. Empty ones never match;
// of equal ones the first counts.
class PatternMatcher {
 public:
  static constexpr uint32_t kRoot = 0;
  static constexpr int32_t kNone = -1;

  explicit PatternMatcher(const std::vector<std::string_view>& patterns);

  // Returns the state after one more byte. A state is the longest suffix of the bytes read so far
  // that begins some pattern.
  uint32_t Step(uint32_t state, uint8_t byte) const {
    if (state == kRoot) return root_[byte];
    return StepSlow(state, byte);
  }

  // The length of that suffix: these bytes may still become part of a match.
  uint32_t Depth(uint32_t state) const { return nodes_[state].depth; }

  // The longest pattern that ends here, or kNone. NextShorter goes on to the next pattern that also
  // ends here.
  int32_t Longest(uint32_t state) const { return nodes_[state].output; }
  int32_t NextShorter(int32_t pattern) const { return shorter_[pattern]; }
  uint32_t Length(int32_t pattern) const { return lengths_[pattern]; }

 private:
  struct Node {
    uint32_t depth = 0;
    uint32_t fail = kRoot;
    int32_t output = kNone;
  };
  uint32_t StepSlow(uint32_t state, uint8_t byte) const;
  uint32_t Child(uint32_t node, uint8_t byte) const;  // 0 where there is none
  void Link();

  std::vector<Node> nodes_;
  absl::flat_hash_map<uint64_t, uint32_t> edges_;  // node << 8 | byte
  std::array<uint32_t, 256> root_{};
  std::vector<uint32_t> lengths_;
  std::vector<int32_t> shorter_;
};

}  // namespace lanyard::model
