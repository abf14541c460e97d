// Oddities of one kind in a file: counted, and only the first is told, so that a file with
// thousands of them costs a reader one line.
#pragma once

#include <cstdint>
#include <string>
#include <string_view>
#include <vector>

#include "base/status.h"

namespace lanyard::model {

class Counted {
 public:
  // `first` says which one it is; it is put together for the first alone.
  template <typename... Args>
  void Add(const Args&... first) {
    if (count_++ == 0) first_ = absl::StrCat(first...);
  }
  // "WHAT (COUNT of them; the first: FIRST)" as a line of `out`, where there was any.
  void Report(std::string_view what, std::vector<std::string>* out) const {
    if (count_ == 0) return;
    out->push_back(
        absl::StrCat(AbslView(what), " (", count_, " of them; the first: ", first_, ")"));
  }

 private:
  uint64_t count_ = 0;
  std::string first_;
};

}  // namespace lanyard::model
