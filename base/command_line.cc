#include "base/command_line.h"

#include <algorithm>
#include <cmath>
#include <cstdio>
#include <sstream>
#include <vector>

#include "absl/strings/match.h"
#include "absl/strings/numbers.h"
#include "base/file.h"
#include "base/nearest.h"
#include "base/output.h"
#include "base/size.h"
#include "base/status.h"
#include "base/utf8.h"

namespace lanyard {
namespace {

bool IsOption(const std::string& word) { return word.size() > 1 && word.front() == '-'; }

std::vector<const CLI::App*> VerbsOf(const CLI::App& app) {
  return app.get_subcommands([](const CLI::App*) { return true; });
}

std::vector<std::string> OptionsOf(const CLI::App& app) {
  std::vector<std::string> out;
  for (const CLI::Option* option : app.get_options()) {
    for (const std::string& name : option->get_lnames()) out.push_back("--" + name);
  }
  return out;
}

std::string ListOfVerbs(const CLI::App& app) {
  size_t width = 0;
  for (const CLI::App* verb : VerbsOf(app)) width = std::max(width, verb->get_name().size());
  std::string out = absl::StrCat("The verbs of ", FullName(app), ":\n");
  for (const CLI::App* verb : VerbsOf(app)) {
    const std::string& name = verb->get_name();
    absl::StrAppend(&out, "  ", name, std::string(width - name.size() + 2, ' '),
                    verb->get_description(), "\n");
  }
  absl::StrAppend(&out, "`", FullName(app), " VERB --help` shows options and examples.\n");
  return out;
}

std::string SeeHelp(const CLI::App& app) {
  return absl::StrCat("`", FullName(app), " --help` shows what it takes",
                      app.get_footer().empty() ? "" : ", with examples", ".\n");
}

std::string NoSuchOption(const CLI::App& app, const std::string& word) {
  const std::string name = word.substr(0, word.find('='));
  std::string out = absl::StrCat("error: ", FullName(app), " has no option '", name, "'");
  if (const std::string near = Suggestion(name, OptionsOf(app)); !near.empty()) {
    return absl::StrCat(out, "; did you mean '", near, "'?\n", SeeHelp(app));
  }
  const auto verbs = VerbsOf(app);
  const bool of_a_verb = std::any_of(verbs.begin(), verbs.end(), [&](const CLI::App* verb) {
    const auto known = OptionsOf(*verb);
    return std::find(known.begin(), known.end(), name) != known.end();
  });
  if (of_a_verb) absl::StrAppend(&out, "; the options of a verb stand after the verb");
  return absl::StrCat(out, "\n", SeeHelp(app));
}

// The command that the words before the error chose, and the first word that it could not use.
const CLI::App& Blamed(const CLI::App& app, std::string* word) {
  const CLI::App* at = &app;
  while (true) {
    if (const std::vector<std::string> rest = at->remaining(); !rest.empty()) {
      *word = rest.front();
      return *at;
    }
    const std::vector<CLI::App*> chosen = at->get_subcommands();
    if (chosen.empty()) return *at;
    at = chosen.back();
  }
}

constexpr char kAnyBytes[] = "any bytes";
constexpr char kEmpty[] = "empty";

// CLI11 knows no other place for a remark on an option.
CLI::Option* Remark(CLI::Option* option, const char* remark) {
  return option->check(
      CLI::Validator([](std::string&) { return std::string(); }, /*validator_desc=*/"", remark));
}

bool HasRemark(CLI::Option& option, const char* remark) {
  try {
    option.get_validator(remark);
  } catch (const CLI::OptionNotFound&) {
    return false;
  }
  return true;
}

// What no option takes as a text, or "".
std::string WhyNoText(CLI::Option& option, const std::string& value) {
  if (value.empty() && !HasRemark(option, kEmpty))
    return "its value is empty; give it one, or leave it out";
  // A range holds "nan".
  double number = 0;
  const bool is_number = option.get_type_name().rfind("FLOAT", 0) == 0;
  if (is_number && absl::SimpleAtod(value, &number) && !std::isfinite(number))
    return absl::StrCat("'", value, "' is no number");
  return HasRemark(option, kAnyBytes) ? "" : Str(CheckUtf8(value).message());
}

void CheckValues(CLI::App& app) {
  for (CLI::Option* option : app.get_options([](const CLI::Option*) { return true; })) {
    for (const std::string& value : option->results()) {
      if (const std::string wrong = WhyNoText(*option, value); !wrong.empty())
        throw CLI::ValidationError(option->get_name(), wrong);
    }
  }
  for (CLI::App* verb : app.get_subcommands()) CheckValues(*verb);
}

}  // namespace

CLI::Option* MayHoldAnyBytes(CLI::Option* option) { return Remark(option, kAnyBytes); }
CLI::Option* MayBeEmpty(CLI::Option* option) { return Remark(option, kEmpty); }

std::string Suggestion(const std::string& word, const std::vector<std::string>& known) {
  for (const std::string& each : known) {
    if (word.size() >= 3 && absl::StartsWith(each, word)) return each;
  }
  const std::string nearest = Nearest(word, known);
  return !nearest.empty() && EditDistance(word, nearest) <= 1 + word.size() / 4 ? nearest : "";
}

std::string WhyNoValue(CLI::Option& option, const std::string& value) {
  if (std::string wrong = WhyNoText(option, value); !wrong.empty()) return wrong;
  for (int index = 0;; ++index) {
    const CLI::Validator* check = nullptr;
    try {
      check = option.get_validator(index);
    } catch (const CLI::OptionNotFound&) {  // CLI11 does not say how many there are
      return "";
    }
    std::string text = value;
    if (std::string wrong = (*check)(text); !wrong.empty()) return wrong;
  }
}

void ParseWords(CLI::App& app, int argc, const char* const* argv) {
  app.parse(argc, argv);
  CheckValues(app);
}

std::string FullName(const CLI::App& app) {
  return app.get_parent() == nullptr ? app.get_name()
                                     : FullName(*app.get_parent()) + " " + app.get_name();
}

std::string NoSuchVerb(const CLI::App& app, const std::string& word, const Habits& habits) {
  std::vector<std::string> known;
  for (const CLI::App* verb : VerbsOf(app)) known.push_back(verb->get_name());
  std::string out = absl::StrCat("error: ", FullName(app), " has no verb '", word, "'");
  const auto habit = app.get_parent() == nullptr ? habits.find(word) : habits.end();
  const std::string near = habit == habits.end() ? Suggestion(word, known) : "";
  if (habit != habits.end()) {
    absl::StrAppend(&out, "; you may want ", habit->second);
  } else if (!near.empty()) {
    absl::StrAppend(&out, "; did you mean `", FullName(app), " ", near, "`?");
  }
  return absl::StrCat(out, "\n", ListOfVerbs(app));
}

std::string UsageError(const CLI::App& app, const CLI::ParseError& error, const Habits& habits) {
  std::string word;
  const CLI::App& at = Blamed(app, &word);
  const bool missing = dynamic_cast<const CLI::RequiredError*>(&error) != nullptr;
  const bool extra = dynamic_cast<const CLI::ExtrasError*>(&error) != nullptr;
  if (dynamic_cast<const CLI::FileError*>(&error) != nullptr) {  // its own words: "(missing?)"
    const CLI::Option* config = app.get_config_ptr();
    const auto read = config == nullptr || config->empty()
                          ? absl::StatusOr<std::string>("")
                          : ReadSmallFile(config->as<std::string>());
    if (!read.ok())
      return absl::StrCat("error: --config: ", read.status().message(), "\n", SeeHelp(at));
  }
  // A word that nobody knows is why something is missing.
  if (!word.empty() && (missing || extra)) {
    if (IsOption(word)) return NoSuchOption(at, word);
    if (!VerbsOf(at).empty()) return NoSuchVerb(at, word, habits);
    return absl::StrCat("error: ", FullName(at), " has no use for the argument '", word, "'\n",
                        SeeHelp(at));
  }
  if (missing && !VerbsOf(at).empty()) {
    return absl::StrCat("error: ", FullName(at), " needs a verb that says what to do\n",
                        ListOfVerbs(at));
  }
  return absl::StrCat("error: ", std::string(error.what()), "\n", SeeHelp(at));
}

std::optional<int> ParseCommandLine(CLI::App& app, int argc, const char* const* argv,
                                    const Habits& habits) {
  try {
    ParseWords(app, argc, argv);
  } catch (const CLI::ParseError& error) {
    if (error.get_exit_code() == 0) {  // --help, --version
      std::ostringstream text;
      const int code = app.exit(error, text);
      std::fputs(text.str().c_str(), stdout);
      return EndOfOutput(code);
    }
    std::fputs(UsageError(app, error, habits).c_str(), stderr);
    return kUsage;
  }
  return std::nullopt;
}

std::function<std::string(const std::string&)> ParsesAsLimit(uint64_t least) {
  return ParsesAs([least](const std::string& text) { return ParseLimit(text, least); });
}

}  // namespace lanyard
