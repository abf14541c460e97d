#include "cli/chat_file.h"

#include <algorithm>
#include <filesystem>
#include <vector>

#include "absl/strings/ascii.h"
#include "absl/strings/match.h"
#include "base/environment.h"
#include "base/file.h"
#include "base/nearest.h"
#include "cli/text.h"

namespace lanyard::cli {
namespace {

namespace fs = std::filesystem;

constexpr char kSuffix[] = ".json";
constexpr size_t kMaxBytes = size_t{64} << 20;

std::string Folder() { return StateHome() + "/chats"; }

std::string Unquoted(const std::string& name) {
  const bool quoted = name.size() > 2 && name.front() == name.back() &&
                      (name.front() == '"' || name.front() == '\'');
  return quoted ? name.substr(1, name.size() - 2) : name;
}

// "notes.txt" has an ending; "v1.2" and "gpt vs. llama" have none.
bool HasEnding(const std::string& name) {
  const size_t dot = name.rfind('.');
  if (dot == name.npos || dot == 0) return false;
  const std::string ending = name.substr(dot + 1);
  return !ending.empty() && ending.size() <= 5 && absl::ascii_isalpha(ending.front()) &&
         std::all_of(ending.begin(), ending.end(), absl::ascii_isalnum);
}

std::string Questions(size_t count) {
  return absl::StrCat(count, count == 1 ? " question" : " questions");
}

std::vector<std::string> SavedNames() {
  std::vector<std::string> out;
  std::error_code ec;
  for (const auto& entry : fs::directory_iterator(Folder(), ec)) {
    if (entry.path().extension() == kSuffix) out.push_back(entry.path().stem().string());
  }
  std::sort(out.begin(), out.end());
  return out;
}

std::string SavedText() {
  const std::vector<std::string> names = SavedNames();
  if (names.empty()) return absl::StrCat("No chat is saved in ", Folder(), ".\n");
  std::string out = "Saved chats:\n";
  for (const std::string& name : names)
    absl::StrAppend(&out, "  ", Printable(name, Keep::kNothing), "\n");
  return out;
}

std::string NoSuchChat(const std::string& name, const std::string& path) {
  const std::vector<std::string> names = SavedNames();
  const std::string nearest = Nearest(name, names);
  const bool close = !nearest.empty() && EditDistance(name, nearest) <= (name.size() + 2) / 3;
  return absl::StrCat("There is no ", path, close ? "; did you mean " + nearest + "?" : ".",
                      " /load alone lists the saved chats.\n");
}

}  // namespace

std::string ChatPath(const std::string& argument) {
  const std::string name = Unquoted(argument);
  if (const std::string home = EnvironmentOr("HOME", "");
      absl::StartsWith(name, "~/") && !home.empty()) {
    return home + name.substr(1);
  }
  if (name.find('/') != name.npos || HasEnding(name)) return name;
  return Folder() + "/" + name + kSuffix;
}

std::string SaveChat(const Chat& chat, const std::string& argument, std::string* file) {
  constexpr std::string_view kReplace = "--replace";
  const bool replace = argument == kReplace || absl::StartsWith(argument, "--replace ");
  const std::string name = replace ? Trim(argument.substr(kReplace.size())) : argument;
  if (chat.questions() == 0) return "There is nothing to save yet: no question was answered.\n";
  if (name.empty() && file->empty())
    return "Say under which name: /save NAME, or /save FILE (for a path, or an ending as .json).\n";
  std::string path = name.empty() ? *file : ChatPath(name);
  std::error_code ec;
  if (fs::is_directory(path, ec)) return absl::StrCat(path, " is a folder; name a file in it.\n");
  if (path != *file && !replace && fs::exists(fs::symlink_status(path, ec))) {
    return absl::StrCat(path, " exists already; choose another name, or overwrite it with: ",
                        "/save --replace ", name, "\n");
  }
  const std::string named = path;
  // The file that a link leads to is written, and the link stays.
  if (fs::is_symlink(fs::symlink_status(path, ec))) {
    path = fs::canonical(path, ec).string();
    if (ec) return absl::StrCat(named, " is a link that leads to no file; name another\n");
  }
  if (path.rfind(Folder() + "/", 0) == 0) {
    if (!MakePrivateDir(Folder()).ok())
      return absl::StrCat("cannot make the folder ", Folder(), "; name a file: /save FILE\n");
  }
  if (const absl::Status written = WriteSmallFile(path, chat.ToFile()); !written.ok())
    return Str(written.message()) + "; the chat is not saved.\n";
  *file = named;
  return absl::StrCat("Saved ", Questions(chat.questions()), " in ", named, "\n");
}

std::string LoadChat(Chat& chat, const std::string& argument, std::string* file) {
  if (argument.empty()) return SavedText();
  const std::string path = ChatPath(argument);
  std::error_code ec;
  if (!fs::exists(path, ec) && !ec) return NoSuchChat(Unquoted(argument), path);
  // Whatever waits for a writer, as a pipe does, would wait for ever.
  if (!fs::is_regular_file(path, ec)) return absl::StrCat(path, " is not a file.\n");
  const absl::StatusOr<std::string> text = ReadSmallFile(path, kMaxBytes);
  if (!text.ok()) return Str(text.status().message()) + "\n";
  const size_t before = file->empty() ? chat.questions() : 0;
  std::string model;
  if (const absl::Status loaded = chat.FromFile(*text, &model); !loaded.ok())
    return absl::StrCat("Cannot load ", path, ": ", loaded.message(), "\n");
  *file = path;
  std::string out = absl::StrCat("Loaded ", Questions(chat.questions()), " from ", path, "\n");
  if (!model.empty() && model != chat.model()) {
    absl::StrAppend(&out, "It was held with ", Printable(model, Keep::kNothing), "; ", chat.model(),
                    " answers now.\n");
  }
  if (before > 0)
    absl::StrAppend(&out, "The chat before it (", Questions(before), ") was not saved.\n");
  return out;
}

}  // namespace lanyard::cli
