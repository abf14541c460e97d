#include "cli/chat_settings.h"

#include <limits>
#include <nlohmann/json.hpp>

#include "absl/strings/numbers.h"
#include "base/nearest.h"

namespace lanyard::cli {
namespace {

// What the pool accepts too (docs/api.md); absl's parsers know no locale.
absl::Status Number(const std::string& value, bool zero_allowed, double highest,
                    std::optional<double>* out) {
  double number = 0;
  // Not a number compares false with everything.
  if (!absl::SimpleAtod(value, &number) || !(number >= 0) || number > highest ||
      (number == 0 && !zero_allowed)) {
    return InvalidArgument("'", value, "'");
  }
  *out = number;
  return absl::OkStatus();
}

template <typename T>
absl::Status Whole(const std::string& value, int64_t lowest, int64_t highest,
                   std::optional<T>* out) {
  int64_t number = 0;
  if (!absl::SimpleAtoi(value, &number) || number < lowest || number > highest)
    return InvalidArgument("'", value, "'");
  *out = static_cast<T>(number);
  return absl::OkStatus();
}

template <typename T>
std::string TextOf(const std::optional<T>& value) {
  return value.has_value() ? nlohmann::json(*value).dump() : std::string();
}

absl::Status SetVerbose(ChatSettings& settings, const std::string& value) {
  if (value != "on" && value != "off") return InvalidArgument("'", value, "'");
  settings.verbose = value == "on";
  return absl::OkStatus();
}

}  // namespace

const std::vector<Setting>& Settings() {
  using S = ChatSettings;
  using Text = const std::string&;
  static const std::vector<Setting> kSettings = {
      {"temperature", "a number from 0 to 2; 0 always takes the likeliest token", "default",
       [](S& s, Text v) { return Number(v, true, 2, &s.temperature); },
       [](S& s) { s.temperature.reset(); }, [](const S& s) { return TextOf(s.temperature); }},
      {"top_p", "a number above 0 and at most 1", "default",
       [](S& s, Text v) { return Number(v, false, 1, &s.top_p); }, [](S& s) { s.top_p.reset(); },
       [](const S& s) { return TextOf(s.top_p); }},
      {"max_tokens", "a whole number from 1 to 2147483647", "default",
       [](S& s, Text v) { return Whole(v, 1, std::numeric_limits<int32_t>::max(), &s.max_tokens); },
       [](S& s) { s.max_tokens.reset(); }, [](const S& s) { return TextOf(s.max_tokens); }},
      {"seed", "a whole number; equal seeds give equal answers", "default",
       [](S& s, Text v) {
         return Whole(v, std::numeric_limits<int64_t>::min(), std::numeric_limits<int64_t>::max(),
                      &s.seed);
       },
       [](S& s) { s.seed.reset(); }, [](const S& s) { return TextOf(s.seed); }},
      {"system", "a text, which the model is told before the conversation", "none",
       [](S& s, Text v) {
         s.system = v;
         return absl::OkStatus();
       },
       [](S& s) { s.system.clear(); }, [](const S& s) { return s.system; }},
      {"verbose", "on or off: counts of tokens and rates after each answer", "off", SetVerbose,
       [](S& s) { s.verbose = false; },
       [](const S& s) { return std::string(s.verbose ? "on" : "off"); }},
  };
  return kSettings;
}

absl::StatusOr<const Setting*> FindSetting(const std::string& name) {
  std::vector<std::string> names;
  for (const Setting& setting : Settings()) {
    if (setting.name == name) return &setting;
    names.emplace_back(setting.name);
  }
  std::string all;
  for (const std::string& known : names) absl::StrAppend(&all, all.empty() ? "" : ", ", known);
  return InvalidArgument("There is no setting '", name, "'; did you mean ", Nearest(name, names),
                         "? There are: ", all, ".");
}

absl::Status SetSetting(ChatSettings& settings, const std::string& name, const std::string& value) {
  ASSIGN_OR_RETURN(const Setting* setting, FindSetting(name));
  if (value == "default") {
    setting->reset(settings);
    return absl::OkStatus();
  }
  if (const absl::Status wrong = setting->set(settings, value); !wrong.ok()) {
    return InvalidArgument(name, " cannot be ", wrong.message(), "; it is ", setting->values,
                           " (or: default).");
  }
  return absl::OkStatus();
}

std::string SettingText(const ChatSettings& settings, const Setting& setting) {
  const std::string value = setting.get(settings);
  return absl::StrFormat("%-11s  %s", setting.name, value.empty() ? setting.default_ : value);
}

std::string SettingsText(const ChatSettings& settings, bool ranges) {
  std::string out;
  for (const Setting& setting : Settings()) {
    absl::StrAppend(&out, SettingText(settings, setting));
    if (ranges) absl::StrAppend(&out, "  (", setting.values, ")");
    out += "\n";
  }
  return out;
}

}  // namespace lanyard::cli
