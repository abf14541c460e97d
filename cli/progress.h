// A progress bar on stderr with rate and time left: it is redrawn in place on a terminal, and a
// plain line every few seconds otherwise. It honours NO_COLOR and TERM=dumb (no control sequences
// then).
#pragma once

#include <cstdint>
#include <cstdio>
#include <string>

#include "base/clock.h"

namespace lanyard::cli {

class Progress {
 public:
  enum class Style { kAuto, kBar, kLines };
  explicit Progress(std::FILE* out, Style style = Style::kAuto);
  ~Progress();

  // Shows `label: done of total`. It is cheap to call often; `now` is monotonic. A change of label
  // starts the rate again.
  void Update(const std::string& label, uint64_t done_bytes, uint64_t total_bytes, TimeNs now);
  // Shows a state without a figure ("waiting for 3 workers").
  void Message(const std::string& text, TimeNs now);
  // Removes the bar, so that other output starts on a clean line.
  void Clear();

  // "loading  [######------]  50%  44.0 MiB of 88.0 MiB  120.0 MiB/s  0.4 s left"
  static std::string Render(const std::string& label, uint64_t done, uint64_t total,
                            double bytes_per_s, int bar_width);

 private:
  void Show(const std::string& line, TimeNs now, bool changed);

  std::FILE* out_;
  bool bar_;
  bool drawn_ = false;
  std::string label_;
  std::string last_;
  uint64_t start_bytes_ = 0;
  TimeNs start_ = 0;
  TimeNs shown_ = 0;
};

}  // namespace lanyard::cli
