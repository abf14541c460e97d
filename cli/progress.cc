#include "cli/progress.h"

#include <unistd.h>

#include <algorithm>
#include <cstdlib>
#include <string_view>

#include "base/environment.h"
#include "base/size.h"
#include "base/status.h"
#include "cli/table.h"

namespace lanyard::cli {
namespace {

constexpr TimeNs kRedraw = 100 * kMillisecond;
constexpr TimeNs kPlainLine = 5 * kSecond;
constexpr int kBarWidth = 24;

bool TerminalUnderstands(std::FILE* out) {
  if (::isatty(::fileno(out)) == 0) return false;
  return EnvironmentOr("TERM", "dumb") != "dumb" && EnvironmentOr("NO_COLOR", "").empty();
}

}  // namespace

Progress::Progress(std::FILE* out, Style style)
    : out_(out),
      bar_(style == Style::kBar || (style == Style::kAuto && TerminalUnderstands(out))) {}

Progress::~Progress() { Clear(); }

void Progress::Clear() {
  if (drawn_) {
    std::fputs("\r\x1b[K", out_);
    std::fflush(out_);
  }
  drawn_ = false;
}

std::string Progress::Render(const std::string& label, uint64_t done, uint64_t total,
                             double bytes_per_s, int bar_width) {
  done = std::min(done, total);
  const double part = total == 0 ? 1 : static_cast<double>(done) / static_cast<double>(total);
  const int full = static_cast<int>(part * bar_width);
  std::string out = label + "  ";
  if (bar_width > 0) {
    absl::StrAppend(&out, "[", std::string(static_cast<size_t>(full), '#'),
                    std::string(static_cast<size_t>(bar_width - full), '-'), "]  ");
  }
  absl::StrAppend(&out, static_cast<int>(part * 100), "%  ", FormatSize(done), " of ",
                  FormatSize(total));
  if (bytes_per_s > 0) {
    absl::StrAppend(&out, "  ", FormatSize(static_cast<uint64_t>(bytes_per_s)), "/s  ",
                    FormatSeconds(static_cast<double>(total - done) / bytes_per_s), " left");
  }
  return out;
}

void Progress::Show(const std::string& line, TimeNs now, bool changed) {
  if (line == last_ && !changed) return;
  const TimeNs pause = bar_ ? kRedraw : kPlainLine;
  if (!changed && now - shown_ < pause) return;
  shown_ = now;
  last_ = line;
  if (bar_) {
    std::fprintf(out_, "\r%s\x1b[K", line.c_str());
    drawn_ = true;
  } else {
    std::fprintf(out_, "%s\n", line.c_str());
  }
  std::fflush(out_);
}

void Progress::Update(const std::string& label, uint64_t done, uint64_t total, TimeNs now) {
  const bool changed = label != label_;
  if (changed || done < start_bytes_) {
    label_ = label;
    start_ = now;
    start_bytes_ = done;
  }
  const double seconds = static_cast<double>(now - start_) / static_cast<double>(kSecond);
  const double rate = seconds > 0.2 ? static_cast<double>(done - start_bytes_) / seconds : 0;
  Show(Render(label, done, total, rate, bar_ ? kBarWidth : 0), now, changed || done == total);
}

void Progress::Message(const std::string& text, TimeNs now) {
  const bool changed = text != label_;
  label_ = text;
  start_bytes_ = 0;
  Show(text, now, changed);
}

}  // namespace lanyard::cli
