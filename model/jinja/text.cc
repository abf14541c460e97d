#include "model/jinja/text.h"

#include <algorithm>

namespace lanyard::model::jinja {

void Text::Append(std::string_view bytes, bool trusted) {
  if (bytes.empty()) return;
  if (bytes_.empty()) {
    bytes_ = std::string(bytes);
    trusted_ = trusted;
    runs_.clear();
    return;
  }
  const bool last = runs_.empty() ? trusted_ : runs_.back().trusted;
  if (runs_.empty() && last != trusted) runs_.push_back({bytes_.size(), last});
  bytes_.append(bytes);
  if (runs_.empty()) return;
  if (last == trusted) {
    runs_.back().end = bytes_.size();
  } else {
    runs_.push_back({bytes_.size(), trusted});
  }
}

void Text::Append(const Text& other) {
  other.ForEachRun([&](std::string_view bytes, bool trusted) { Append(bytes, trusted); });
}

Text Text::Sub(size_t begin, size_t length) const {
  if (runs_.empty()) return Text(bytes_.substr(begin, length), trusted_);
  Text out;
  const size_t end = begin + length;
  auto run = std::upper_bound(runs_.begin(), runs_.end(), begin,
                              [](size_t at, const Run& r) { return at < r.end; });
  for (; begin < end && run != runs_.end(); ++run) {
    const size_t stop = std::min(end, run->end);
    out.Append(std::string_view(bytes_).substr(begin, stop - begin), run->trusted);
    begin = stop;
  }
  return out;
}

}  // namespace lanyard::model::jinja
