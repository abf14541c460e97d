#include "apps/daemon_config.h"

#include <toml++/toml.h>

#include <CLI/CLI.hpp>
#include <algorithm>
#include <iterator>

#include "base/command_line.h"
#include "base/environment.h"
#include "base/log.h"
#include "base/nearest.h"
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

// CLI11 asks the file before the environment; here a key gives way to a variable that is set.
class TomlConfig final : public CLI::Config {
 public:
  TomlConfig(const CLI::App& app, std::string prefix) : app_(app), prefix_(std::move(prefix)) {}

  std::string to_config(const CLI::App* /*app*/, bool /*defaults*/, bool /*descriptions*/,
                        std::string /*prefix*/) const override {
    return "";
  }

  std::vector<CLI::ConfigItem> from_config(std::istream& in) const override {
    const std::string text(std::istreambuf_iterator<char>(in), {});
    if (text.size() > kMaxTextBytes) throw Error("is larger than a MiB: not a configuration file");
    std::vector<CLI::ConfigItem> out;
    for (const auto& [key, value] : Parse(text)) {
      const std::string name(key.str());
      CheckKnown(name, value);
      if (!EnvironmentOr(EnvironmentName(prefix_, name).c_str(), "").empty()) continue;
      CLI::ConfigItem item;
      item.name = name;
      if (const auto* list = value.as_array()) {
        for (const toml::node& each : *list) item.inputs.push_back(Text(name, each));
      } else {
        item.inputs.push_back(Text(name, value));
      }
      if (!item.inputs.empty()) out.push_back(std::move(item));
    }
    return out;
  }

 private:
  CLI::ConfigError Error(const std::string& what) const {
    return {absl::StrCat("--config ", app_["--config"]->as<std::string>(), " ", what),
            CLI::ExitCodes::ConfigError};
  }

  // Writes one value as the command line would have it.
  std::string Text(const std::string& key, const toml::node& node) const {
    if (const auto* text = node.as_string()) return text->get();
    if (const auto* flag = node.as_boolean()) return flag->get() ? "true" : "false";
    if (const auto* number = node.as_integer()) return std::to_string(number->get());
    if (const auto* number = node.as_floating_point()) return absl::StrCat(number->get());
    throw Error(absl::StrCat(Where(node), key, " must be a text, a number, true or false"));
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

  void CheckKnown(const std::string& name, const toml::node& value) const {
    std::vector<std::string> known;
    for (const CLI::Option* option : app_.get_options()) {
      if (!option->get_lnames().empty() && option->get_configurable())
        known.push_back(option->get_lnames().front());
    }
    if (std::find(known.begin(), known.end(), name) != known.end()) return;
    throw Error(absl::StrCat(Where(value), "there is no option '", name, "'; did you mean '",
                             Nearest(name, known), "'? (", app_.get_name(), " --help lists them)"));
  }

  const CLI::App& app_;
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
