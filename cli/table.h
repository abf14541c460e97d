// Plain text tables. Columns are padded to their widest cell; numbers stand to the right.
#pragma once

#include <string>
#include <vector>

namespace lanyard::cli {

class Table {
 public:
  // A header that starts with '>' (not printed) is aligned to the right.
  explicit Table(std::vector<std::string> headers);
  // Takes as many cells as there are headers; missing ones are empty. Control characters are
  // replaced by '?'.
  void AddRow(std::vector<std::string> cells);
  std::string ToString() const;

 private:
  std::vector<std::vector<std::string>> rows_;  // the first is the header
  std::vector<bool> right_;
};

// "3.2 s", "4 m 05 s", "2 h 10 m".
std::string FormatSeconds(double seconds);

}  // namespace lanyard::cli
