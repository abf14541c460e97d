#include "cli/table.h"

#include <algorithm>
#include <cstdio>

#include "base/status.h"
#include "cli/text.h"

namespace lanyard::cli {

Table::Table(std::vector<std::string> headers) {
  for (std::string& h : headers) {
    right_.push_back(!h.empty() && h.front() == '>');
    if (right_.back()) h.erase(0, 1);
  }
  rows_.push_back(std::move(headers));
}

void Table::AddRow(std::vector<std::string> cells) {
  cells.resize(right_.size());
  for (std::string& cell : cells) {
    // Names come over the network; a terminal must not obey them.
    cell = Printable(cell, Keep::kNothing);
  }
  rows_.push_back(std::move(cells));
}

std::string Table::ToString() const {
  std::vector<size_t> widths(right_.size(), 0);
  for (const auto& row : rows_) {
    for (size_t i = 0; i < row.size(); ++i) widths[i] = std::max(widths[i], DisplayWidth(row[i]));
  }
  std::string out;
  for (const auto& row : rows_) {
    std::string line;
    for (size_t i = 0; i < row.size(); ++i) {
      const std::string pad(widths[i] - DisplayWidth(row[i]), ' ');
      if (i > 0) line += "  ";
      line += right_[i] ? pad + row[i] : row[i] + pad;
    }
    line.erase(line.find_last_not_of(' ') + 1);
    out += line + "\n";
  }
  return out;
}

void PrintTable(const Table& table, const std::string& when_empty) {
  std::fputs(table.empty() ? (when_empty + "\n").c_str() : table.ToString().c_str(), stdout);
}

std::string FormatSeconds(double seconds) {
  if (seconds < 60) return absl::StrFormat("%.1f s", seconds);
  const auto whole = static_cast<uint64_t>(std::min(seconds, 1e15));
  if (whole < 3600) return absl::StrFormat("%d m %02d s", whole / 60, whole % 60);
  return absl::StrFormat("%d h %02d m", whole / 3600, whole / 60 % 60);
}

}  // namespace lanyard::cli
