#include "apps/daemon_config.h"

#include <toml++/toml.h>

#include <CLI/CLI.hpp>
#include <algorithm>
#include <cmath>
#include <iterator>
#include <sstream>

#include "absl/strings/numbers.h"
#include "base/command_line.h"
#include "base/environment.h"
#include "base/field_error.h"
#include "base/log.h"
#include "base/status.h"
#include "base/version.h"

namespace lanyard::apps {
namespace {

// A larger file cannot be a hand-written one.
constexpr size_t kMaxTextBytes = 1 << 20;

std::string EnvironmentName(const std::string& prefix, const std::string& option) {
  std::string out = prefix + "_" + option;
  for (char& c : out)
    c = c == '-' ? '_' : static_cast<char>(std::toupper(static_cast<unsigned char>(c)));
  return out;
}

std::string Where(const toml::node& node) {
  return absl::StrCat("line ", node.source().begin.line, ": ");
}

// What an option takes.
enum class Kind { kFlag, kInteger, kNumber, kText };

Kind KindOf(const CLI::Option& option) {
  const std::string type = option.get_type_name();  // "INT:INT in [1 - 64]"
  const std::string name = type.substr(0, type.find(':'));
  if (option.get_expected_min() == 0 || name == "BOOLEAN") return Kind::kFlag;
  if (name == "INT" || name == "UINT") return Kind::kInteger;
  return name == "FLOAT" ? Kind::kNumber : Kind::kText;
}

absl::string_view Wanted(Kind kind) {
  switch (kind) {
    case Kind::kFlag:
      return "true or false";
    case Kind::kInteger:
      return "a whole number";
    case Kind::kNumber:
      return "a number";
    case Kind::kText:
      return "a text in quotes";
  }
  return "";
}

bool IsOfKind(const std::string& text, Kind kind) {
  int64_t whole = 0;
  double number = 0;
  switch (kind) {
    case Kind::kFlag:
      return text == "true" || text == "false";
    case Kind::kInteger:
      return absl::SimpleAtoi(text, &whole);
    case Kind::kNumber:
      return absl::SimpleAtod(text, &number) && std::isfinite(number);
    case Kind::kText:
      return true;
  }
  return false;
}

// CLI11 asks the file before the environment; here a key gives way to a variable that is set.
class TomlConfig final : public CLI::Config {
 public:
  TomlConfig(CLI::App& app, std::string prefix) : app_(app), prefix_(std::move(prefix)) {}

  std::string to_config(const CLI::App* /*app*/, bool /*defaults*/, bool /*descriptions*/,
                        std::string /*prefix*/) const override {
    return "";
  }

  std::vector<CLI::ConfigItem> from_config(std::istream& in) const override {
    const std::string text = Read(in);
    if (text.size() > kMaxTextBytes) throw Error("is larger than a MiB: not a configuration file");
    std::vector<CLI::ConfigItem> out;
    for (const auto& [key, value] : Parse(text)) {
      const std::string name(key.str());
      CLI::Option& option = Known(name, value);
      CLI::ConfigItem item;
      item.name = name;
      if (const auto* list = value.as_array()) {
        if (option.get_items_expected_max() == 1 || KindOf(option) == Kind::kFlag)
          throw Error(absl::StrCat(Where(value), name, " takes one value, not a list"));
        for (const toml::node& each : *list) item.inputs.push_back(Text(&option, name, each));
      } else {
        item.inputs.push_back(Text(&option, name, value));
      }
      if (!EnvironmentOr(EnvironmentName(prefix_, name).c_str(), "").empty()) continue;
      if (!item.inputs.empty()) out.push_back(std::move(item));
    }
    return out;
  }

 private:
  CLI::ConfigError Error(const std::string& what) const {
    return {absl::StrCat("--config ", app_["--config"]->as<std::string>(), " ", what),
            CLI::ExitCodes::ConfigError};
  }

  // Writes one value as the command line would have it. A text stands for anything that it names,
  // as in the environment; a number or a truth stands for itself alone.
  std::string Text(CLI::Option* option, const std::string& key, const toml::node& node) const {
    const Kind kind = KindOf(*option);
    std::string out;
    bool fits = false;
    if (const auto* text = node.as_string()) {
      out = text->get();
      fits = IsOfKind(out, kind);
    } else if (const auto* flag = node.as_boolean()) {
      out = flag->get() ? "true" : "false";
      fits = kind == Kind::kFlag;
    } else if (const auto* whole = node.as_integer()) {
      out = std::to_string(whole->get());
      fits = kind == Kind::kInteger || kind == Kind::kNumber;
    } else if (const auto* number = node.as_floating_point()) {
      out = absl::StrCat(number->get());
      fits = kind == Kind::kNumber && IsOfKind(out, kind);
    }
    if (!fits) {
      std::ostringstream written;
      if (!out.empty()) written << toml::default_formatter(node);
      throw Error(absl::StrCat(Where(node), key, " must be ", Wanted(kind),
                               out.empty() ? "" : ", not ", written.str()));
    }
    if (const std::string wrong = WhyNoValue(*option, out); !wrong.empty())
      throw Error(absl::StrCat(Where(node), key, ": ", wrong));
    return out;
  }

  std::string Read(std::istream& in) const {
    try {
      return {std::istreambuf_iterator<char>(in), {}};
    } catch (const std::ios_base::failure&) {
      throw Error("cannot be read");
    }
  }

  toml::table Parse(const std::string& text) const {
    try {
      return toml::parse(text);
    } catch (const toml::parse_error& e) {
      throw Error(
          absl::StrCat("line ", e.source().begin.line, ": ",
                       Str(absl::string_view(e.description().data(), e.description().size()))));
    }
  }

  CLI::Option& Known(const std::string& name, const toml::node& value) const {
    std::vector<std::string> known;
    for (const CLI::Option* option : app_.get_options()) {
      if (!option->get_lnames().empty() && option->get_configurable())
        known.push_back(option->get_lnames().front());
    }
    if (std::find(known.begin(), known.end(), name) != known.end())
      return *app_.get_option("--" + name);
    const std::string near = Suggestion(name, known);
    throw Error(absl::StrCat(Where(value), "there is no option '", Shortened(name), "'",
                             near.empty() ? "" : absl::StrCat("; did you mean '", near, "'?"), " (",
                             app_.get_name(), " --help lists them)"));
  }

  CLI::App& app_;
  const std::string prefix_;
};

}  // namespace

void AddDaemonFlags(CLI::App& app, const std::string& prefix, const std::string& examples,
                    DaemonFlags* flags) {
  app.set_version_flag("--version", kVersion);
  app.add_option("--log-level", flags->log_level, "debug, info, warning, error or off")
      ->check(ParsesAs(ParseLogLevel))
      ->capture_default_str();
  app.add_flag("--log-json", flags->log_json, "one JSON object a line");
  for (CLI::Option* option : app.get_options()) {
    if (option->get_lnames().empty()) continue;
    const std::string& name = option->get_lnames().front();
    if (name == "help" || name == "version") {
      option->configurable(false);
    } else {
      option->envname(EnvironmentName(prefix, name));
    }
  }
  app.set_config("--config", "",
                 "a TOML file whose keys are these options, e.g. log-level = \"debug\"")
      ->configurable(false);
  app.config_formatter(std::make_shared<TomlConfig>(app, prefix));
  app.footer("Examples:\n" + examples + "Each option also comes from the environment (" +
             EnvironmentName(prefix, "log-level") +
             " for --log-level) and from the --config file: flag > environment > file > default.");
}

}  // namespace lanyard::apps
