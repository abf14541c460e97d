// What every program of Lanyard says of a command line that it cannot use, and with what it ends
// then.
#pragma once

#include <CLI/CLI.hpp>
#include <cstdint>
#include <functional>
#include <map>
#include <optional>
#include <string>
#include <vector>

#include "base/exit_code.h"

namespace lanyard {

// Words that people type out of habit, and the text of a verb that does what they mean ("chat":
// "lanyard run").
using Habits = std::map<std::string, std::string>;

// Of an option whose value is a text for a model: it may hold any bytes.
CLI::Option* MayHoldAnyBytes(CLI::Option* option);
// Of an option to which an empty value says something.
CLI::Option* MayBeEmpty(CLI::Option* option);

// The nearest of the known words when somebody can have meant it; else empty.
std::string Suggestion(const std::string& word, const std::vector<std::string>& known);

// Why `option` does not take `value`, by its checks and by what ParseWords says of every value; or
// "".
std::string WhyNoValue(CLI::Option& option, const std::string& value);

// Parses. It throws CLI::ParseError also for values that no option takes, wherever they come from:
// what is given but empty, which a script's unset variable is, would count as not given, and what
// is no UTF-8 can travel in no JSON and no message.
void ParseWords(CLI::App& app, int argc, const char* const* argv);

// Parses. Nullopt: the options stand, go on. Else the program ends with this code: help and version
// were printed on stdout, or an error on stderr (kUsage) that begins with "error: ", names the word
// that is wrong, and suggests the nearest one.
std::optional<int> ParseCommandLine(CLI::App& app, int argc, const char* const* argv,
                                    const Habits& habits = {});

// The text of that error, with a newline at its end. `error` is what ParseWords threw.
std::string UsageError(const CLI::App& app, const CLI::ParseError& error, const Habits& habits);

// Of `word`, which is no verb of `app` (a verb's full name or "" for the program itself): the same
// words as UsageError.
std::string NoSuchVerb(const CLI::App& app, const std::string& word, const Habits& habits);

// "lanyard node drain": how the command is called.
std::string FullName(const CLI::App& app);

// A check for CLI11 from a function that gives absl::StatusOr: a text that it does not take is a
// usage error in its words.
template <typename Parse>
std::function<std::string(const std::string&)> ParsesAs(Parse parse) {
  return [parse](const std::string& text) {
    const auto value = parse(text);
    return value.ok() ? std::string() : std::string(value.status().message());
  };
}

// Likewise for a size of at least so many bytes.
std::function<std::string(const std::string&)> ParsesAsLimit(uint64_t least);

}  // namespace lanyard
