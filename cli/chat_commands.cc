#include "cli/chat_commands.h"

#include <array>
#include <vector>

#include "absl/strings/ascii.h"
#include "absl/strings/match.h"
#include "base/nearest.h"
#include "cli/chat_file.h"
#include "cli/text.h"

namespace lanyard::cli {
namespace {

constexpr std::string_view kQuotes = "\"\"\"";

size_t CountQuotes(std::string_view text) {
  size_t count = 0;
  for (size_t at = text.find(kQuotes); at != text.npos; at = text.find(kQuotes, at + 3)) ++count;
  return count;
}

bool StartsOrEndsWithQuotes(std::string_view text) {
  const std::string trimmed = Trim(text);
  return absl::StartsWith(trimmed, AbslView(kQuotes)) || absl::EndsWith(trimmed, AbslView(kQuotes));
}

std::string Message(const absl::Status& status) { return Str(status.message()) + "\n"; }

std::string Set(ChatSession& session, const std::string& argument) {
  ChatSettings& settings = session.chat->settings();
  if (argument.empty())
    return SettingsText(settings, /*ranges=*/true) + "Change one with: /set NAME VALUE\n";
  const size_t space = argument.find_first_of(" \t");
  const std::string name = argument.substr(0, space);
  const std::string value = space == argument.npos ? "" : Trim(argument.substr(space));
  const absl::StatusOr<const Setting*> setting = FindSetting(name);
  if (!setting.ok()) return Message(setting.status());
  if (value.empty()) {
    return absl::StrCat(SettingText(settings, **setting), "  (", (*setting)->values, ")\n");
  }
  const absl::Status set = SetSetting(settings, name, value);
  return set.ok() ? SettingText(settings, **setting) + "\n" : Message(set);
}

std::string Show(ChatSession& session, const std::string&) {
  const Chat& chat = *session.chat;
  return absl::StrCat("model        ", chat.model(), "\nurl          ", chat.url(), "\n",
                      SettingsText(chat.settings(), /*ranges=*/false), "questions    ",
                      chat.questions(), "\nfile         ",
                      session.file.empty() ? "not saved" : session.file, "\n");
}

std::string Save(ChatSession& session, const std::string& argument) {
  return SaveChat(*session.chat, argument, &session.file);
}

std::string Load(ChatSession& session, const std::string& argument) {
  return LoadChat(*session.chat, argument, &session.file);
}

std::string Clear(ChatSession& session, const std::string&) {
  session.chat->Clear();
  session.file.clear();
  return "The conversation is forgotten.\n";
}

std::string Help(ChatSession&, const std::string&) { return ChatHelp(); }

std::string Leave(ChatSession& session, const std::string&) {
  session.leave = true;
  return "";
}

struct Command {
  const char* name;
  std::vector<const char*> other_names;
  const char* argument;  // nullptr: it takes none
  const char* help;
  std::string (*run)(ChatSession& session, const std::string& argument);
};

const std::vector<Command>& Commands() {
  static const std::vector<Command> kCommands = {
      {"/set",
       {},
       "NAME VALUE",
       "changes a setting; alone it lists them and what they may be",
       Set},
      {"/show", {}, nullptr, "the model, the settings and the file of this chat", Show},
      {"/save",
       {},
       "NAME or FILE",
       "writes the chat; --replace before it overwrites another",
       Save},
      {"/load", {}, "NAME or FILE", "reads a chat and goes on with it; alone it lists them", Load},
      {"/clear", {}, nullptr, "forgets the conversation", Clear},
      {"/help", {"/?"}, nullptr, "this list", Help},
      {"/bye", {"/exit", "/quit"}, nullptr, "leaves (so does Ctrl-D)", Leave},
  };
  return kCommands;
}

const Command* FindCommand(const std::string& word) {
  for (const Command& command : Commands()) {
    if (word == command.name) return &command;
    for (const char* other : command.other_names) {
      if (word == other) return &command;
    }
  }
  return nullptr;
}

std::string NearestCommand(const std::string& word) {
  std::vector<std::string> names;
  for (const Command& command : Commands()) {
    names.emplace_back(command.name);
    names.insert(names.end(), command.other_names.begin(), command.other_names.end());
  }
  return Nearest(absl::AsciiStrToLower(word), names);
}

// A line whose first word starts with '/' and holds no second one: "/etc/hosts" and "// why" are
// text.
bool IsCommand(const std::string& line, const std::string& word) {
  if (line.front() != '/') return false;
  const size_t second = word.find('/', 1);
  return second == word.npos || FindCommand(word.substr(0, second)) != nullptr;
}

std::string RunCommand(ChatSession& session, const std::string& word, const std::string& argument) {
  const Command* command = FindCommand(word);
  if (command == nullptr) {
    return absl::StrCat("There is no command ", word, "; did you mean ", NearestCommand(word),
                        "? /help lists them all. A space before the / sends the line as text.\n");
  }
  if (command->argument == nullptr && !argument.empty()) {
    return absl::StrCat(word, " stands alone, without '", argument,
                        "'. A space before the / sends the line as text.\n");
  }
  return command->run(session, argument);
}

}  // namespace

bool NeedsMoreLines(std::string_view text) {
  return CountQuotes(text) % 2 == 1 && StartsOrEndsWithQuotes(text.substr(0, text.find('\n')));
}

LineResult HandleLine(ChatSession& session, const std::string& text) {
  const std::string trimmed = Trim(text);
  if (trimmed.empty()) return {};
  // A text that is quoted as a whole is sent without its quotes; with words before or after them
  // they stay, so that the model sees what is the text and what is said about it.
  if (trimmed.size() >= 2 * kQuotes.size() && CountQuotes(trimmed) == 2 &&
      absl::StartsWith(trimmed, AbslView(kQuotes)) && absl::EndsWith(trimmed, AbslView(kQuotes))) {
    std::string inner = trimmed.substr(3, trimmed.size() - 6);
    if (Trim(inner).empty()) return {};
    if (inner.front() == '\n') inner.erase(0, 1);
    if (inner.back() == '\n') inner.pop_back();
    return {.print = "", .question = inner};
  }
  if (text.find('\n') != text.npos) return {.print = "", .question = text};
  const std::string word = trimmed.substr(0, trimmed.find_first_of(" \t"));
  if (text.front() != '/' && trimmed.front() == '/') return {.print = "", .question = trimmed};
  if (!IsCommand(text, word)) return {.print = "", .question = text};
  if (word.find('/', 1) != word.npos) {
    return {.print = absl::StrCat("Put a space after ", word.substr(0, word.find('/', 1)),
                                  ", or before the / to send the line as text.\n"),
            .question = ""};
  }
  return {.print = RunCommand(session, word, Trim(trimmed.substr(word.size()))), .question = ""};
}

std::string ChatHelp() {
  std::string out;
  const auto line = [&out](const std::string& left, const char* right) {
    absl::StrAppend(&out, absl::StrFormat("  %-20s  %s\n", left, right));
  };
  for (const Command& command : Commands()) {
    std::string left = command.name;
    for (const char* other : command.other_names) absl::StrAppend(&left, ", ", other);
    if (command.argument != nullptr) absl::StrAppend(&left, " ", command.argument);
    line(left, command.help);
  }
  line("\"\"\"", "at the start or the end of a line opens a text of several lines, until the next");
  line("paste", "several lines that are pasted are one question; Enter sends it");
  line("Alt-Enter", "starts a new line without sending");
  line("/etc/hosts, // why", "a second / in the first word makes it text, and so does a space");
  line("", "before the first /");
  line("Ctrl-C", "ends the answer, or drops what is being typed");
  return out;
}

}  // namespace lanyard::cli
