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
  bool empty() const { return rows_.size() == 1; }  // no row was added
  std::string ToString() const;

 private:
  std::vector<std::vector<std::string>> rows_;  // the first is the header
  std::vector<bool> right_;
};

// Prints on stdout; a table without rows becomes the sentence `when_empty`, not a lonely header.
void PrintTable(const Table& table, const std::string& when_empty);

// "3.2 s", "4 m 05 s", "2 h 10 m".
std::string FormatSeconds(double seconds);

}  // namespace lanyard::cli
