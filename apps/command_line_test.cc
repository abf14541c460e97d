// The command lines of the three programs: what their help says is true of their parsers.
#include "base/command_line.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <filesystem>
#include <fstream>
#include <functional>
#include <regex>
#include <sstream>

#include "absl/strings/ascii.h"
#include "absl/strings/match.h"
#include "absl/strings/str_join.h"
#include "absl/strings/str_replace.h"
#include "absl/strings/str_split.h"
#include "apps/coordinator_flags.h"
#include "apps/worker_flags.h"
#include "base/status.h"
#include "cli/cli.h"
#include "sharding/machines_toml.h"

namespace lanyard {
namespace {

using ::testing::EndsWith;
using ::testing::HasSubstr;
using ::testing::Not;
using ::testing::StartsWith;

using Words = std::vector<std::string>;

struct Daemons {
  apps::CoordinatorFlags coordinator_flags;
  apps::WorkerFlags worker_flags;
  std::unique_ptr<CLI::App> coordinator = apps::MakeCoordinatorApp(&coordinator_flags);
  std::unique_ptr<CLI::App> worker = apps::MakeWorkerApp(&worker_flags);
};

std::string ProblemOf(CLI::App& app, const Words& words) {
  std::vector<const char*> argv = {app.get_name().c_str()};
  for (const std::string& word : words) argv.push_back(word.c_str());
  try {
    ParseWords(app, static_cast<int>(argv.size()), argv.data());
  } catch (const CLI::ParseError& error) {
    return error.get_exit_code() == 0 ? "" : UsageError(app, error, {});
  }
  return "";
}

// The usage error of a whole command line with its program's name; empty for none.
std::string Problem(Words words) {
  const std::string program = std::filesystem::path(words.front()).filename().string();
  words.erase(words.begin());
  if (program == "lanyard") return cli::ParseOnly(words);
  const std::string etc = LANYARD_SOURCE_DIR "/packaging/etc/";
  for (size_t i = 1; i < words.size(); ++i) {
    if (words[i - 1] == "--config")  // which an installation has, and this machine need not
      words[i] = etc + std::filesystem::path(words[i]).filename().string();
  }
  Daemons daemons;
  return ProblemOf(program == "lanyard-worker" ? *daemons.worker : *daemons.coordinator, words);
}

void ForEachApp(CLI::App& app, const std::function<void(CLI::App&)>& f) {
  f(app);
  for (CLI::App* verb : app.get_subcommands([](CLI::App*) { return true; })) ForEachApp(*verb, f);
}

void ForEachApp(const std::function<void(CLI::App&)>& f) {
  Daemons daemons;
  ForEachApp(*cli::MakeCommands(), f);
  ForEachApp(*daemons.coordinator, f);
  ForEachApp(*daemons.worker, f);
}

std::string HelpOf(const CLI::App& app) {
  return app.get_parent() == nullptr ? app.help() : app.help(FullName(*app.get_parent()));
}

// The words of one line of shell, and where its commands end: "|", ";", "&&" and "(" stand alone.
Words ShellWords(const std::string& line) {
  Words out;
  std::string word;
  bool any = false;
  char quote = 0;
  const auto end = [&] {
    if (any) out.push_back(word);
    word.clear();
    any = false;
  };
  for (size_t i = 0; i < line.size(); ++i) {
    const char c = line[i];
    if (quote != 0) {
      if (c == quote) {
        quote = 0;
      } else {
        word += c;
      }
    } else if (c == '\'' || c == '"') {
      quote = c;
      any = true;
    } else if (c == ' ' || c == '\t') {
      end();
    } else if (c == '#' && !any) {
      break;
    } else if (std::string("|;&()`").find(c) != std::string::npos) {
      end();
      out.push_back("|");
    } else {
      if (c == '\\' && i + 1 < line.size()) ++i;
      word += line[i];
      any = true;
    }
  }
  end();
  return out;
}

bool IsProgram(const std::string& word) {
  static const std::regex pattern("(\\S*/)?lanyard(-worker|-coordinator)?");
  return std::regex_match(word, pattern);
}

// The commands of Lanyard in a text of shell: each begins with one of its programs.
std::vector<Words> CommandsIn(std::string text) {
  text = absl::StrReplaceAll(text, {{"\\\n", " "}});
  std::vector<Words> out;
  for (const absl::string_view line : absl::StrSplit(text, '\n')) {
    Words command;
    const auto end = [&] {
      while (!command.empty() &&
             (command[0] == "sudo" || command[0] == "export" || absl::EndsWith(command[0], "$") ||
              command[0] == "nohup" || command[0] == "exec" ||
              std::regex_match(command[0], std::regex("[A-Za-z_]+=.*")))) {
        command.erase(command.begin());
      }
      for (size_t i = 0; i < command.size(); ++i) {
        if (std::regex_match(command[i], std::regex("[0-9]?[<>].*"))) command.resize(i);
      }
      if (command.size() > 1 && IsProgram(command[0])) out.push_back(command);
      command.clear();
    };
    for (std::string& word : ShellWords(std::string(line))) {
      if (word == "|") {
        end();
      } else {
        command.push_back(std::move(word));
      }
    }
    end();
  }
  return out;
}

std::string Line(const Words& words) { return absl::StrJoin(words, " "); }

TEST(CommandLine, EveryExampleInHelpParses) {
  size_t checked = 0;
  ForEachApp([&](CLI::App& app) {
    size_t own = 0;
    for (const Words& command : CommandsIn(app.get_footer())) {
      EXPECT_EQ(Problem(command), "") << FullName(app) << " --help shows: " << Line(command);
      ++own;
    }
    // Whoever runs a program or a verb finds an example of it.
    const bool group = app.get_parent() == nullptr && app.get_name() == "lanyard";
    EXPECT_TRUE(own > 0 || group) << FullName(app) << " --help has no example";
    checked += own;
  });
  EXPECT_GT(checked, 40U);
}

std::string ReadFile(const std::filesystem::path& path) {
  std::ifstream in(path);
  std::stringstream out;
  out << in.rdbuf();
  return out.str();
}

std::vector<std::filesystem::path> Documents() {
  std::vector<std::filesystem::path> out;
  for (const char* folder : {LANYARD_SOURCE_DIR, LANYARD_SOURCE_DIR "/docs"}) {
    for (const auto& entry : std::filesystem::directory_iterator(folder)) {
      if (entry.path().extension() == ".md") out.push_back(entry.path());
    }
  }
  return out;
}

// A command that stands for many ("lanyard node drain NAME [--wait S]"), or that is only named.
bool IsPattern(const std::string& text) {
  static const std::regex pattern("\\[|\\]|<[A-Za-z]|\\{|\\*");
  return std::regex_search(text, pattern);
}

void CheckMention(const std::string& text, const std::string& where, size_t* checked) {
  if (IsPattern(text)) return;
  for (const Words& command : CommandsIn(text)) {
    const std::string problem = Problem(command);
    // To name a verb is no call of it, and "--users N" is no number.
    static const std::regex for_example(
        "no verb '[A-Z]+'|Value [A-Z]+ |Could not convert: .* = [A-Z]+");
    const bool incomplete = problem.find(" is required") != std::string::npos ||
                            problem.find("needs a verb") != std::string::npos ||
                            std::regex_search(problem, for_example);
    EXPECT_TRUE(problem.empty() || incomplete) << where << " says: " << text << "\n" << problem;
    ++*checked;
  }
}

TEST(CommandLine, EveryCommandInTheDocumentationParses) {
  size_t blocks = 0, mentions = 0;
  for (const auto& path : Documents()) {
    const std::string where = path.filename().string();
    bool fenced = false;
    std::string block, prose;
    for (const absl::string_view line : absl::StrSplit(ReadFile(path), '\n')) {
      if (absl::StartsWith(absl::StripLeadingAsciiWhitespace(line), "```")) {
        fenced = !fenced;
        for (const Words& command : CommandsIn(block)) {
          if (IsPattern(Line(command))) continue;
          EXPECT_EQ(Problem(command), "") << where << " shows: " << Line(command);
          ++blocks;
        }
        block.clear();
        continue;
      }
      absl::StrAppend(fenced ? &block : &prose, line, "\n");
    }
    static const std::regex code("`([^`\n]+)`");
    for (std::sregex_iterator it(prose.begin(), prose.end(), code), end; it != end; ++it) {
      CheckMention((*it)[1], where, &mentions);
    }
  }
  EXPECT_GT(blocks, 10U);
  EXPECT_GT(mentions, 20U);
}

// A default that a variable holds stands in the help, either as CLI11 shows it or in words.
TEST(CommandLine, EveryDefaultStandsInHelp) {
  size_t defaults = 0;
  ForEachApp([&](CLI::App& app) {
    for (CLI::Option* option : app.get_options()) {
      if (option->get_required() || option->get_items_expected_max() == 0) continue;
      const std::string name = absl::StrCat(FullName(app), " ", option->get_name());
      const bool in_words = option->get_description().find("default") != std::string::npos;
      const std::string shown = option->get_default_str();
      option->capture_default_str();
      const std::string held = option->get_default_str();
      option->default_str(shown);
      if (held.empty() || held == "[]" || held == "{}") continue;
      EXPECT_TRUE(in_words || shown == held) << name << " is " << held << " unless given";
      EXPECT_FALSE(in_words && !shown.empty()) << name << " shows its default twice";
      ++defaults;
    }
    // "--no-wait{false}" shows how a flag is stored and nothing that anybody may write.
    EXPECT_THAT(HelpOf(app), Not(HasSubstr("{false}"))) << FullName(app);
  });
  EXPECT_GT(defaults, 20U);
}

TEST(CommandLine, EveryWrongOptionIsNamedAndTheRightOneSuggested) {
  size_t tried = 0;
  ForEachApp([&](CLI::App& app) {
    for (const CLI::Option* option : app.get_options()) {
      for (const std::string& name : option->get_lnames()) {
        if (name.size() < 4) continue;
        const std::string wrong = "--" + name.substr(0, 2) + name.substr(3);
        Words words = absl::StrSplit(FullName(app), ' ');
        words.push_back(wrong);
        const std::string said = Problem(words);
        if (said.empty()) continue;  // another option begins so
        EXPECT_THAT(said, StartsWith("error: "));
        EXPECT_THAT(said, HasSubstr(absl::StrCat("no option '", wrong, "'; did you mean '--")));
        EXPECT_THAT(said, HasSubstr(absl::StrCat("`", FullName(app), " --help`")));
        ++tried;
      }
    }
  });
  EXPECT_GT(tried, 150U);
}

TEST(CommandLine, EveryWrongVerbIsNamedAndTheVerbsListed) {
  ForEachApp([&](CLI::App& app) {
    const auto verbs = app.get_subcommands([](CLI::App*) { return true; });
    for (const CLI::App* verb : verbs) {
      const std::string& name = verb->get_name();
      if (name.size() < 3) continue;
      Words words = absl::StrSplit(FullName(app), ' ');
      words.push_back(name.substr(0, name.size() - 2) + name.back());
      const std::string said = Problem(words);
      EXPECT_THAT(said, StartsWith(absl::StrCat("error: ", FullName(app), " has no verb '",
                                                words.back(), "'; did you mean `")))
          << Line(words);
      for (const CLI::App* each : verbs) {
        EXPECT_THAT(said, HasSubstr(absl::StrCat("\n  ", each->get_name(), " ")));
        EXPECT_THAT(said, HasSubstr(each->get_description()));
      }
    }
    if (verbs.empty()) return;
    const std::string alone = Problem(absl::StrSplit(FullName(app), ' '));
    EXPECT_THAT(alone, StartsWith(absl::StrCat("error: ", FullName(app), " needs a verb")));
    EXPECT_THAT(alone, HasSubstr(absl::StrCat("\n  ", verbs.front()->get_name(), " ")));
  });
  EXPECT_THAT(cli::ParseOnly({"lst"}), StartsWith("error: lanyard has no verb 'lst'; did you mean "
                                                  "`lanyard list`?\n"));
  EXPECT_THAT(cli::ParseOnly({"node", "lst"}), HasSubstr("`lanyard node list`?\n"));
  EXPECT_THAT(cli::ParseOnly({"frobnicate"}),
              StartsWith("error: lanyard has no verb 'frobnicate'\n"));
  EXPECT_THAT(cli::ParseOnly({"--url", "http://h", "list"}),
              HasSubstr("the options of a verb stand after the verb"));
  EXPECT_THAT(cli::ParseOnly({"list", "x"}), HasSubstr("no use for the argument 'x'"));
}

// Habits from other programs lead to commands that are there.
TEST(CommandLine, WordsOfOtherProgramsLeadToVerbs) {
  for (const char* word : {"chat", "serve", "pull", "rm", "show", "logs", "models", "status", "top",
                           "nodes", "down", "get", "describe", "login", "drain"}) {
    const std::string said = cli::ParseOnly({word});
    const std::string first = said.substr(0, said.find('\n'));
    EXPECT_THAT(first,
                StartsWith(absl::StrCat("error: lanyard has no verb '", word, "'; you may ")));
    static const std::regex code("`(lanyard [^`]+)`");
    size_t checked = 0;
    for (std::sregex_iterator it(first.begin(), first.end(), code), end; it != end; ++it) {
      CheckMention((*it)[1], word, &checked);
    }
    EXPECT_TRUE(checked > 0 || std::string(word) == "logs");
  }
  for (const char* word : {"ls", "ps", "version", "help"}) EXPECT_EQ(cli::ParseOnly({word}), "");
}

TEST(CommandLine, UsageErrorsEndWithTwoInEveryProgram) {
  Daemons daemons;
  const auto cli = cli::MakeCommands();
  for (CLI::App* app : {cli.get(), daemons.coordinator.get(), daemons.worker.get()}) {
    for (const Words& words :
         std::vector<Words>{{"--nonsense"}, {"nonsense"}, {"--log-json", "x"}}) {
      std::vector<const char*> argv = {app->get_name().c_str()};
      for (const std::string& word : words) argv.push_back(word.c_str());
      ::testing::internal::CaptureStderr();
      const auto code = ParseCommandLine(*app, static_cast<int>(argv.size()), argv.data());
      const std::string said = ::testing::internal::GetCapturedStderr();
      ASSERT_TRUE(code.has_value()) << app->get_name() << " " << Line(words);
      EXPECT_EQ(*code, kUsage) << said;
      EXPECT_THAT(said, StartsWith("error: "));
      EXPECT_THAT(said, EndsWith("\n"));
    }
  }
  for (const Words& words :
       std::vector<Words>{{"lanyard-worker", "--memory", "much"},
                          {"lanyard-worker", "--cache-limit", "x"},
                          {"lanyard-worker", "--isa", "mmx"},
                          {"lanyard-worker", "--network", "home"},
                          {"lanyard-worker", "--name", "a b"},
                          {"lanyard-worker", "--log-level", "loud"},
                          {"lanyard-coordinator", "--users", "0"},
                          {"lanyard-coordinator", "--log-level", "loud"},
                          {"lanyard-coordinator"},
                          {"lanyard", "load", "--users", "0"},
                          {"lanyard", "key", "create", "x", "--ttl", "soon"},
                          {"lanyard", "token", "create", "--role", "coordinator"},
                          {"lanyard", "token", "create", "--uses", "0"},
                          {"lanyard", "token", "create", "--ttl", "365d"},
                          {"lanyard", "list", "--url", "ftp://x"},
                          {"lanyard", "list", "--url", "http://127.0.0.1:84535"},
                          {"lanyard", "list", "--cert", "c.pem"},
                          {"lanyard", "list", "--key", "k.pem"},
                          {"lanyard", "up", "--model", "m", "--http-origin", "foo"},
                          {"lanyard", "up", "--model", "m", "--http-name", "a b"},
                          {"lanyard", "up", "--model", "m", "--http-cert", "c.pem"}}) {
    EXPECT_THAT(Problem(words), StartsWith("error: ")) << Line(words);
    EXPECT_THAT(Problem(words), HasSubstr(" --help`")) << Line(words);
  }
}

// What ParseWords says of `value` for the option, all else that the app needs apart; empty:
// nothing.
std::string Refusal(const std::function<CLI::App*(CLI::App&)>& find, CLI::App& root,
                    const std::string& option, const std::string& value) {
  ForEachApp(root, [](CLI::App& app) {
    for (CLI::Option* each : app.get_options()) each->required(false);
  });
  const CLI::App* const app = find(root);
  Words words = absl::StrSplit(FullName(*app), ' ');
  if (absl::StartsWith(option, "-")) words.push_back(option);
  words.push_back(value);
  std::vector<const char*> argv;
  for (const std::string& word : words) argv.push_back(word.c_str());
  try {
    ParseWords(root, static_cast<int>(argv.size()), argv.data());
  } catch (const CLI::ParseError& error) {
    return UsageError(root, error, {});
  }
  return "";
}

// Nothing that is given but empty counts as not given, and nothing comes in that no JSON can hold.
TEST(CommandLine, NoOptionTakesNothingOrWhatIsNoUtf8) {
  size_t tried = 0;
  std::vector<std::string> any_bytes, empty;
  ForEachApp([&](CLI::App& app) {
    const std::string name = FullName(app);
    const auto find = [&](CLI::App& root) {
      CLI::App* found = nullptr;
      ForEachApp(root, [&](CLI::App& each) {
        if (FullName(each) == name) found = &each;
      });
      return found;
    };
    for (const CLI::Option* option : app.get_options()) {
      if (option->get_items_expected_max() == 0) continue;  // a flag
      for (const std::string& value : {std::string(), std::string("s\xff")}) {
        Daemons daemons;
        const auto cli = cli::MakeCommands();
        CLI::App& root = absl::StartsWith(name, "lanyard-worker")        ? *daemons.worker
                         : absl::StartsWith(name, "lanyard-coordinator") ? *daemons.coordinator
                                                                         : *cli;
        const std::string said = Refusal(find, root, option->get_name(), value);
        if (said.empty()) (value.empty() ? empty : any_bytes).push_back(option->get_name());
        EXPECT_TRUE(said.empty() || absl::StartsWith(said, "error: ")) << name << ": " << said;
        ++tried;
      }
    }
  });
  EXPECT_GT(tried, 300U);
  // Texts for a model. A QUESTION is the second word that `run` takes, so it is not reached here.
  EXPECT_THAT(any_bytes, ::testing::UnorderedElementsAre("--prompt", "--system"));
  EXPECT_THAT(empty, ::testing::UnorderedElementsAre("--system"));
  EXPECT_EQ(cli::ParseOnly({"run", "model", "wh\xff"}), "");
  EXPECT_THAT(cli::ParseOnly({"stop", "--pool", ""}),
              StartsWith("error: --pool: its value is empty; give it one, or leave it out\n"));
  EXPECT_THAT(cli::ParseOnly({"up", "--model", "m", "--state", "s/\xff"}),
              StartsWith("error: --state: byte 3 of it (0xff) is no UTF-8"));
}

// The lines of the example between `begin` and the next line that is none of it.
std::string ExampleAfter(const std::string& text, const std::string& begin) {
  const size_t at = text.find(begin);
  std::string out;
  if (at == std::string::npos) return out;
  for (const absl::string_view line : absl::StrSplit(text.substr(at + begin.size()), '\n')) {
    if (line == "```" || (line.empty() && begin.find("```") == std::string::npos)) break;
    absl::StrAppend(&out, line, "\n");
  }
  return out;
}

TEST(CommandLine, TheExamplesOfMachinesCanBePasted) {
  const std::string help = HelpOf(*cli::MakeCommands()->get_subcommand("plan"));
  const std::string docs = ReadFile(LANYARD_SOURCE_DIR "/docs/cli.md");
  for (const std::string& example : {ExampleAfter(help, "machines.toml:\n"),
                                     ExampleAfter(docs, "## machines.toml\n```toml\n")}) {
    const auto file = sharding::ParseMachinesToml(example);
    ASSERT_TRUE(file.ok()) << file.status() << "\n" << example;
    EXPECT_EQ(file->machines.size(), 2U);
    EXPECT_EQ(file->machines[0].devices.size(), 1U);
    EXPECT_EQ(file->links.size(), 1U);
  }
}

TEST(CommandLine, ExitCodesAreOneTable) {
  const std::string listed = ExitCodesText();
  for (int code = 0; code <= 16; ++code) {
    const std::string entry =
        absl::StrCat(static_cast<int>(ExitCodeOf(static_cast<absl::StatusCode>(code))), " ");
    EXPECT_THAT(", " + listed, HasSubstr(", " + entry)) << "status " << code;
  }
  EXPECT_THAT(cli::MakeCommands()->help(), HasSubstr(listed));
  for (const char* name : {"/README.md", "/docs/cli.md"}) {
    const std::string text = std::regex_replace(ReadFile(std::string(LANYARD_SOURCE_DIR) + name),
                                                std::regex("\\s+"), " ");
    EXPECT_THAT(text, HasSubstr(listed)) << name;
  }
}

}  // namespace
}  // namespace lanyard
