// Strings that remember which of their bytes came from the template (trusted) and which from its
// input. Trust survives joining and cutting; where it cannot be followed, the whole result is
// untrusted.
#pragma once

#include <cstddef>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

namespace lanyard::model::jinja {

class Text {
 public:
  Text() = default;
  Text(std::string bytes, bool trusted)
      : bytes_(std::move(bytes)), trusted_(trusted || bytes_.empty()) {}

  const std::string& bytes() const { return bytes_; }
  size_t size() const { return bytes_.size(); }
  bool empty() const { return bytes_.empty(); }
  // True when every byte is trusted; the empty string is.
  bool AllTrusted() const { return runs_.empty() && trusted_; }
  bool Uniform() const { return runs_.empty(); }

  void Append(const Text& other);
  void Append(std::string_view bytes, bool trusted);
  // Returns [begin, begin + length), which must lie inside.
  Text Sub(size_t begin, size_t length) const;

  // Calls f(bytes, trusted) for each range of equal trust, in order.
  template <typename F>
  void ForEachRun(F f) const {
    if (runs_.empty()) {
      if (!bytes_.empty()) f(std::string_view(bytes_), trusted_);
      return;
    }
    size_t begin = 0;
    for (const Run& run : runs_) {
      f(std::string_view(bytes_).substr(begin, run.end - begin), run.trusted);
      begin = run.end;
    }
  }

 private:
  struct Run {
    size_t end;
    bool trusted;
  };
  std::string bytes_;
  bool trusted_ = true;    // for all bytes, where there are no runs
  std::vector<Run> runs_;  // two or more, whose neighbours differ; or none
};

}  // namespace lanyard::model::jinja
