#include "model/stop_matcher.h"

#include <utility>

namespace lanyard::model {

StopMatcher::StopMatcher(std::vector<std::string> stops) {
  for (std::string& s : stops) {
    if (!s.empty()) stops_.push_back(std::move(s));
  }
  if (stops_.empty()) return;
  matcher_ =
      std::make_unique<PatternMatcher>(std::vector<std::string_view>(stops_.begin(), stops_.end()));
}

std::string_view StopMatcher::stop() const {
  return stopped() ? std::string_view(stops_[stop_index_]) : std::string_view();
}

std::string StopMatcher::Push(std::string_view piece) {
  if (stopped()) return {};
  if (matcher_ == nullptr) return std::string(piece);
  const size_t before = held_.size();
  held_.append(piece);
  for (size_t i = before; i < held_.size(); ++i) {
    state_ = matcher_->Step(state_, static_cast<uint8_t>(held_[i]));
    const int32_t hit = matcher_->Longest(state_);
    if (hit == PatternMatcher::kNone) continue;
    stop_index_ = hit;
    std::string out = held_.substr(0, i + 1 - matcher_->Length(hit));
    held_.clear();
    return out;
  }
  // The state's depth is the longest end of the text that may still grow into a stop string. It is
  // at most what is held: a longer one would have been held too. It never cuts a character in two.
  size_t safe = held_.size() - matcher_->Depth(state_);
  while (safe > 0 && safe < held_.size() && (static_cast<uint8_t>(held_[safe]) & 0xC0) == 0x80)
    --safe;
  std::string out = held_.substr(0, safe);
  held_.erase(0, safe);
  return out;
}

std::string StopMatcher::Flush() { return std::exchange(held_, {}); }

}  // namespace lanyard::model
