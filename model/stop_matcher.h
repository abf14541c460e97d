// Finds stop strings across token borders. Text comes in by pieces. What cannot be the beginning of
// a stop string is given out at once; the rest is held back until it is decided. Time is linear in
// the text.
#pragma once

#include <cstdint>
#include <memory>
#include <string>
#include <string_view>
#include <vector>

#include "model/pattern_matcher.h"

namespace lanyard::model {

class StopMatcher {
 public:
  StopMatcher() : StopMatcher(std::vector<std::string>{}) {}
  // Empty strings are ignored.
  explicit StopMatcher(std::vector<std::string> stops);

  // Returns the text that is now safe to send. Of all stop strings the one that is complete first
  // wins, and of those that end at the same byte the longest; the text stops before it. Once
  // stopped, it returns nothing.
  std::string Push(std::string_view piece);
  // The text has ended: returns what was held back.
  std::string Flush();

  bool stopped() const { return stop_index_ >= 0; }
  // The stop string that was found; empty before.
  std::string_view stop() const;

 private:
  std::vector<std::string> stops_;
  std::unique_ptr<PatternMatcher> matcher_;  // null without stop strings
  uint32_t state_ = PatternMatcher::kRoot;
  std::string held_;
  int32_t stop_index_ = -1;
};

}  // namespace lanyard::model
