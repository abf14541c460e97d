// The settings of a chat: one table says their names, what they may be, and how they are read and
// shown, for `/set`, `/show`, the flags of `lanyard run` and a saved chat.
#pragma once

#include <cstdint>
#include <optional>
#include <string>
#include <string_view>
#include <vector>

#include "base/status.h"

namespace lanyard::cli {

struct ChatSettings {
  std::optional<double> temperature;  // without a value: as the pool decides
  std::optional<double> top_p;
  std::optional<uint32_t> max_tokens;
  std::optional<int64_t> seed;
  std::string system;
  bool verbose = false;
};

struct Setting {
  const char* name;
  const char* values;    // "a number from 0 to 2"
  const char* default_;  // what is shown where nothing was set
  // InvalidArgument says what is wrong with the value, not whose it is.
  absl::Status (*set)(ChatSettings& settings, const std::string& value);
  void (*reset)(ChatSettings& settings);
  std::string (*get)(const ChatSettings& settings);  // empty: nothing was set
};

const std::vector<Setting>& Settings();

// "default" takes a value back. InvalidArgument names the range, or the known settings.
absl::Status SetSetting(ChatSettings& settings, const std::string& name, const std::string& value);

// InvalidArgument names the nearest setting and all others.
absl::StatusOr<const Setting*> FindSetting(const std::string& name);

// "temperature  0.5", one line a setting; `ranges` adds what each may be.
std::string SettingsText(const ChatSettings& settings, bool ranges);
std::string SettingText(const ChatSettings& settings, const Setting& setting);

}  // namespace lanyard::cli
