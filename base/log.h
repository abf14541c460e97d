// Logging to stderr over spdlog, which stays out of this header. It writes text on a terminal, and
// one JSON object a line otherwise when asked to. Prompts, answers, keys and activations never go
// into a log line.
#pragma once

#include <optional>
#include <string>
#include <string_view>

#include "base/status.h"

namespace lanyard {

enum class LogLevel { kDebug = 0, kInfo = 1, kWarning = 2, kError = 3, kOff = 4 };

struct LogOptions {
  LogLevel level = LogLevel::kInfo;
  bool json = false;
  std::string program;  // stands in every line
};

// Takes "debug", "info", "warning" (or "warn"), "error" or "off".
absl::StatusOr<LogLevel> ParseLogLevel(std::string_view text);

// To be called once, at the start of a program. Before it, lines of level info and above go to
// stderr as text.
void SetupLog(const LogOptions& options);

struct LogLine {
  LogLevel level = LogLevel::kInfo;
  std::string words;  // without time and program
};
// A line as these programs write it (as text, not JSON); nullopt for any other.
std::optional<LogLine> ParseLogLine(std::string_view line);

bool LogEnabled(LogLevel level);
// Thread-safe. Control characters in `line` are escaped.
void WriteLog(LogLevel level, std::string_view line);

template <typename... Args>
void LogDebug(const Args&... args) {
  if (LogEnabled(LogLevel::kDebug)) WriteLog(LogLevel::kDebug, absl::StrCat(args...));
}
template <typename... Args>
void LogInfo(const Args&... args) {
  if (LogEnabled(LogLevel::kInfo)) WriteLog(LogLevel::kInfo, absl::StrCat(args...));
}
template <typename... Args>
void LogWarning(const Args&... args) {
  if (LogEnabled(LogLevel::kWarning)) WriteLog(LogLevel::kWarning, absl::StrCat(args...));
}
template <typename... Args>
void LogError(const Args&... args) {
  if (LogEnabled(LogLevel::kError)) WriteLog(LogLevel::kError, absl::StrCat(args...));
}

}  // namespace lanyard
