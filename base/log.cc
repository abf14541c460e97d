#include "base/log.h"

#include <atomic>
#include <memory>

#include "base/mutex.h"
#include "spdlog/sinks/stdout_color_sinks.h"
#include "spdlog/spdlog.h"

namespace lanyard {
namespace {

std::atomic<int> g_level{static_cast<int>(LogLevel::kInfo)};
std::atomic<bool> g_json{false};
Mutex g_mutex;
std::shared_ptr<spdlog::logger> g_logger ABSL_GUARDED_BY(g_mutex);

spdlog::level::level_enum ToSpdlog(LogLevel level) {
  switch (level) {
    case LogLevel::kDebug:
      return spdlog::level::debug;
    case LogLevel::kInfo:
      return spdlog::level::info;
    case LogLevel::kWarning:
      return spdlog::level::warn;
    case LogLevel::kError:
      return spdlog::level::err;
    case LogLevel::kOff:
      break;
  }
  return spdlog::level::off;
}

std::shared_ptr<spdlog::logger> MakeLogger(const LogOptions& options) {
  auto sink = std::make_shared<spdlog::sinks::stderr_color_sink_mt>();
  auto logger = std::make_shared<spdlog::logger>(options.program, sink);
  logger->set_level(spdlog::level::trace);
  logger->flush_on(spdlog::level::trace);
  if (options.json) {
    logger->set_pattern(
        R"({"time":"%Y-%m-%dT%H:%M:%S.%e%z","level":"%l","program":"%n","message":"%v"})");
  } else {
    logger->set_pattern(options.program.empty() ? "%H:%M:%S.%e %^%l%$ %v"
                                                : "%H:%M:%S.%e %n %^%l%$ %v");
  }
  return logger;
}

// Removes control characters, those of two bytes (U+0080 to U+009F) too; for JSON, quotes and
// backslashes are escaped.
std::string Escape(std::string_view line, bool json) {
  std::string out;
  out.reserve(line.size());
  for (size_t i = 0; i < line.size(); ++i) {
    const char c = line[i];
    unsigned char u = static_cast<unsigned char>(c);
    const unsigned char next = i + 1 < line.size() ? static_cast<unsigned char>(line[i + 1]) : 0;
    const bool wide = u == 0xC2 && next >= 0x80 && next < 0xA0;
    if (wide) {
      u = next;
      ++i;
    }
    if (u < 0x20 || u == 0x7f || wide) {
      out += absl::StrFormat("\\u%04x", static_cast<unsigned>(u));
    } else {
      if (json && (c == '"' || c == '\\')) out.push_back('\\');
      out.push_back(c);
    }
  }
  return out;
}

}  // namespace

absl::StatusOr<LogLevel> ParseLogLevel(std::string_view text) {
  if (text == "debug") return LogLevel::kDebug;
  if (text == "info") return LogLevel::kInfo;
  if (text == "warning" || text == "warn") return LogLevel::kWarning;
  if (text == "error") return LogLevel::kError;
  if (text == "off") return LogLevel::kOff;
  return InvalidArgument("log level '", AbslView(text),
                         "' is not one of debug, info, warning, error, off");
}

std::optional<LogLine> ParseLogLine(std::string_view line) {
  constexpr std::string_view kTime = "00:00:00.000 ";
  if (line.size() < kTime.size()) return std::nullopt;
  for (size_t i = 0; i < kTime.size(); ++i) {
    const bool digit = line[i] >= '0' && line[i] <= '9';
    if (kTime[i] == '0' ? !digit : line[i] != kTime[i]) return std::nullopt;
  }
  line.remove_prefix(kTime.size());
  for (int word = 0; word < 2; ++word) {  // the level, or the program and the level
    const size_t end = line.find(' ');
    if (end == std::string_view::npos) return std::nullopt;
    const std::string_view name = line.substr(0, end);
    line.remove_prefix(end + 1);
    if (name == "off") return std::nullopt;
    if (const auto level = ParseLogLevel(name); level.ok())
      return LogLine{*level, std::string(line)};
  }
  return std::nullopt;
}

void SetupLog(const LogOptions& options) {
  g_level = static_cast<int>(options.level);
  g_json = options.json;
  MutexLock lock(&g_mutex);
  g_logger = MakeLogger(options);
}

bool LogEnabled(LogLevel level) {
  return static_cast<int>(level) >= g_level.load(std::memory_order_relaxed);
}

void WriteLog(LogLevel level, std::string_view line) {
  std::shared_ptr<spdlog::logger> logger;
  {
    MutexLock lock(&g_mutex);
    if (g_logger == nullptr) g_logger = MakeLogger({});
    logger = g_logger;
  }
  logger->log(ToSpdlog(level), "{}", Escape(line, g_json));
}

}  // namespace lanyard
